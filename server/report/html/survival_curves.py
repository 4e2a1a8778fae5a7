"""Observed beside predicted survival: the mean curve of the model, and what became of patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.metrics.intervals import FEWEST
from common.metrics.life_table import Survival, observed_survival
from common.metrics.statistics import EvaluationSums
from common.outcomes import SurvivalOutcome
from common.page.charts import Line, line_chart
from common.page.document import Block, Charts, Heading, Paragraph, Section, Table
from server.report.html.facts import Facts
from server.report.privacy import is_private

# Of more times, so many evenly spaced ones, and always the last.
_MOST_TIMES = 12
_MOST_HOSPITALS = 40
_NOTE = (
    "Observed: the life table of held-out patients (those who are censored within a bin of time "
    "count as at risk for half of it), with 95 % intervals by Greenwood's variance. Predicted: the "
    f"mean of the model's curves. Times with fewer than {FEWEST} patients left at risk, or fewer "
    "who left since the time before, are left out. A right average can hide errors that cancel; "
    "the C-index tells of the order."
)
_ORDER_ALONE = (
    "The model predicts who is at higher risk, and no probability (Cox), so there is no predicted "
    "curve to compare: this is what was observed."
)
_PRIVATE = (
    "Predicted curves are not released where patients are protected, so that observed and "
    "predicted survival cannot be compared."
)


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Observed and predicted survival at one time; predicted is None where there is none."""

    observed: Survival
    predicted: float | None


def survival_curves(results: dict[str, Any], facts: Facts) -> Section:
    """Of each outcome of survival: the curves, the study's times, and hospitals at one of them.

    Guarantees:
        - No time is told at which fewer than `FEWEST` patients are at risk, or until which fewer
          have left since the start or the time before.
        - Without the sum of the predicted curves, what was observed stands alone and says so.
    """
    blocks: list[Block] = []
    for name, outcome in facts.study.outcomes.items():
        if not isinstance(outcome, SurvivalOutcome) or name not in facts.totals:
            continue
        if is_private(results):
            blocks += [Heading(text=name), Paragraph(text=_PRIVATE, look="note")]
        else:
            blocks += _of_outcome(name, outcome, facts)
    return Section(key="survival", title="Observed and predicted survival", blocks=blocks)


def _of_outcome(name: str, outcome: SurvivalOutcome, facts: Facts) -> list[Block]:
    compared = _apart(_compared(facts.totals[name], outcome), facts.totals[name].num_patients)
    if not compared:
        return []
    has_curve = compared[0].predicted is not None
    blocks: list[Block] = [Heading(text=name)]
    if outcome.loss == "cox":
        blocks.append(Paragraph(text=_ORDER_ALONE, look="note"))
    blocks.append(_chart(name, outcome, compared))
    blocks.append(
        Table(
            caption=f"{name}: without the event at the study's times, all hospitals",
            head=_head(f"time in {outcome.unit}", has_curve=has_curve),
            rows=[_row(f"{c.observed.time:g}", c) for c in _thinned(compared)],
            note=_NOTE,
        )
    )
    return blocks + (_by_hospital(name, outcome, facts.by_site) if has_curve else [])


def _compared(sums: EvaluationSums, outcome: SurvivalOutcome) -> list[_Compared]:
    told = [s for s in observed_survival(sums, outcome.cut_points) if s.at_risk >= FEWEST]
    if not told:
        return []
    means = sums.sums["survival_sum"] / sums.num_patients if sums.has("survival_sum") else None
    return [
        _Compared(observed=s, predicted=None if means is None else float(means[k]))
        for k, s in enumerate(told)
    ]


def _apart(compared: Sequence[_Compared], num_patients: float) -> list[_Compared]:
    """The times until which enough patients have left since the last one that is kept."""
    kept: list[_Compared] = []
    before = num_patients
    for one in compared:
        if before - one.observed.at_risk >= FEWEST:
            kept.append(one)
            before = one.observed.at_risk
    return kept


def _head(first: str, *, has_curve: bool) -> tuple[str, ...]:
    observed = (first, "left at risk", "observed", "95 % interval")
    return (*observed, "predicted", "predicted is") if has_curve else observed


def _row(name: str, compared: _Compared) -> list[str]:
    observed, predicted = compared.observed, compared.predicted
    low, high = observed.interval
    cells = [
        name,
        f"{observed.at_risk:,.0f}",
        f"{observed.observed:.3f}",
        f"{low:.3f} to {high:.3f}",
    ]
    if predicted is None:
        return cells
    place = "within the interval"
    if not low <= predicted <= high:
        place = "too hopeful" if predicted > high else "too gloomy"
    return [*cells, f"{predicted:.3f}", place]


def _chart(name: str, outcome: SurvivalOutcome, compared: Sequence[_Compared]) -> Charts:
    observed = [c.observed for c in compared]
    lines = [
        Line(name="observed", values=[1.0, *(s.observed for s in observed)]),
        *(
            Line(
                name=f"{end} end of the 95 % interval",
                values=[1.0, *(s.interval[n] for s in observed)],
                look="third",
                legend="95 % interval",
            )
            for n, end in enumerate(("lower", "upper"))
        ),
    ]
    predicted = [c.predicted for c in compared]
    last = observed[-1]
    told = f"At {last.time:g} {outcome.unit}: observed {last.observed:.2f}"
    if predicted[-1] is not None:
        lines.insert(1, Line(name="predicted", values=[1.0, *predicted], look="second"))
        told += f", predicted {predicted[-1]:.2f}"
    chart = line_chart(
        f"{name}: who is without the event",
        x=[0.0, *(s.time for s in observed)],
        lines=lines,
        x_label=f"time in {outcome.unit}",
        y_label="part of patients",
        description=f"{told}. Dotted: the ends of 95 % intervals of what was observed.",
        from_zero=True,
    )
    return Charts(charts=[chart])


def _by_hospital(
    name: str, outcome: SurvivalOutcome, by_site: Mapping[str, Mapping[str, EvaluationSums]]
) -> list[Block]:
    """At the middle one of the study's times, which nobody chose by what came out."""
    middle = outcome.cut_points[(len(outcome.cut_points) - 1) // 2]
    rows = []
    for site, sums in sorted(by_site.items()):
        compared = _compared(sums[name], outcome) if name in sums else []
        told = [c for c in compared if c.observed.time == middle and c.predicted]
        rows += [_row(site, c) for c in _apart(told, sums[name].num_patients)] if told else []
    if not rows or len(rows) > _MOST_HOSPITALS:
        return []
    return [
        Table(
            caption=f"{name}: without the event at {middle:g} {outcome.unit}, by hospital",
            head=_head("hospital", has_curve=True),
            rows=rows,
            note="Too hopeful: the model says that more are without the event than are.",
        )
    ]


def _thinned(compared: Sequence[_Compared]) -> list[_Compared]:
    every = -(-len(compared) // _MOST_TIMES)
    return [c for n, c in enumerate(compared) if (len(compared) - 1 - n) % every == 0]
