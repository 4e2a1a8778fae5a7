"""Decision thresholds and recalibration of outcomes of two classes, from score histograms."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.metrics.intervals import FEWEST, Proportion
from common.metrics.recalibrating import Line as Recalibration
from common.metrics.recalibrating import line_of
from common.metrics.thresholds import Decision, ScoreCells, decisions, score_cells
from common.outcomes import ClassOutcome
from common.page.charts import Line, line_chart
from common.page.document import Block, Chart, Charts, Heading, Paragraph, Section, Table
from server.report.html.facts import Facts
from server.report.privacy import is_private

# Fixed beforehand as well: a row for each hospital at each of them.
_BY_HOSPITAL = (0.1, 0.2, 0.5)
_MOST_HOSPITALS = 40
_HEAD = ("flagged", "sensitivity", "specificity", "PPV", "NPV", "F1")
_NOT_CHOSEN = (
    "Which threshold is right follows from what a false alarm and a missed case cost, and not from "
    "this table. None was chosen on these patients: one that is best on them would look better "
    "than it is, and must be tried on other patients first."
)
_NOTE = (
    "Everyone whose predicted probability is at the threshold or above is flagged. Sensitivity: of "
    "those who have the outcome, which part is flagged; specificity: of those who have it not, "
    "which part is not. PPV: of those flagged, which part has the outcome; NPV: of those not "
    "flagged, which part has it not; both hold where the outcome is as frequent as here. In "
    "brackets 95 % intervals. The grid is fixed beforehand; thresholds with fewer than "
    f"{FEWEST} patients between them are left out."
)
_NOISED = (
    " Counts carry noise for privacy; the intervals hold it. Thresholds are the edges of the bins "
    "in which scores were counted, where enough patients are for the noise."
)


def thresholds(results: dict[str, Any], facts: Facts) -> Section:
    """Of each outcome of two classes: decisions on a grid, by hospital, and recalibration.

    Guarantees:
        - No threshold is chosen on held-out patients.
        - What carries noise has intervals that hold it, or is left out.
    """
    blocks: list[Block] = []
    for name, outcome in facts.study.outcomes.items():
        cells = _cells_of(facts, name)
        if cells is None or not isinstance(outcome, ClassOutcome):
            continue
        made = decisions(cells)
        if not made:
            continue
        blocks.append(Heading(text=f"{name}: “{outcome.classes[1]}” or not"))
        blocks.append(_table(name, made, is_noised=is_private(results)))
        chart = _chart(name, made)
        if chart is not None:
            blocks.append(Charts(charts=[chart]))
        blocks += _by_hospital(name, facts)
        line = line_of(cells)
        if line is not None:
            blocks.append(Paragraph(text=recalibration_text(line)))
    if blocks:
        blocks.insert(0, Paragraph(text=_NOT_CHOSEN))
    return Section(key="thresholds", title="Decision thresholds", blocks=blocks)


def _cells_of(facts: Facts, outcome: str) -> ScoreCells | None:
    sums = facts.totals.get(outcome)
    return None if sums is None else score_cells(sums)


def _table(outcome: str, made: Sequence[Decision], *, is_noised: bool) -> Table:
    return Table(
        caption=f"{outcome}: held-out patients of all hospitals, by threshold, in %",
        head=("threshold", *_HEAD),
        rows=[[_threshold_text(d.threshold), *_cells_text(d)] for d in made],
        note=_NOTE + (_NOISED if is_noised else ""),
    )


def _threshold_text(threshold: float) -> str:
    return f"{100 * threshold:.3g}"


def _cells_text(decision: Decision) -> list[str]:
    parts = (decision.sensitivity, decision.specificity, decision.ppv, decision.npv, decision.f1)
    return [f"{100 * decision.flagged:.0f}", *(percent_text(part) for part in parts)]


def percent_text(part: Proportion) -> str:
    """A part in percent with its interval, as tables write it.

    >>> percent_text(Proportion(value=0.25, interval=(0.1234, 0.4)))
    '25 (12 to 40)'
    """
    value, low, high = (100 * end for end in (part.value, *part.interval))
    return f"{value:.0f} ({low:.0f} to {high:.0f})"


def _chart(outcome: str, made: Sequence[Decision]) -> Chart | None:
    percent = [round(100 * d.threshold) for d in made]
    if len(set(percent)) < max(len(made), 2):
        return None
    lowest, highest = made[0], made[-1]
    return line_chart(
        f"{outcome}: what a threshold finds, and whom it spares",
        x=percent,
        lines=[
            Line(name="sensitivity", values=[d.sensitivity.value for d in made]),
            Line(name="specificity", values=[d.specificity.value for d in made], look="second"),
            Line(name="PPV", values=[d.ppv.value for d in made], look="third"),
        ],
        x_label="threshold in percent",
        y_label="part of patients",
        description=(
            f"From a threshold of {percent[0]} % to one of {percent[-1]} %, sensitivity goes from "
            f"{lowest.sensitivity.value:.2f} to {highest.sensitivity.value:.2f}, specificity from "
            f"{lowest.specificity.value:.2f} to {highest.specificity.value:.2f}."
        ),
        from_zero=True,
    )


def _by_hospital(outcome: str, facts: Facts) -> list[Block]:
    rows = []
    for site, sums in sorted(facts.by_site.items()):
        cells = score_cells(sums[outcome]) if outcome in sums else None
        made = [] if cells is None else _nearest(decisions(cells, _BY_HOSPITAL))
        rows += [[site, _threshold_text(d.threshold), *_cells_text(d)] for d in made]
    if not rows or len(facts.by_site) > _MOST_HOSPITALS:
        return []
    return [
        Table(
            caption=f"{outcome}: held-out patients by hospital and threshold, in %",
            head=("hospital", "threshold", *_HEAD),
            rows=rows,
            note=(
                "A hospital without a row has too few held-out patients, with or without the "
                "outcome, to tell."
            ),
        )
    ]


def _nearest(made: Sequence[Decision]) -> list[Decision]:
    """The decisions that are nearest to the thresholds for hospitals, each once, ascending."""
    if not made:
        return []
    at = np.array([d.threshold for d in made])
    places = {int(np.abs(at - threshold).argmin()) for threshold in _BY_HOSPITAL}
    return [made[i] for i in sorted(places)]


def recalibration_text(line: Recalibration) -> str:
    """What the line says, in sentences, and what it does not allow."""
    low, high = line.slope_interval
    numbers = f"slope {line.slope:.2f} ({low:.2f} to {high:.2f})"
    if low <= 0:
        said = "from these patients, predictions cannot be told from ones that know nothing"
    elif high < 1:
        said = (
            "predictions are too extreme: high ones too high, low ones too low. A temperature of "
            f"{1 / line.slope:.2f}, by which logits are divided, would mend it on these patients"
        )
    elif low > 1:
        said = (
            "predictions are too cautious: they should lie farther apart. A temperature of "
            f"{1 / line.slope:.2f}, by which logits are divided, would mend it on these patients"
        )
    else:
        said = "how far apart predictions lie is as it should be, as far as these patients tell"
    low, high = line.shift_interval
    on_average = "probabilities are about right on average"
    if low > 0 or high < 0:
        on_average = f"probabilities are too {'low' if line.shift > 0 else 'high'} on average"
    return (
        f"Are probabilities what they say, over all patients together? {_capital(on_average)}: "
        f"they would have to be shifted by {line.shift:+.2f} ({low:+.2f} to {high:+.2f}) in log "
        f"odds. {_capital(said)} ({numbers}; 1 would be right). In brackets 95 % intervals. Both "
        "are fitted to held-out patients: to correct a model by them, and to judge it then, takes "
        "other patients."
    )


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
