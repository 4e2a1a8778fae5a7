"""Bootstrap intervals over patients, and metrics as functions of how often each was drawn.

What the hospital's explanation of a model and the pages of results say of their own uncertainty.

Letters of shapes: B patients, R resamples (the first: everybody once), S distinct scores.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.seeds import seed_of

Floats = NDArray[np.float64]

NUM_RESAMPLES = 1000
_LEVELS = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval; None where it is undefined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


def draws(
    num_patients: int, num_resamples: int = NUM_RESAMPLES, *, seed: int | None = None
) -> Floats:
    """How often each patient is in each resample, shape (R, B); in the first row, everybody once.

    Guarantees:
        - Equal arguments give equal draws.

    Args:
        seed: without one, it follows from the number of patients.
    """
    if num_patients == 0:
        return np.ones((1, 0))
    own = seed_of(0, "explain", num_patients)
    random = np.random.default_rng(own if seed is None else seed)
    chance_B = np.full(num_patients, 1 / num_patients)
    drawn_RB = random.multinomial(num_patients, chance_B, size=num_resamples)
    return np.concatenate([np.ones((1, num_patients)), drawn_RB])


def estimate(values_R: Floats) -> Estimate:
    """The value of all patients with the interval of the resamples in which it is defined.

    Source: the percentile bootstrap, Efron and Tibshirani 1993, section 13.3.
    """
    if not np.isfinite(values_R[0]):
        return Estimate()
    defined_R = values_R[1:][np.isfinite(values_R[1:])]
    if not len(defined_R):
        return Estimate(value=float(values_R[0]))
    low, high = (float(q) for q in np.percentile(defined_R, _LEVELS))
    return Estimate(value=float(values_R[0]), low=low, high=high)


def mean(value_B: Floats, drawn_RB: Floats) -> Floats:
    """The mean of a value in each resample, shape (R,)."""
    return share(drawn_RB @ value_B, drawn_RB.sum(axis=1))


def share(part_R: Floats, whole_R: Floats) -> Floats:
    """The quotient; NaN where there is nothing to divide by."""
    result_R = np.full(np.broadcast(part_R, whole_R).shape, np.nan)
    np.divide(part_R, whole_R, out=result_R, where=whole_R > 0)
    return result_R


def auroc(score_B: Floats, is_positive_B: NDArray[np.bool_], drawn_RB: Floats) -> Floats:
    """The exact AUROC in each resample, shape (R,); ties count half, NaN with one class alone."""
    order = np.argsort(score_B, kind="stable")
    starts = np.flatnonzero(np.diff(score_B[order], prepend=-np.inf))
    if not len(starts):
        return np.full(len(drawn_RB), np.nan)
    drawn_RB, positive_B = drawn_RB[:, order], is_positive_B[order]
    positives_RS = np.add.reduceat(drawn_RB * positive_B, starts, axis=1)
    negatives_RS = np.add.reduceat(drawn_RB * ~positive_B, starts, axis=1)
    below_RS = np.cumsum(negatives_RS, axis=1) - negatives_RS
    won_R = (positives_RS * (below_RS + negatives_RS / 2)).sum(axis=1)
    return share(won_R, positives_RS.sum(axis=1) * negatives_RS.sum(axis=1))


def concordance(
    risk_B: Floats, time_B: Floats, event_B: NDArray[np.bool_], drawn_RB: Floats
) -> Floats:
    """Harrell's C in each resample, shape (R,), as `common.metrics.survival` counts pairs."""
    first_E = np.flatnonzero(event_B)
    time_E1, risk_E1 = time_B[first_E][:, None], risk_B[first_E][:, None]
    later_EB = ((time_B > time_E1) | ((time_B == time_E1) & ~event_B)).astype(np.float64)
    right_EB = later_EB * ((risk_B < risk_E1) + 0.5 * (risk_B == risk_E1))
    drawn_RE = drawn_RB[:, first_E]
    num_right_R = ((drawn_RE @ right_EB) * drawn_RB).sum(axis=1)
    return share(num_right_R, ((drawn_RE @ later_EB) * drawn_RB).sum(axis=1))
