"""How sure a number is, given these patients and these seeds; and how sure several are together.

Two things could have come out otherwise: which patients a hospital happens to hold out, and the
chance in training (order of batches, first weights, noise). The first is told by a bootstrap over
patients of the mean over seeds; the second by how far that mean would move with other seeds, which
is Student's t with the standard error over seeds. Both are independent, so that the interval is of
their sum.

Letters of shapes: S seeds, R resamples (the first is of everybody once).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf

import numpy as np
from scipy.stats import t as student

from common.metrics.statistics import Floats

LEVEL = 0.95
_SEED = 20241


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number as the mean over seeds, with its interval.

    Attributes:
        by_seed: NaN where the number is undefined in a seed; the mean is over the others.
        low, high: of the 95 % interval; None where none can be stated.
        p: two-sided, of the hypothesis that the number is 0; None without an interval.
        patients_sd: how far resamples of patients move it.
        seeds_se: its standard error over seeds; None with one seed.
    """

    by_seed: tuple[float, ...]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    patients_sd: float | None = None
    seeds_se: float | None = None

    @property
    def num_seeds(self) -> int:
        """The seeds in which the number is defined."""
        return int(np.isfinite(self.by_seed).sum())

    @property
    def seeds_sd(self) -> float | None:
        """The standard deviation over seeds; None with fewer than two."""
        return None if self.seeds_se is None else self.seeds_se * self.num_seeds**0.5


def estimate(
    values_SR: Floats, *, has_interval: bool = True, bounds: tuple[float, float] = (-inf, inf)
) -> Estimate:
    """The mean over seeds with an interval that holds both kinds of chance.

    Guarantees:
        - Where all seeds agree, the interval is the bootstrap's over patients.
        - Where resamples agree, it is that of Student's t over seeds.
        - Of data with both kinds of chance, about 95 of 100 intervals hold the true value.
        - The same values give the same interval.
        - A resample in which the number is undefined in any seed is left out.
        - No end of an interval is beyond the bounds.

    | seeds with a value | the result |
    |---|---|
    | none | nothing is known |
    | one | the interval is of patients alone |

    Args:
        values_SR: by seed, the number in each resample; the resamples are the same in all seeds.
        has_interval: whether there are enough patients to state one.
        bounds: beyond which the number cannot be.

    Source: of the bootstrap, Efron and Tibshirani 1993, section 13.3 (percentiles).
    """
    by_seed = tuple(float(v) for v in values_SR[:, 0])
    known_SR = values_SR[np.isfinite(values_SR[:, 0])]
    if not len(known_SR):
        return Estimate(by_seed=by_seed)
    first_S = known_SR[:, 0]
    value, seeds_se = float(first_S.mean()), None
    if len(first_S) > 1:
        seeds_se = float(first_S.std(ddof=1)) / len(first_S) ** 0.5
    mean_R = known_SR[:, 1:].mean(axis=0)
    drawn_R = mean_R[np.isfinite(mean_R)]
    if not has_interval or not len(drawn_R):
        return Estimate(by_seed=by_seed, value=value, seeds_se=seeds_se)
    moved_R = drawn_R
    if seeds_se is not None:
        moved_R = drawn_R + seeds_se * _student(len(drawn_R), len(first_S) - 1)
    ends = np.quantile(moved_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = (float(end) for end in np.clip(ends, *bounds))
    return Estimate(
        by_seed=by_seed,
        value=value,
        low=low,
        high=high,
        p=_two_sided(moved_R),
        patients_sd=float(drawn_R.std(ddof=1)) if len(drawn_R) > 1 else 0.0,
        seeds_se=seeds_se,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p value adjusted for all of them: judged by these, even one false claim is improbable.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


@cache
def _student(count: int, freedom: int) -> Floats:
    """So many values of Student's t: its evenly spaced quantiles, in an order drawn once."""
    quantiles_R = student.ppf((np.arange(count) + 0.5) / count, freedom)
    order_R = np.random.default_rng(_SEED).permutation(count)
    shuffled_R: Floats = quantiles_R[order_R]
    return shuffled_R


def _two_sided(drawn_R: Floats) -> float:
    """Twice the part of resamples beyond 0; never 0, however many resamples there are."""
    beyond = min(int((drawn_R <= 0).sum()), int((drawn_R >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(drawn_R) + 1))
