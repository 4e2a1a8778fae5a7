"""Forecasts: exact distributions as oracle, coverage at hospitals that differ, no small group."""

import numpy as np
import pytest
from scipy import stats

from common.metrics.demand import (
    Risks,
    _beta_binomial_interval,
    correction_of,
    planned,
    poisson_binomial_interval,
    told_sites,
)

MIDDLES = (np.arange(200) + 0.5) / 200


def risks_of(risk_B, label_B) -> Risks:
    count_S, _ = np.histogram(risk_B, np.arange(201) / 200)
    return Risks(
        middles_S=MIDDLES, count_S=count_S.astype(np.float64), observed=float(np.sum(label_B))
    )


def site(rng, num_patients: int, *, ratio: float = 1.0) -> Risks:
    """Patients whose true risk is `ratio` times that which is predicted."""
    risk_B = rng.beta(2, 8, num_patients)
    return risks_of(risk_B, rng.random(num_patients) < np.minimum(ratio * risk_B, 1))


@pytest.mark.parametrize("counts", [{3: 5, 100: 4, 190: 7}, {0: 30}, {20: 200, 199: 1}])
def test_the_interval_is_that_of_the_exact_distribution(counts: dict[int, int]) -> None:
    count_S = np.zeros(200)
    chance = np.ones(1)
    for place, count in counts.items():
        count_S[place] = count
        for _ in range(count):  # one patient after the other
            chance = np.convolve(chance, [1 - MIDDLES[place], MIDDLES[place]])
    below = np.cumsum(chance)
    expected = tuple(int(np.searchsorted(below, q)) for q in (0.025, 0.975))
    risks = Risks(middles_S=MIDDLES, count_S=count_S, observed=0.0)
    assert poisson_binomial_interval(risks) == expected


def test_of_many_patients_the_normal_interval_is_within_two_of_the_exact_one() -> None:
    count_S = np.full(200, 24.0)
    exact = poisson_binomial_interval(Risks(middles_S=MIDDLES, count_S=count_S, observed=0))
    risks = Risks(middles_S=MIDDLES, count_S=count_S * 2, observed=0)
    # 4,800 patients are counted exactly, 9,600 by a normal distribution: √2 as wide.
    low, high = poisson_binomial_interval(risks)
    assert high - low == pytest.approx(np.sqrt(2) * (exact[1] - exact[0]), abs=3)
    assert low + high == pytest.approx(2 * (exact[0] + exact[1]), abs=3)


@pytest.mark.parametrize(
    ("n", "rate", "sd"), [(100, 0.2, 0.05), (1000, 0.02, 0.01), (100, 0.6, 0.1)]
)
def test_the_beta_binomial_is_that_of_scipy(n: int, rate: float, sd: float) -> None:
    total = rate * (1 - rate) / sd**2 - 1
    oracle = stats.betabinom(n, rate * total, (1 - rate) * total)
    found = _beta_binomial_interval(n, rate, sd**2)
    assert found == (oracle.ppf(0.025), oracle.ppf(0.975))


def test_without_variance_it_is_the_binomial() -> None:
    oracle = stats.binom(100, 0.3)
    assert _beta_binomial_interval(100, 0.3, 0.0) == (oracle.ppf(0.025), oracle.ppf(0.975))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_at_the_end_of_its_range_has_an_interval(rate: float) -> None:
    low, high = _beta_binomial_interval(50, rate, 0.01)
    assert (low, high) == (50 * rate, 50 * rate)


def test_the_correction_is_observed_over_expected() -> None:
    sites = [Risks(middles_S=MIDDLES, count_S=np.full(200, 1.0), observed=o) for o in (90.0, 130.0)]
    correction = correction_of(sites)
    assert correction is not None
    assert correction.ratio == pytest.approx(220 / 200)


def test_too_few_patients_with_or_without_the_outcome_have_no_correction() -> None:
    for observed, is_there in ((9.0, False), (10.0, True), (190.0, True), (191.0, False)):
        one = Risks(middles_S=MIDDLES, count_S=np.full(200, 1.0), observed=observed)
        assert (correction_of([one]) is not None) is is_there


def test_the_spread_is_that_of_the_hospitals_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    alike, apart = [], []
    for _ in range(60):
        alike.append(correction_of([site(rng, 400) for _ in range(8)]).spread)
        ratios = np.exp(0.3 * rng.standard_normal(8))
        apart.append(correction_of([site(rng, 400, ratio=r) for r in ratios]).spread)
    assert np.mean(alike) < 0.08
    assert np.mean(apart) == pytest.approx(0.3, abs=0.07)


def coverage(spread: float, num_sites: int, *, kept: bool = True, trials: int = 80) -> float:
    """The part of intervals that hold what the next 100 patients of a hospital bring."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(trials):
        ratios = 0.8 * np.exp(spread * rng.standard_normal(num_sites))
        sites = [site(rng, 250, ratio=r) for r in ratios]
        correction = correction_of(sites)
        if not kept:
            correction = type(correction)(ratio=correction.ratio, error=0.0, spread=0.0)
        for ratio, risks in zip(ratios, sites, strict=True):
            _, low, high = planned(risks, correction, 100)
            held.append(low <= site(rng, 100, ratio=ratio).observed <= high)
    return float(np.mean(held))


def test_about_95_of_100_intervals_hold_what_comes_at_hospitals_that_are_alike() -> None:
    assert 0.93 <= coverage(0.0, 6) <= 0.985


def test_about_95_of_100_intervals_hold_what_comes_at_hospitals_that_differ() -> None:
    assert 0.91 <= coverage(0.35, 8) <= 0.985
    assert coverage(0.35, 8, kept=False) < 0.88


def told(*observed: tuple[float, float]) -> list[bool]:
    sites = {
        str(i): Risks(middles_S=MIDDLES, count_S=np.full(200, n / 200), observed=o)
        for i, (o, n) in enumerate(observed)
    }
    return [str(i) in told_sites(sites) for i in range(len(observed))]


@pytest.mark.threat("S0-2")
def test_a_small_number_is_not_told_nor_does_it_follow_by_difference() -> None:
    assert told((20, 100), (30, 100)) == [True, True]
    assert told((10, 100), (90, 100)) == [True, True]
    # 9 alone would follow from all and the others: the next fewest stays untold as well.
    assert told((9, 100), (30, 100), (20, 100)) == [False, True, False]
    assert told((30, 100), (95, 100), (40, 100)) == [False, False, True]
    # Two of 3 and 4 would be known to be 7 together.
    assert told((3, 100), (4, 100), (40, 100), (30, 100)) == [False, False, True, False]
    assert told((6, 100), (7, 100), (40, 100)) == [False, False, True]
    assert told((3, 100)) == [False]
