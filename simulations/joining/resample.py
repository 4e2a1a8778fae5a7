"""The main metric on resamples of a hospital's held-out patients, and whether they are enough.

What is kept of a hospital is a vector of metrics, one for each resample: no prediction, no outcome
and no id of a patient is written.

Letters of shapes: B patients, R resamples (the first is of everybody once).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.evaluation import Outcomes, Predictions
from common.metrics.resampling import draws
from common.metrics.statistics import Floats
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.page.words import several
from common.seeds import seed_of
from common.study import Study
from simulations.results.bootstrap import NUM_RESAMPLES, SEED, mean_values
from simulations.results.held_out import HeldOut
from simulations.results.measure import primary_metric

# Of each class, of events, or of patients with a known quantity: with fewer, resamples differ from
# one another too little to tell how far chance goes.
FEWEST = 10
# Judged together, H hospitals share the level of a test: by Holm's method the smallest p value is
# multiplied by H, and of R resamples none is below 2 / (R + 1). So many leave it .02 at most.
_RESAMPLES_A_HOSPITAL = 100
_ARM = "this arm"


@dataclass(frozen=True, kw_only=True)
class People:
    """Who a hospital's numbers are of.

    Attributes:
        too_few: why no interval can be stated; empty where it can.
    """

    num_training: int
    num_held_out: int
    too_few: str


def is_higher_better(study: Study) -> bool:
    """Whether more of the main metric is better: of an error it is not."""
    return not isinstance(study.primary, RegressionOutcome)


def num_resamples_of(num_hospitals: int) -> int:
    """How many resamples tell a difference at one of so many hospitals that are judged together.

    Guarantees:
        - A difference that no resample contradicts is one also by Holm's adjusted p value.

    >>> num_resamples_of(4), num_resamples_of(186)
    (2000, 18600)
    """
    return max(NUM_RESAMPLES, _RESAMPLES_A_HOSPITAL * num_hospitals)


def drawn_at(site: str, num_patients: int, *, num_resamples: int = NUM_RESAMPLES) -> Floats:
    """How often each patient of a hospital is in each resample; in the first, everybody once.

    Guarantees:
        - A hospital has the same resamples in every arm and seed, so that differences are paired.
        - Hospitals of equal size have them in another order, so that no mean over hospitals takes
          them for one.
    """
    drawn_RB = draws(num_patients, num_resamples, seed=SEED)
    order_R = 1 + np.random.default_rng(seed_of("joining", site)).permutation(len(drawn_RB) - 1)
    shuffled_RB: Floats = drawn_RB[np.concatenate([[0], order_R])]
    return shuffled_RB


def resampled(
    predictions: Predictions, outcomes: Outcomes, study: Study, drawn_RB: Floats
) -> Floats:
    """The main metric of the primary outcome in each resample, shape (R,).

    Guarantees:
        - Each is the exact metric of the resampled patients; NaN where that is undefined, and
          everywhere if a prediction is not finite.

    Args:
        drawn_RB: of the patients whose outcome is known.
    """
    outcome, _ = primary_metric(study)
    known_B = outcomes[outcome]["known_B"]
    predicted_BP = predictions[outcome][known_B]
    labels = {name: value[known_B] for name, value in outcomes[outcome].items()}
    if not len(predicted_BP) or not np.isfinite(predicted_BP).all():
        return np.full(len(drawn_RB), np.nan)
    plan = study.primary
    if isinstance(plan, RegressionOutcome):
        return _mean_error(predicted_BP[:, 0], labels["value_B"], plan.range, drawn_RB)
    held = HeldOut(
        id_B=np.arange(len(predicted_BP)).astype(str),
        site_B=np.full(len(predicted_BP), ""),
        outcomes={outcome: labels},
        present={},
        predictions={_ARM: {outcome: predicted_BP}},
        num_train={},
    )
    return mean_values([held], _ARM, study, drawn_RB)


def too_few(labels: Mapping[str, NDArray[Any]], plan: AnyOutcome) -> str:
    """Why no interval can be stated of these held-out patients; empty where it can."""
    known_B = labels["known_B"]
    num_known = int(known_B.sum())
    if not num_known:
        return "no outcome is known of a held-out patient"
    patients = several(num_known, "held-out patient")
    if isinstance(plan, ClassOutcome):
        counts_C = np.bincount(labels["label_B"][known_B], minlength=len(plan.classes))
        rarest = int(counts_C.argmin())
        least, of = int(counts_C[rarest]), f"of class “{plan.classes[rarest]}”"
        told = f"{least} of {patients} {'is' if least == 1 else 'are'} {of}"
    elif isinstance(plan, RegressionOutcome):
        least, told = num_known, f"there {'is' if num_known == 1 else 'are'} only {patients}"
    else:
        least = int(labels["event_B"][known_B].sum())
        told = f"{least} of {patients} had the event"
    return "" if least >= FEWEST else f"{told}, and an interval takes at least {FEWEST}"


def _mean_error(
    predicted_B: Floats, value_B: NDArray[Any], plausible: tuple[float, float], drawn_RB: Floats
) -> Floats:
    """The mean absolute error, both sides within the plausible range as `RegressionStatistics`."""
    low, high = plausible
    error_B = np.abs(np.clip(predicted_B, low, high) - np.clip(value_B.astype(float), low, high))
    mean_R: Floats = (drawn_RB @ error_B) / drawn_RB.sum(axis=1)
    return mean_R
