"""The section that says what attacks on the run reached, each with what it cannot show."""

from collections.abc import Mapping
from math import inf
from typing import Any

from common.page.document import Block, Charts, Heading, Items, Paragraph, Section, Table
from common.page.rows import Bar, bar_chart
from common.page.words import several

_VERDICTS = {
    "held": (
        "",
        "No attack refutes what this run claims. That is what attacks of today reached on this "
        "study, and no proof: the promise stands under “Privacy”.",
    ),
    "broken": (
        "warn",
        "Refuted: an audit proves, at a confidence of {confidence}, that epsilon is higher than "
        "this run claims. Something is wrong with noise, clip, sample rate or accounting. Do not "
        "release this model.",
    ),
    "unclear": (
        "warn",
        "Not vouched for: the noise of this training is not normal, as its accounting assumes. Do "
        "not release this model before it is known why.",
    ),
    "no claim": (
        "warn",
        "This run claims no privacy, so that there is nothing to refute. The table shows what "
        "attackers can reach against such a model.",
    ),
}


def audited(results: dict[str, Any]) -> Section:
    """What the newest audit found; nothing where there was none."""
    audit = results["audit"]
    return Section(key="audited", title="Audited", blocks=[] if audit is None else _blocks(audit))


def _blocks(audit: dict[str, Any]) -> list[Block]:
    # A verdict that is not known, of a later version, vouches for nothing.
    look, text = _VERDICTS.get(audit["verdict"], _VERDICTS["unclear"])
    findings = audit["findings"]
    guesses = [f for f in findings if "auc" in f["measures"]]
    bounds = [f for f in findings if "auc" not in f["measures"]]
    return [
        Paragraph(look=look, text=text.format(confidence=_percent(audit["confidence"]))),
        Paragraph(text=_what_was_done(audit)),
        *([_bounds(bounds)] if bounds else []),
        *_chart(bounds),
        *([_guesses(guesses)] if guesses else []),
        Heading(text="What these attacks cannot show"),
        Items(items=[f"{_capital(f['attack'])}: {f['limits']}" for f in findings]),
    ]


def _bounds(findings: list[dict[str, Any]]) -> Table:
    return Table(
        caption="Epsilon, as canaries prove it and as the run claims it",
        head=("attack", "at least", "claimed", "at delta", "verdict"),
        rows=[
            (
                f["attack"],
                _number(f["epsilon_lower_bound"]),
                _number(f["epsilon_claimed"]),
                f"{f['measures']['delta']:g}",
                _verdict(f),
            )
            for f in findings
        ],
        note=f"Of {findings[0]['target']}. The claim is refuted where “at least” is above it.",
    )


def _chart(findings: list[dict[str, Any]]) -> list[Block]:
    """How much of the claimed epsilon is proven; nothing where none is claimed."""
    shown = [
        (f["attack"], float(f["epsilon_lower_bound"]), f["epsilon_claimed"])
        for f in findings
        if isinstance(f["epsilon_claimed"], float) and f["epsilon_lower_bound"] is not None
    ]
    if not shown:
        return []
    title = "Proven, as a part of the epsilon that is claimed"
    bars = [
        Bar(
            name=name.removesuffix(" audit"),
            part=bound / claimed,
            text=f"{_number(bound)} of {claimed:.2f}",
        )
        for name, bound, claimed in shown
    ]
    rows = [(bar.name, bar.text) for bar in bars]
    chart = bar_chart(
        title,
        bars=bars,
        description="; ".join(f"{name}: {text}" for name, text in rows),
        table=Table(caption=title, head=("attack", "proven of claimed"), rows=rows),
    )
    return [Charts(charts=[chart])]


def _guesses(findings: list[dict[str, Any]]) -> Table:
    return Table(
        caption="Guessing who was among the training patients",
        head=("attack", "AUC", "95 % interval", "found", "95 % interval", "verdict"),
        rows=[
            (
                f["attack"],
                f"{f['measures']['auc']:.3f}",
                f"{f['measures']['auc_low']:.3f} to {f['measures']['auc_high']:.3f}",
                _percent(f["measures"]["tpr_at_0.01"]),
                f"{_percent(f['measures']['tpr_at_0.01_low'])} to "
                f"{_percent(f['measures']['tpr_at_0.01_high'])}",
                _verdict(f),
            )
            for f in findings
        ],
        note=(
            f"Against {findings[0]['target']}. AUC: of a member and another patient, how often the "
            "attack takes the right one for the member; chance is .5. Found: which part of the "
            "members it finds where 1 % of the others are taken for members; chance is 1 %."
        ),
    )


def _what_was_done(audit: dict[str, Any]) -> str:
    patients = (
        "patients simulated for it, because those of the run were not at hand"
        if audit["simulated_patients"]
        else "the run's own patients"
    )
    return (
        f"On {audit['at'][:10]}, the recorded study was trained anew on {patients}: once with "
        f"canaries at {audit['hospital']}, and {several(audit['num_shadows'] + 1, 'time')} on "
        "random halves of all patients, each of these models being attacked with the others as "
        f"shadows. That took {audit['seconds']:,.0f} seconds. A canary is an invented patient who "
        "moves the model as far as any patient can."
    )


def reached_text(finding: Mapping[str, Any]) -> str:
    """What an attack reached, in words.

    >>> reached_text({"epsilon_lower_bound": 2.04, "measures": {"delta": 1e-05}})
    'epsilon is at least 2.04 (at delta 1e-05)'
    """
    measures = finding["measures"]
    bound = finding["epsilon_lower_bound"]
    if bound is not None:
        return f"epsilon is at least {_number(bound)} (at delta {measures['delta']:g})"
    if "auc" in measures:
        return (
            f"AUC {measures['auc']:.3f}; finds {_percent(measures['tpr_at_0.01'])} of members at "
            "1 % false alarms"
        )
    return "no bound: the noise is not normal"


def claimed_text(finding: Mapping[str, Any]) -> str:
    """What the run claims against an attack.

    >>> claimed_text({"epsilon_claimed": 8.0}), claimed_text({"epsilon_claimed": "inf"})
    ('epsilon at most 8.00', 'nothing')
    """
    claimed = finding["epsilon_claimed"]
    if claimed is None or claimed == "inf":
        return "nothing"
    return f"epsilon at most {claimed:.2f}"


def _verdict(finding: Mapping[str, Any]) -> str:
    if "auc" in finding["measures"]:
        return "tells members from others" if finding["succeeded"] else "hardly better than chance"
    if claimed_text(finding) == "nothing":
        return "nothing to refute"
    if finding["epsilon_lower_bound"] is None:
        return "no bound: the noise is not normal"
    return "claim refuted" if finding["succeeded"] else "not refuted"


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def _number(value: float | str | None) -> str:
    """An epsilon.

    >>> _number(2.5), _number("inf"), _number(None)
    ('2.50', 'infinite', '–')
    """
    if value is None:
        return "–"
    value = float(value)
    return "infinite" if value == inf else f"{value:.2f}"


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
