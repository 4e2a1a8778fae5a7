"""Survival and quantities, predicted beside observed, for the page."""

from collections.abc import Mapping

import numpy as np

from client.explain.charts import Curve, cloud_chart, curve_chart
from client.explain.page.words import estimate_text
from client.explain.regression import Quantities, stretches_of
from client.explain.subject import Subject
from client.explain.survival import Survival, Third
from common.outcomes import AnyOutcome, RegressionOutcome, SurvivalOutcome
from common.page.document import Block, Chart, Charts, Heading, Paragraph, Section, Table
from common.page.words import several, size_text

_MOST_TIMES = 3


def survival_section(subject: Subject, found: Mapping[str, Survival]) -> Section:
    """Predicted survival beside Kaplan-Meier, by third of predicted risk."""
    blocks: list[Block] = []
    for name, survival in found.items():
        outcome = subject.study.outcomes[name]
        if isinstance(outcome, SurvivalOutcome):
            blocks += [Heading(text=name), *_survival(subject, name, outcome, survival)]
    return Section(key="survival", title="Survival", blocks=blocks)


def _survival(
    subject: Subject, name: str, outcome: SurvivalOutcome, found: Survival
) -> list[Block]:
    blocks: list[Block] = [
        Paragraph(
            text=f"{several(found.num_patients, 'held-out patient')}, "
            f"{several(found.num_events, 'event')}; C-index {estimate_text(found.c_index)}."
        )
    ]
    if not found.thirds:
        few = f"No third of them has {subject.smallest_group} patients: nothing is shown."
        return [*blocks, Paragraph(text=few)]
    charts = [_third_chart(name, outcome, third) for third in found.thirds]
    blocks.append(Charts(charts=charts))
    if found.thirds[0].predicted_K is None:
        order = "The model predicts an order of risks and no probabilities (Cox)."
        return [*blocks, Paragraph(text=order)]
    return [*blocks, _at_times(name, outcome, found)]


def _third_chart(name: str, outcome: SurvivalOutcome, third: Third) -> Chart:
    observed, times = third.observed, outcome.cut_points
    known = [k for k in range(len(times)) if np.isfinite(observed.survival_K[k])]
    # Level until the last time at which anybody was observed.
    end = [(times[known[-1]], float(observed.survival_K[known[-1]]))] if known else []
    curves = [
        Curve(
            name="observed (Kaplan-Meier)",
            points=[(0.0, 1.0), *third.steps, *end],
            is_step=True,
            intervals=[
                (times[k], float(observed.low_K[k]), float(observed.high_K[k])) for k in known
            ],
        )
    ]
    predicted_K = third.predicted_K
    if predicted_K is not None:
        points = [(0.0, 1.0), *zip(times, predicted_K.tolist(), strict=True)]
        curves.append(Curve(name="predicted", look="second", points=points))
    rows = [
        (
            f"{time:g}",
            "–" if predicted_K is None else f"{predicted_K[k]:.3f}",
            _observed_text(third, k),
            f"{observed.at_risk_K[k]:,}",
        )
        for k, time in enumerate(times)
    ]
    title = f"{name}: {third.name}, {several(third.num_patients, 'patient')}"
    head = (outcome.unit, "predicted survival", "observed (95 % interval)", "at risk")
    return curve_chart(
        title,
        curves=curves,
        x_label=outcome.unit,
        y_label="survival",
        description="Observed survival at the study's times with 95 % intervals, beside the mean "
        f"predicted one; {several(third.num_events, 'event')}.",
        table=Table(caption=title, head=head, rows=rows),
    )


def _observed_text(third: Third, k: int) -> str:
    observed = third.observed
    if not np.isfinite(observed.survival_K[k]):
        return "–"
    low, high = observed.low_K[k], observed.high_K[k]
    return f"{observed.survival_K[k]:.3f} ({low:.3f} to {high:.3f})"


def _at_times(name: str, outcome: SurvivalOutcome, found: Survival) -> Table:
    """Predicted and observed events by a few of the study's times."""
    last = len(outcome.cut_points) - 1
    places = sorted({round(n * last / (_MOST_TIMES - 1)) for n in range(_MOST_TIMES)})
    rows = []
    for k in places:
        for third in found.thirds:
            observed, predicted_K = third.observed, third.predicted_K
            if predicted_K is None:
                continue
            is_known = np.isfinite(observed.survival_K[k])
            rows.append(
                (
                    f"by {outcome.cut_points[k]:g} {outcome.unit}: {third.name}",
                    f"{100 * (1 - predicted_K[k]):.0f}",
                    f"{100 * (1 - observed.survival_K[k]):.0f} "
                    f"({100 * (1 - observed.high_K[k]):.0f} to {100 * (1 - observed.low_K[k]):.0f})"
                    if is_known
                    else "–",
                )
            )
    return Table(
        caption=f"{name}: events by a time, in % of the patients",
        head=("patients", "predicted", "observed (95 % interval)"),
        rows=rows,
        note="Observed by Kaplan-Meier; – where nobody was observed that long.",
    )


def quantities_section(subject: Subject, found: Mapping[str, Quantities]) -> Section:
    """Predicted beside observed values, and what is left between them."""
    blocks: list[Block] = []
    for name, quantities in found.items():
        outcome = subject.study.outcomes[name]
        if len(quantities.ids) < subject.smallest_group:
            few = f"Fewer than {subject.smallest_group} held-out patients: nothing is shown."
            blocks += [Heading(text=name), Paragraph(text=few)]
            continue
        blocks += [Heading(text=name), Charts(charts=_clouds(subject, name, outcome, quantities))]
    return Section(key="quantities", title="Quantities", blocks=blocks)


def _clouds(subject: Subject, name: str, outcome: AnyOutcome, found: Quantities) -> list[Chart]:
    unit = outcome.unit if isinstance(outcome, RegressionOutcome) else ""
    table = Table(
        caption=f"{name}, in {unit}, by predicted value",
        head=("predicted between", "patients", "mean predicted", "mean observed", "mean |error|"),
        rows=[
            (
                f"{size_text(s.low)} to {size_text(s.high)}",
                f"{s.num_patients:,}",
                *(size_text(v) for v in (s.predicted, s.observed, s.absolute_error)),
            )
            for s in stretches_of(found, subject.smallest_group)
        ],
    )
    predicted, observed = found.predicted_B.tolist(), found.observed_B.tolist()
    residuals = found.residual_B.tolist()
    return [
        cloud_chart(
            f"{name}: observed over predicted",
            points=list(zip(predicted, observed, strict=True)),
            x_label=f"predicted, {unit}",
            y_label=f"observed, {unit}",
            guide="diagonal",
            description=f"One dot for each of {len(predicted)} held-out patients; on the dashed "
            "line both are equal.",
            table=table,
        ),
        cloud_chart(
            f"{name}: observed minus predicted",
            points=list(zip(predicted, residuals, strict=True)),
            x_label=f"predicted, {unit}",
            y_label=f"residual, {unit}",
            guide="zero",
            description="What is left between observed and predicted, over the predicted value; a "
            "slope or a funnel shows what the model has not learned.",
            table=table,
        ),
    ]
