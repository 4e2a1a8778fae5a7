"""How many patients with an outcome to plan for, from the distribution of predicted risks.

Two different questions, which must not be mixed up: how many of patients whose risks are known will
have the outcome (Poisson-binomial), and how many of the next patients of the same hospital, whose
risks are not known yet, will.

Letters of shapes: B patients, S score bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lgamma, sqrt

import numpy as np

from common.metrics.intervals import FEWEST, Z
from common.metrics.statistics import Floats

# Beyond, the normal distribution is as good as the exact one.
_MOST_EXACT = 5_000
_TAIL = 0.025


@dataclass(frozen=True, kw_only=True)
class Risks:
    """The predicted risks of some patients, as counts in bins, and how many have the outcome."""

    middles_S: Floats
    count_S: Floats
    observed: float

    @property
    def num_patients(self) -> float:
        """All patients."""
        return float(self.count_S.sum())

    @property
    def expected(self) -> float:
        """The sum of the risks."""
        return float(self.count_S @ self.middles_S)

    @property
    def variance(self) -> float:
        """Of how many have the outcome, if the risks are right."""
        return float(self.count_S @ (self.middles_S * (1 - self.middles_S)))


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Observed over expected patients, of all hospitals together.

    Attributes:
        ratio: by which expected patients are multiplied.
        error: of the logarithm of the ratio, one standard deviation.
        spread: how far the logarithms of the hospitals' own ratios are apart beyond chance.
    """

    ratio: float
    error: float
    spread: float


def poisson_binomial_interval(risks: Risks) -> tuple[int, int]:
    """The 95 % interval of how many of these very patients have the outcome, if risks are right.

    Guarantees:
        - Up to 5,000 patients it is that of the exact distribution.

    Source: Hong 2013, Computational Statistics and Data Analysis 59:41, the discrete Fourier
    transform of the characteristic function.
    """
    n = int(risks.num_patients)
    if n > _MOST_EXACT:
        half = Z * sqrt(risks.variance)
        return max(int(risks.expected - half), 0), min(int(risks.expected + half) + 1, n)
    turn = np.exp(2j * np.pi * np.arange(n + 1) / (n + 1))
    product = np.ones(n + 1, dtype=np.complex128)
    for risk, count in zip(risks.middles_S, risks.count_S, strict=True):
        if count:
            product *= (1 - risk + risk * turn) ** int(count)
    return _quantiles(np.fft.fft(product).real / (n + 1))


def _quantiles(chance: Floats) -> tuple[int, int]:
    """The counts, 0…, between which all but 2.5 % at either end lies."""
    below = np.cumsum(chance)
    low, high = np.searchsorted(below, [_TAIL, 1 - _TAIL])
    return int(low), int(min(high, len(chance) - 1))


def correction_of(sites: Sequence[Risks]) -> Correction | None:
    """How far all hospitals' predictions are off, and how differently; None of few patients.

    The spread is the method of moments of DerSimonian and Laird over the logarithms of the
    hospitals' ratios, each weighted by its expected patients.

    Source: DerSimonian and Laird 1986, Controlled Clinical Trials 7:177.
    """
    expected, observed = (sum(getattr(s, n) for s in sites) for n in ("expected", "observed"))
    n = sum(s.num_patients for s in sites)
    if expected <= 0 or min(observed, n - observed) < FEWEST:
        return None
    ratio = observed / expected
    # What a hospital's ratio varies by chance, where risks are right once corrected.
    weights = np.array([_weight(s) for s in sites])
    logs = np.array([np.log((s.observed + 0.5) / (ratio * s.expected + 0.5)) for s in sites])
    mean = float(weights @ logs / weights.sum())
    scale = float(weights.sum() - weights @ weights / weights.sum())
    excess = float(weights @ (logs - mean) ** 2) - (len(sites) - 1)
    spread = sqrt(max(excess / scale, 0.0)) if scale > 0 else 0.0
    # Where hospitals differ, their number counts, and not that of their patients.
    by_chance = sum(s.variance for s in sites) / observed / expected
    between = spread**2 * sum(s.expected**2 for s in sites) / expected**2
    return Correction(ratio=ratio, error=sqrt(by_chance + between), spread=spread)


def _weight(risks: Risks) -> float:
    """One over the variance of the logarithm of a hospital's ratio."""
    return max(risks.expected, 0.5) ** 2 / max(risks.variance, 1e-9)


def planned(risks: Risks, correction: Correction, num_patients: int) -> tuple[float, int, int]:
    """Patients with the outcome among the next so many of this hospital, and a 95 % interval.

    Next patients are taken to be like those who were held out, each drawn anew, so that their risks
    vary as well. The interval holds chance, how little is known of the correction, and how far
    hospitals differ from one another (as a beta-binomial of that mean and variance).

    Guarantees:
        - About 95 of 100 intervals hold what comes, at hospitals that differ as well.
    """
    mean_risk = risks.expected / risks.num_patients
    rate = min(correction.ratio * mean_risk, 1.0)
    variance_S = (risks.middles_S - mean_risk) ** 2
    of_mix = float(risks.count_S @ variance_S) / risks.num_patients**2 / max(mean_risk, 1e-12) ** 2
    relative = correction.error**2 + correction.spread**2 + of_mix
    low, high = _beta_binomial_interval(num_patients, rate, relative * rate**2)
    return rate * num_patients, low, high


def _beta_binomial_interval(n: int, rate: float, variance: float) -> tuple[int, int]:
    """The 95 % interval of a binomial whose probability has this mean and variance."""
    rate = min(max(rate, 1e-6), 1 - 1e-6)
    # Less than all that a probability of this mean can vary; and not so little that the difference
    # of logarithms is rounding.
    variance = min(max(variance, 1e-8), 0.5 * rate * (1 - rate))
    total = rate * (1 - rate) / variance - 1
    a, b = rate * total, (1 - rate) * total
    log_chance = [
        lgamma(n + 1)
        - lgamma(k + 1)
        - lgamma(n - k + 1)
        + lgamma(k + a)
        + lgamma(n - k + b)
        - lgamma(n + a + b)
        - lgamma(a)
        - lgamma(b)
        + lgamma(a + b)
        for k in range(n + 1)
    ]
    chance = np.exp(np.array(log_chance))
    return _quantiles(chance / chance.sum())


def told_sites(sites: Mapping[str, Risks]) -> set[str]:
    """The sites of which observed counts may be told: no small group, nor one by difference.

    What those left out have together follows from all and the others, so there are two of them at
    least, and together they are no small group either.
    """
    hidden = [name for name, s in sites.items() if _fewer(s) < FEWEST]
    others = sorted(sites.keys() - set(hidden), key=lambda name: (_fewer(sites[name]), name))
    while hidden and others and (len(hidden) < 2 or _fewer(*(sites[n] for n in hidden)) < FEWEST):
        hidden.append(others.pop(0))
    return set(sites) - set(hidden)


def _fewer(*sites: Risks) -> float:
    """Patients with the outcome, or without it: those of which there are fewer."""
    observed = sum(s.observed for s in sites)
    return min(observed, sum(s.num_patients for s in sites) - observed)
