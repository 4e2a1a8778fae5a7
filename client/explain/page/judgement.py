"""How far predictions can be trusted: calibration, decisions, groups of patients, for the page."""

from collections.abc import Mapping, Sequence

from client.explain import calibration, decisions
from client.explain.calibration import Calibration
from client.explain.decisions import Decision
from client.explain.groups import Group
from client.explain.page.words import estimate_text, percent_text
from client.explain.subject import Subject
from client.explain.temperature import HIGHEST, LOWEST
from common.outcomes import ClassOutcome
from common.page.charts import calibration_chart
from common.page.document import Block, Charts, Heading, Paragraph, Section, Table
from common.page.words import several

_NO_CURVE = "There are too few held-out patients for a curve."
_TOO_SMALL = "too few"


def calibration_section(subject: Subject, found: Mapping[str, Calibration]) -> Section:
    """Whether probabilities are as often right as they say."""
    blocks: list[Block] = []
    for name, calibrated in found.items():
        blocks += [Heading(text=name), *_calibration(subject, name, calibrated)]
    return Section(key="calibration", title="Calibration", blocks=blocks)


def _calibration(subject: Subject, name: str, found: Calibration) -> list[Block]:
    outcome = subject.study.outcomes[name]
    what = "the most probable class"
    if isinstance(outcome, ClassOutcome) and outcome.kind == "binary":
        what = f"'{outcome.classes[1]}'"
    charts = [
        calibration_chart(
            f"{name}: probability of {what}, {when}",
            bins=bins,
            description=f"Observed frequency over predicted probability of {what}, of "
            f"{several(found.num_patients, 'held-out patient')} in groups of "
            f"{subject.smallest_group} or more; on the dashed line both are equal.",
        )
        for when, bins in (
            ("as it is", found.bins_before),
            ("with temperature", found.bins_after),
        )
        if bins
    ]
    blocks: list[Block] = [Charts(charts=charts)] if charts else [Paragraph(text=_NO_CURVE)]
    return [*blocks, _temperature(found), _measures(name, found)]


def _temperature(found: Calibration) -> Paragraph:
    if found.temperature is None:
        return Paragraph(
            text="The training patients have one class alone: no temperature could be fitted."
        )
    kind = "milder" if found.temperature > 1 else "bolder"
    text = (
        f"Temperature {found.temperature:.2f}, fitted to this hospital's training patients alone: "
        f"it makes probabilities {kind}. The model has learned from these patients and is surer of "
        "them than of others, so that a temperature fitted to them may be too low."
    )
    if not LOWEST * 1.01 < found.temperature < HIGHEST * 0.99:
        text += " It stands at the end of what is allowed, so that it tells of too few patients."
    return Paragraph(text=text)


def _measures(name: str, found: Calibration) -> Table:
    rows = [
        (
            measure,
            estimate_text(found.before[measure]),
            estimate_text(found.after[measure]) if found.after else "–",
            estimate_text(found.change[measure]) if found.change else "–",
        )
        for measure in calibration.MEASURES
    ]
    return Table(
        caption=f"{name}: {several(found.num_patients, 'held-out patient')}; less is better",
        head=("measure", "as it is", "with temperature", "change"),
        rows=rows,
        note="95 % intervals by bootstrap over patients. The ECE has none that holds; it leans "
        "upwards in small samples.",
    )


def decisions_section(subject: Subject, found: Mapping[str, Sequence[Decision]]) -> Section:
    """What decisions by a threshold, or for the most probable class, get right."""
    blocks: list[Block] = []
    for name, decided in found.items():
        if decided:
            blocks += [Heading(text=name), _decisions(name, decided), *_chosen(decided)]
    return Section(key="decisions", title="Decision thresholds", blocks=blocks)


def _decisions(name: str, decided: Sequence[Decision]) -> Table:
    has_threshold = decided[0].threshold is not None
    head = ("threshold",) if has_threshold else ("class",)
    return Table(
        caption=f"{name}: {several(decided[0].num_patients, 'held-out patient')}; measures in %, "
        "with 95 % intervals",
        head=(*head, "flagged", *decisions.MEASURES),
        rows=[
            (
                _rule(d),
                f"{d.num_flagged:,}",
                *(percent_text(d.measures[m]) for m in decisions.MEASURES),
            )
            for d in decided
        ],
        note="" if has_threshold else "Decided for the most probable class of each patient.",
    )


def _chosen(decided: Sequence[Decision]) -> list[Block]:
    if decided[0].threshold is None:
        return []
    return [
        Paragraph(
            text="Thresholds with a name were chosen on this hospital's training patients, whom "
            "the model has seen; the others are a grid that nobody chose from. All are judged on "
            "held-out patients, which no threshold was chosen on. PPV and NPV hold where the "
            "outcome is as common as here.",
            look="note",
        )
    ]


def _rule(decision: Decision) -> str:
    if decision.threshold is None or decision.name == f"{decision.threshold:g}":
        return decision.name
    return f"{decision.name}: {decision.threshold:.3f}"


def groups_section(subject: Subject, found: Mapping[str, Sequence[Group]]) -> Section:
    """How well the model does by group of patients; no block where nobody is grouped."""
    blocks: list[Block] = []
    for name, groups in found.items():
        by_feature = {g.feature: [h for h in groups if h.feature == g.feature] for g in groups}
        blocks += [_groups(f"{name}, by {f}", of_one) for f, of_one in by_feature.items()]
    if blocks:
        blocks.append(
            Paragraph(
                text=f"Groups of fewer than {subject.smallest_group} patients (smallest_group of "
                "this hospital's policy) are not judged. 95 % intervals by bootstrap within the "
                "group. With many groups, one looks worse by chance: intervals that overlap tell "
                "no difference.",
                look="note",
            )
        )
    return Section(key="groups", title="Groups of patients", blocks=blocks)


def _groups(caption: str, groups: Sequence[Group]) -> Table:
    measures = list(dict.fromkeys(m for group in groups for m in group.measures))
    rows = [
        (
            group.name,
            _TOO_SMALL if group.num_patients is None else f"{group.num_patients:,}",
            *(estimate_text(group.measures[m]) if m in group.measures else "–" for m in measures),
        )
        for group in groups
    ]
    return Table(caption=caption, head=("group", "patients", *measures), rows=rows)
