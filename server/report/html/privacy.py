"""The section that a privacy officer reads: promised, spent, left, and what epsilon means."""

from collections.abc import Sequence
from typing import Any

from common.page.document import Block, Chart, Charts, Heading, Items, Paragraph, Section, Table
from common.page.rows import Bar, bar_chart
from common.privacy.meaning import A_LIMIT, HOW_STRONG, meaning_of
from server.report.privacy import cost_of, left_of, released

_MOST_BARS = 40


def privacy(results: dict[str, Any]) -> Section:
    """What was promised to whom, what it cost, and what is not protected."""
    mode = results["privacy"]["mode"]
    blocks = {"patient": _of_patients, "site": _of_sites, "none": _none}[mode](results)
    return Section(key="privacy", title="Privacy", blocks=blocks)


def _none(_: dict[str, Any]) -> list[Block]:
    return [
        Paragraph(
            look="warn",
            text=(
                "This run promises no differential privacy (mode “none”). Hospitals sent exact "
                "updates, counts and sums over their patients. They sent no patient's record, but "
                "no mathematical bound says how much can be learned of one patient from what they "
                "sent, or from the model."
            ),
        )
    ]


def _of_patients(results: dict[str, Any]) -> list[Block]:
    promised = results["privacy"]
    epsilon, delta = promised["epsilon"], promised["delta"]
    asked = "with the noise that the study fixes" if epsilon is None else f"at most {epsilon:g}"
    blocks: list[Block] = [
        Paragraph(
            text=(
                f"Promised: every {promised['unit']} of every hospital, with all of their records, "
                "is protected from the coordinator and from everyone else by differential privacy: "
                f"epsilon {asked} at delta {delta:g}, for all that this run releases. Adjacency: "
                f"{promised['adjacency']}. A hospital's own policy may allow less, never more."
            )
        ),
        *_spent(results),
        *_meaning(results),
        Heading(text="Released, and not protected"),
        Items(
            items=[
                f"Released: {released(results)}.",
                "Not protected: which hospitals took part, and which granularities and outcomes "
                "they have; the public number of patients by which the study weights them; how "
                "many bytes they sent, and when.",
                "What is true of people like a patient, whether or not the patient took part, can "
                "still be learned: that is what the study is for.",
            ]
        ),
    ]
    if any(entry["oracle"] for entry in results["rounds"]):
        text = (
            "The oracle's numbers in this report are exact and outside of this promise: they exist "
            "because this is a simulation on one machine."
        )
        blocks.append(Paragraph(text=text, look="note"))
    return blocks


def _spent(results: dict[str, Any]) -> list[Block]:
    promised = results["privacy"]
    limit, sites = promised["epsilon"], sorted(promised["sites"].items())
    if not sites:
        return [Paragraph(text="No hospital has enrolled yet, so nothing is spent.")]
    rows = [
        [
            site,
            cost_of(cost["epsilon"]),
            left_of(limit, cost["epsilon"]),
            "–" if cost["delta"] is None else f"{cost['delta']:g}",
        ]
        for site, cost in sites
    ]
    blocks: list[Block] = [
        Table(
            caption="Epsilon of this run, by each hospital's own ledger",
            head=("hospital", "spent", "left of the study's epsilon", "delta"),
            rows=rows,
            note=(
                "Told with each hospital's last evaluation (–: not told). What is left over all "
                "runs and studies is known to each hospital alone: “wardround ledger SITE_DIR”. A "
                "patient in several hospitals, or in several runs, pays for each."
            ),
        )
    ]
    spent = [(site, cost["epsilon"]) for site, cost in sites if cost["epsilon"] is not None]
    if limit is not None and 0 < len(spent) <= _MOST_BARS:
        blocks.append(Charts(charts=[_spent_chart(spent, limit)]))
    return blocks


def _spent_chart(spent: Sequence[tuple[str, float]], limit: float) -> Chart:
    """A bar for each hospital: how much of the study's epsilon it has spent."""
    most = max(value for _, value in spent)
    title = f"Spent of epsilon {limit:g}, by hospital"
    return bar_chart(
        title,
        bars=[
            Bar(name=site, part=value / limit, text=f"{cost_of(value)} of {limit:g}")
            for site, value in spent
        ],
        description=f"Of epsilon {limit:g}, hospitals have spent at most {cost_of(most)}.",
        table=Table(
            caption=title,
            head=("hospital", "spent", "left"),
            rows=[(site, cost_of(value), left_of(limit, value)) for site, value in spent],
        ),
    )


def _meaning(results: dict[str, Any]) -> list[Block]:
    told = [c["epsilon"] for c in results["privacy"]["sites"].values() if c["epsilon"] is not None]
    limit = results["privacy"]["epsilon"]
    epsilon = max(told, default=limit)
    if epsilon is None:
        return []
    delta = results["privacy"]["delta"]
    attacked = (
        "and this run was not attacked to find out"
        if results["audit"] is None
        else "which stands under “Audited”"
    )
    text = (
        f"{meaning_of(epsilon, delta, shown=cost_of(epsilon))} {A_LIMIT}, {attacked}. {HOW_STRONG}"
    )
    return [Heading(text="What epsilon means"), Paragraph(text=text)]


def _of_sites(results: dict[str, Any]) -> list[Block]:
    promised = results["privacy"]
    spent = "No round has been aggregated yet."
    if promised["epsilon"] is not None:
        spent = (
            f"After the last round that is epsilon {cost_of(promised['epsilon'])} at delta "
            f"{promised['delta']:g}, with noise multiplier {promised['noise_multiplier']:.4g}."
        )
    return [
        Paragraph(
            text=(
                "Promised: whether a hospital took part in the training is hidden in the model. "
                f"{spent} The unit is the {promised['unit']}; adjacency: {promised['adjacency']}. "
                "The coordinator adds the noise, and is trusted."
            )
        ),
        Paragraph(
            look="warn",
            text=(
                "No patient is protected from the coordinator, to whom hospitals sent exact "
                "updates, counts and sums over their patients; this report shows some of them. "
                "None of the noise is credited to a patient."
            ),
        ),
    ]
