"""Paired bootstrap intervals: how sure a difference between two arms is, given these patients.

Letters of shapes: B patients, P predicted numbers of a patient, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.metrics.resampling import auroc, concordance, draws, estimate
from common.metrics.statistics import Floats
from common.metrics.survival import risk_of
from common.outcomes import AnyOutcome, ClassOutcome, SurvivalOutcome
from common.study import Study
from simulations.results.held_out import HeldOut
from simulations.results.measure import groups_of, primary_metric
from simulations.results.methods import FEDERATED
from simulations.results.page import BEST_SINGLE, Comparison, Page

NUM_RESAMPLES = 2000
SEED = 20240


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Federated minus another arm in the primary metric, with a 95 % bootstrap interval.

    Attributes:
        value, low, high: None where an arm failed or the metric is undefined.
        num_resamples: those in which the metric was defined.
    """

    comparison: Comparison
    other: str
    metric: str
    num_patients: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    num_resamples: int = 0


def compare(
    page: Page,
    study: Study,
    repeats: Mapping[int, HeldOut],
    *,
    singles: Sequence[str],
    num_resamples: int = NUM_RESAMPLES,
) -> list[Difference]:
    """The page's comparisons, on the out-of-fold predictions of every repeat.

    Guarantees:
        - Both arms are judged on the same patients and the same resamples of them; a patient is
          drawn together with all repeats of theirs.
        - The same predictions give the same intervals.

    Args:
        singles: the arms among which `BEST_SINGLE` is found, by the metric itself: it is chosen
            with a look at the result, which can only favour it.
    """
    outcome, metric = primary_metric(study)
    groups = {g.name: g for g in groups_of(page, outcome, study)}
    differences = []
    for comparison in page.comparisons:
        group = groups[comparison.group]
        parts = [held.take(group.chosen(held)) for held in repeats.values()]
        drawn_RB = draws(len(parts[0]), num_resamples, seed=SEED)
        there = [arm for arm in (FEDERATED, *singles, comparison.other) if _is_there(parts, arm)]
        values = {arm: mean_values(parts, arm, study, drawn_RB) for arm in dict.fromkeys(there)}
        other = comparison.other
        if other == BEST_SINGLE:
            known = [s for s in singles if s in values and np.isfinite(values[s][0])]
            other = max(known, key=lambda arm: float(values[arm][0]), default=other)
        difference = Difference(
            comparison=comparison, other=other, metric=metric, num_patients=len(parts[0])
        )
        if FEDERATED in values and other in values:
            difference = _with_interval(difference, values[FEDERATED] - values[other])
        differences.append(difference)
    return differences


def mean_values(parts: Sequence[HeldOut], arm: str, study: Study, drawn_RB: Floats) -> Floats:
    """AUROC or C-index of the primary outcome in each resample, mean over the repeats.

    Guarantees:
        - It is the exact metric of the resampled patients; NaN where that is undefined.

    Raises:
        ValueError: the primary outcome is a quantity, whose metric is no share of pairs.
    """
    outcome, _ = primary_metric(study)
    values = [
        _values(part.predictions[arm][outcome], part.outcomes[outcome], study.primary, drawn_RB)
        for part in parts
    ]
    mean_R: Floats = np.mean(values, axis=0)
    return mean_R


def _is_there(parts: Sequence[HeldOut], arm: str) -> bool:
    return all(
        len(p) > 0 and arm in p.predictions and p.scores_all(arm, next(iter(p.outcomes)))
        for p in parts
    )


def _values(
    predictions_BP: Floats, labels: Mapping[str, NDArray[Any]], plan: AnyOutcome, drawn_RB: Floats
) -> Floats:
    known_B = labels["known_B"]
    predictions_BP, drawn_RB = predictions_BP[known_B], drawn_RB[:, known_B]
    if isinstance(plan, ClassOutcome):
        label_B = labels["label_B"][known_B]
        classes = [1] if len(plan.classes) == 2 else range(len(plan.classes))
        aurocs = [auroc(predictions_BP[:, c], label_B == c, drawn_RB) for c in classes]
        mean_R: Floats = np.mean(aurocs, axis=0)
        return mean_R
    if isinstance(plan, SurvivalOutcome):
        time_B = labels["time_B"][known_B].astype(np.float64)
        return concordance(risk_of(predictions_BP), time_B, labels["event_B"][known_B], drawn_RB)
    raise ValueError("expected a primary outcome of classes or survival")


def _with_interval(difference: Difference, values_R: Floats) -> Difference:
    found = estimate(values_R)
    num_resamples = int(np.isfinite(values_R[1:]).sum())
    if found.low is None:
        return difference
    return replace(difference, **asdict(found), num_resamples=num_resamples)
