"""The utility-privacy curve: of all patients, of the mean of hospitals, and of each hospital."""

from collections.abc import Sequence
from statistics import fmean, stdev

from common.page.curves import Curve, Point, Reference, curve_chart
from common.page.document import Chart
from server.report.columns import title_of
from simulations.arms import MEAN, POOLED
from simulations.experiments.experiment import Experiment
from simulations.experiments.experiment import Point as Answer
from simulations.experiments.runs import FEDERATED
from simulations.results.measure import primary_metric

LOCAL = "local only"
POOLED_ARM = "pooled"
# A page with a chart of each of more hospitals cannot be read.
MOST_SITES = 12
_PRIVATE = (
    (FEDERATED, "federated, private", "main"),
    (LOCAL, "each hospital alone, private", "second"),
)
_PLAIN = (
    (FEDERATED, "federated, no privacy", "third"),
    (POOLED_ARM, "all patients pooled, no privacy", "guide"),
    (LOCAL, "each hospital alone, no privacy", "faint"),
)


def values_of(answer: Answer, arm: str, scope: str, metric: tuple[str, str]) -> list[float | None]:
    """The metric of each seed; None where the run failed or the metric is undefined."""
    outcome, name = metric
    found = []
    for run in answer.runs:
        by_key = {(r["arm"], r["scope"], r["outcome"]): r["metrics"] for r in run.made["results"]}
        found.append(by_key.get((arm, scope, outcome), {}).get(name))
    return found


def epsilon_of_point(answer: Answer) -> float | None:
    """The reported epsilon: the largest of its seeds; None where every run failed."""
    known = [r.epsilon_reported for r in answer.runs if r.epsilon_reported is not None]
    return max(known, default=None)


def sites_of(experiment: Experiment) -> list[str]:
    """The names of the hospitals that any run has judged."""
    answers = (*experiment.points, experiment.reference)
    scopes = {r["scope"] for a in answers for run in a.runs for r in run.made["results"]}
    return sorted(scopes - {POOLED, MEAN})


def chart_of_scope(experiment: Experiment, scope: str, title: str) -> Chart | None:
    """The curve of one scope; None where no private run has a value there.

    A point is the mean over seeds, a whisker one standard deviation to both sides of it.
    """
    metric = primary_metric(experiment.sweep.bases.reference)
    curves = [
        Curve(name=name, look=look, points=points)
        for arm, name, look in _PRIVATE
        if (points := _points(experiment.points, arm, scope, metric))
    ]
    references = [
        Reference(name=name, value=fmean(known), look=look)
        for arm, name, look in _PLAIN
        if (known := _known(experiment.reference, arm, scope, metric))
    ]
    if not curves:
        return None
    words = title_of(metric[1])
    return curve_chart(
        title,
        curves=curves,
        references=references,
        x_label="epsilon (add or remove one patient)",
        y_label=words,
        description=_description(curves, references, words, len(experiment.reference.runs)),
    )


def _points(
    answers: Sequence[Answer], arm: str, scope: str, metric: tuple[str, str]
) -> list[Point]:
    points = []
    for answer in answers:
        epsilon, known = epsilon_of_point(answer), _known(answer, arm, scope, metric)
        if epsilon is None or not known:
            continue
        mean, sd = fmean(known), stdev(known) if len(known) > 1 else None
        ends = (None, None) if sd is None else (mean - sd, mean + sd)
        points.append(Point(x=epsilon, y=mean, low=ends[0], high=ends[1]))
    return sorted(points, key=lambda point: point.x)


def _known(answer: Answer, arm: str, scope: str, metric: tuple[str, str]) -> list[float]:
    return [v for v in values_of(answer, arm, scope, metric) if v is not None]


def _description(
    curves: Sequence[Curve], references: Sequence[Reference], metric: str, num_seeds: int
) -> str:
    parts = [
        f"{curve.name}: {metric} {curve.points[0].y:.3f} at epsilon {curve.points[0].x:.3g}"
        + (
            f", {curve.points[-1].y:.3f} at epsilon {curve.points[-1].x:.3g}"
            if len(curve.points) > 1
            else ""
        )
        for curve in curves
    ]
    parts += [f"{reference.name}: {reference.value:.3f}" for reference in references]
    return (
        f"Means over {num_seeds} seeds, whiskers of one standard deviation. "
        + ". ".join(parts)
        + "."
    )
