"""Paired bootstrap intervals: how sure a difference between two arms is, given these patients.

AUROC and C-index are both shares of ordered pairs, so that resamples need no sorting anew: each is
a vector of how often a patient was drawn.

Letters of shapes: B patients, E patients who come first in a pair, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.metrics.statistics import Floats
from common.metrics.survival import risk_of
from common.outcomes import AnyOutcome, ClassOutcome, SurvivalOutcome
from common.study import Study
from simulations.results.held_out import HeldOut
from simulations.results.measure import groups_of, primary_metric
from simulations.results.methods import FEDERATED
from simulations.results.page import BEST_SINGLE, Comparison, Page

NUM_RESAMPLES = 2000
_SEED = 20240
_LEVELS = (2.5, 97.5)


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
        drawn_RB = draws(len(parts[0]), num_resamples)
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


def draws(num_patients: int, num_resamples: int) -> Floats:
    """How often each patient is in each resample; in the first row, everybody once."""
    random = np.random.default_rng(_SEED)
    if not num_patients:
        return np.ones((1, 0))
    drawn_RB = random.multinomial(
        num_patients, np.full(num_patients, 1 / num_patients), size=num_resamples
    )
    return np.concatenate([np.ones((1, num_patients)), drawn_RB])


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
        aurocs = []
        for c in classes:
            first_E = np.flatnonzero(label_B == c)
            later_EB = np.broadcast_to(label_B != c, (len(first_E), len(label_B)))
            aurocs.append(_share(predictions_BP[:, c], first_E, later_EB, drawn_RB))
        mean_R: Floats = np.mean(aurocs, axis=0)
        return mean_R
    if isinstance(plan, SurvivalOutcome):
        time_B = labels["time_B"][known_B].astype(np.float64)
        event_B = labels["event_B"][known_B]
        first_E = np.flatnonzero(event_B)
        time_E1 = time_B[first_E][:, None]
        # As in `concordance_index`: of equal times, who was not the event lived longer.
        later_EB = (time_B > time_E1) | ((time_B == time_E1) & ~event_B)
        return _share(risk_of(predictions_BP), first_E, later_EB, drawn_RB)
    raise ValueError("expected a primary outcome of classes or survival")


def _share(
    score_B: Floats, first_E: NDArray[np.int64], later_EB: NDArray[np.bool_], drawn_RB: Floats
) -> Floats:
    """The part of drawn pairs whose first has the higher score; ties count half."""
    score_E1 = score_B[first_E][:, None]
    right_EB = later_EB * ((score_B < score_E1) + 0.5 * (score_B == score_E1))
    drawn_RE = drawn_RB[:, first_E]
    num_right_R = ((drawn_RE @ right_EB) * drawn_RB).sum(axis=1)
    num_pairs_R = ((drawn_RE @ later_EB.astype(np.float64)) * drawn_RB).sum(axis=1)
    share_R = np.full(len(drawn_RB), np.nan)
    np.divide(num_right_R, num_pairs_R, out=share_R, where=num_pairs_R > 0)
    return share_R


def _with_interval(difference: Difference, values_R: Floats) -> Difference:
    """The first value is of all patients, the others of resamples; undefined ones are left out."""
    drawn_R = values_R[1:][np.isfinite(values_R[1:])]
    if not np.isfinite(values_R[0]) or not len(drawn_R):
        return difference
    low, high = (float(q) for q in np.percentile(drawn_R, _LEVELS))
    return replace(
        difference, value=float(values_R[0]), low=low, high=high, num_resamples=len(drawn_R)
    )
