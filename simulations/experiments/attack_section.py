"""What attacks on the points of an experiment reached, as a section of its page and as cells."""

from collections.abc import Mapping, Sequence
from typing import Any

from common.page.curves import Curve, Reference, curve_chart
from common.page.curves import Point as Spot
from common.page.document import Block, Charts, Paragraph, Section, Table
from common.page.words import several
from simulations.attacks.finding import Finding
from simulations.attacks.membership import LIRA, LOSS_THRESHOLD
from simulations.attacks.summary import reached, verdict
from simulations.experiments.attacks import NUM_MODELS, NUM_SETS
from simulations.experiments.experiment import Experiment, Point

_MEMBERSHIP = (LIRA, LOSS_THRESHOLD)
_NO_PRIVACY = "no privacy"

Told = Mapping[str, Any]


def attack_section(experiment: Experiment) -> Section:
    """Membership and reconstruction by point; empty where these attacks were not asked for."""
    points = [p for p in (*experiment.points, experiment.reference) if p.attacks]
    blocks: list[Block] = []
    if points:
        chart = _chart(experiment)
        blocks = [
            Paragraph(
                text="Was a patient trained on? Models are trained anew on random halves of all "
                f"training patients ({several(NUM_MODELS, 'model')} for each point), and each is "
                "attacked with the others as shadows. Intervals of 95 % hold the chance of "
                "patients, not that of training. What does one update give away? Simulated "
                f"patients alone ({several(NUM_SETS, 'set')} of them), in a step of their own, in "
                "which a point's whole epsilon is spent."
            ),
            *([Charts(charts=[chart])] if chart else []),
            _members(points),
            *_updates(points),
            *_failed(points),
            *(Paragraph(text=text, look="note") for text in _limits(points)),
        ]
    return Section(key="attacks", title="Attacks", blocks=blocks)


def auc_cell(point: Point) -> str:
    """LiRA's AUC; a dash where there was no such attack."""
    told = _of(point, LIRA)
    return f"{told[0]['measures']['auc']:.3f}" if told else "–"


def recovered_cell(point: Point) -> str:
    """Which attacks recovered simulated patients from an update under the point's privacy."""
    own = _own_updates(point)
    if not own:
        return "–"
    return ", ".join(t["attack"].split()[-1] for t in own if t["succeeded"]) or "nothing"


def _of(point: Point, attack: str) -> list[Told]:
    return [t for t in point.attacks if t["attack"] == attack and not t["failed"]]


def _own_updates(point: Point) -> list[Told]:
    """Those under the point's own privacy, and not those without that stand beside them."""
    return [
        told
        for told in point.attacks
        if not told["failed"]
        and told["attack"] not in _MEMBERSHIP
        and (told["target"] != _NO_PRIVACY) == point.target.is_private
    ]


def _members(points: Sequence[Point]) -> Table:
    rows = []
    for point in points:
        lira, threshold = _of(point, LIRA), _of(point, LOSS_THRESHOLD)
        if lira and threshold:
            hits = _with_interval(lira[0], "tpr_at_0.01")
            aucs = (_with_interval(told[0], "auc") for told in (lira, threshold))
            rows.append((point.name, *aucs, hits, "yes" if lira[0]["succeeded"] else "no"))
    return Table(
        caption="Membership of training patients",
        head=("", "LiRA, AUC", "loss threshold, AUC", "LiRA, hits", "LiRA tells"),
        rows=rows,
        note="Hits are at 1 % false alarms. An AUC of .5, and 1 % of hits, is guessing. LiRA tells "
        "members if its interval of AUC lies above .55, or that of hits above 2 %.",
    )


def _updates(points: Sequence[Point]) -> list[Block]:
    told = [(p.name, t) for p in points for t in p.attacks]
    told = [(n, t) for n, t in told if not t["failed"] and t["attack"] not in _MEMBERSHIP]
    if not told:
        return [Paragraph(text="No attack on updates fits the granularities of this study.")]
    rows = [
        (name, t["attack"], t["target"], reached(_finding(t)), verdict(_finding(t)))
        for name, t in told
    ]
    return [
        Table(
            caption="Simulated patients recovered from one update",
            head=("model of", "attack", "protection", "reached, mean ± sd over sets", "outcome"),
            rows=list(dict.fromkeys(rows)),
            is_words=True,
            summary="Every attack on updates",
        )
    ]


def _failed(points: Sequence[Point]) -> list[Block]:
    told = [
        f"{p.name}: {t['attack']}: {t['failed']}" for p in points for t in p.attacks if t["failed"]
    ]
    text = f"Attacks that failed themselves: {'; '.join(dict.fromkeys(told))}."
    return [Paragraph(text=text)] if told else []


def _limits(points: Sequence[Point]) -> list[str]:
    found = (t for p in points for t in p.attacks if not t["failed"])
    return list(dict.fromkeys(str(told["limits"]) for told in found))


def _chart(experiment: Experiment) -> Any:
    """LiRA's AUC over epsilon; None where no private point has one."""
    spots = [
        Spot(x=point.epsilon, y=m["auc"], low=m["auc_low"], high=m["auc_high"])
        for point in experiment.points
        for m in [told["measures"] for told in _of(point, LIRA)]
        if point.epsilon is not None
    ]
    if not spots:
        return None
    spots.sort(key=lambda spot: spot.x)
    references = [Reference(name="guessing", value=0.5, look="faint")]
    for told in _of(experiment.reference, LIRA):
        references.insert(0, Reference(name=_NO_PRIVACY, value=told["measures"]["auc"]))
    return curve_chart(
        "Membership: AUC of LiRA over epsilon",
        curves=[Curve(name="LiRA, private", points=spots)],
        references=references,
        x_label="epsilon (add or remove one patient)",
        y_label="AUC of the attack",
        description="How well LiRA tells training patients from others, whiskers of 95 %. "
        + " ".join(f"Epsilon {s.x:g}: {s.y:.3f}." for s in spots)
        + "".join(f" {r.name}: {r.value:.3f}." for r in references),
    )


def _with_interval(told: Told, name: str) -> str:
    m = told["measures"]
    return f"{m[name]:.3f} ({m[f'{name}_low']:.3f} to {m[f'{name}_high']:.3f})"


def _finding(told: Told) -> Finding:
    measures = {n: float("nan") if v is None else float(v) for n, v in told["measures"].items()}
    return Finding(
        attack=told["attack"],
        target=told["target"],
        measures=measures,
        succeeded=told["succeeded"],
        limits=told["limits"],
    )
