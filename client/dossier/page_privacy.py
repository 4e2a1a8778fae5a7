"""The parts of the page that tell what it cost in privacy, and what was refused."""

from collections.abc import Mapping
from typing import Any

from client.dossier.page_runs import PROTECTIONS, name_of
from client.dossier.runs import Protection
from client.dossier.words import reason_of
from client.ledger.view import epsilon_text
from client.plain_text import plain
from common.page.document import Block, Charts, Paragraph, Section, Table
from common.page.rows import Bar, bar_chart
from common.page.words import several

_MOST_BARS = 40


def cost(dossier: Mapping[str, Any]) -> Section:
    """What was spent of these patients' privacy, on what, and what is left."""
    privacy = dossier["privacy"]
    if privacy is None:
        text = (
            "There is no ledger: no study that protects patients ran in this simulation, and "
            "nothing was charged."
        )
        blocks: list[Block] = [Paragraph(text=text)]
    else:
        blocks = [Paragraph(text=_spent(privacy)), *_notes(dossier, privacy)]
        if dossier["runs"]:
            blocks.append(_by_run(dossier))
        blocks += _chart(dossier, privacy)
    return Section(key="cost", title="What it cost in privacy", blocks=blocks)


def refused(dossier: Mapping[str, Any]) -> Section:
    """Which codes left in place of an answer, how often, and what they mean."""
    refusals = dossier["left"]["refusals"]
    if not refusals:
        blocks: list[Block] = [Paragraph(text="Nothing was refused.")]
    else:
        rows = [(plain(code), f"{count:,}", reason_of(code)) for code, count in refusals.items()]
        blocks = [
            Table(
                caption="Tasks that this hospital refused",
                head=("code that was sent", "times", "because"),
                rows=rows,
                is_words=True,
                note="A refusal is one word of a closed list. Nothing else leaves with it.",
            )
        ]
    return Section(key="refused", title="What was refused, and why", blocks=blocks)


def _spent(privacy: Mapping[str, Any]) -> str:
    delta = f"{privacy['delta']:g}"
    if privacy["is_at_least"]:
        return (
            "The ledger is not whole, so that what was spent is not known; nothing more must be "
            "spent on these patients."
        )
    if privacy["epsilon"] is None:
        return (
            "What all runs together have told of a patient has no bound: something was released "
            f"without any mechanism, since {plain(privacy['no_bound_since'])[:16]}, in "
            f"{several(privacy['runs_without_privacy'], 'run')}."
        )
    text = (
        f"All runs and studies together have cost epsilon {epsilon_text(privacy['epsilon'])} at "
        f"delta {delta}, computed anew from the ledger's whole history. Adjacency: add or remove "
        "one patient, with all of their records."
    )
    if privacy["left"] is None:
        return f"{text} The policy has no budget."
    allowed, rest = epsilon_text(privacy["budget"]), _rounded_down(privacy["left"])
    return f"{text} The policy allows {allowed}; {rest} is left."


def _rounded_down(epsilon: float) -> str:
    """What is left, for people: rounding promises no more than there is.

    >>> _rounded_down(2.99979), _rounded_down(0.0)
    ('2.999', '0.000')
    """
    return f"{(epsilon * 1000 + 1e-9) // 1 / 1000:.3f}"


def _notes(dossier: Mapping[str, Any], privacy: Mapping[str, Any]) -> list[Block]:
    notes = []
    if dossier["is_simulation"]:
        notes.append("A simulation's noise can be repeated from its seed, so it protects nobody.")
    if count := privacy["reserved_and_never_released"]:
        notes.append(
            f"{several(count, 'reservation')} counted as spent, although nothing was released."
        )
    if count := len(privacy["data_changes"]):
        notes.append(f"The data changed {several(count, 'time')}; what was spent carries over.")
    return [Paragraph(text=" ".join(notes), look="note")] if notes else []


def _by_run(dossier: Mapping[str, Any]) -> Table:
    return Table(
        caption="By run",
        head=("run", "epsilon of it alone", "privacy of", "what was charged"),
        rows=[
            (
                name_of(run),
                _epsilon(run["privacy"]),
                PROTECTIONS[Protection(run["privacy"]["protection"])],
                "; ".join(_event(e) for e in run["privacy"].get("events", [])) or "–",
            )
            for run in dossier["runs"]
        ],
        is_words=True,
        note="Epsilons do not add up: a run costs less after another one than it does alone.",
    )


def _epsilon(privacy: Mapping[str, Any]) -> str:
    if privacy["protection"] == Protection.NONE:
        return "unbounded"
    return epsilon_text(privacy["epsilon"]) if "epsilon" in privacy else "–"


def _event(event: Mapping[str, Any]) -> str:
    noise, rate = event["noise_multiplier"], event["sample_rate"]
    part = {"train": "training", "test": "held-out"}.get(event["part"], "all")
    return f"{event['count']:,} × noise {noise:.4g} on a sum over {rate:.3g} of {part} patients"


def _chart(dossier: Mapping[str, Any], privacy: Mapping[str, Any]) -> list[Block]:
    budget, spent = privacy["budget"], privacy["epsilon"]
    if budget is None or spent is None or privacy["is_at_least"]:
        return []
    told = [
        (name_of(run), run["privacy"]["epsilon"])
        for run in dossier["runs"]
        if run["privacy"]["protection"] == Protection.PATIENT
    ]
    told = [*(told if len(told) < _MOST_BARS else []), ("all together", spent)]
    title = f"Spent of the policy's epsilon {epsilon_text(budget)}"
    texts = [(name, epsilon_text(epsilon)) for name, epsilon in told]
    chart = bar_chart(
        title,
        bars=[Bar(name=name, part=e / budget, text=epsilon_text(e)) for name, e in told],
        description=f"All runs together have spent epsilon {texts[-1][1]} of what is allowed.",
        table=Table(caption=title, head=("run", "epsilon"), rows=texts),
    )
    return [Charts(charts=[chart])]
