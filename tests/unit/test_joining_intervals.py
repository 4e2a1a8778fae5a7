"""Intervals of patients and seeds: two limits known in closed form, coverage, and Holm by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from simulations.joining.intervals import estimate, holm
from simulations.joining.resample import drawn_at, num_resamples_of

NUM_PATIENTS, NUM_SEEDS = 60, 5
DRAWN_RB = drawn_at("north", NUM_PATIENTS)


def means_of(value_SB: np.ndarray) -> np.ndarray:
    """A metric that is a mean over patients, by seed and resample."""
    means: np.ndarray = (value_SB @ DRAWN_RB.T) / NUM_PATIENTS
    return means


def test_where_all_seeds_agree_the_interval_is_the_bootstraps_over_patients() -> None:
    value_B = np.random.default_rng(1).normal(size=NUM_PATIENTS)
    means_SR = np.tile(means_of(value_B[None]), (NUM_SEEDS, 1))
    found = estimate(means_SR)
    low, high = np.quantile(means_SR[0, 1:], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value == pytest.approx(value_B.mean())
    assert found.patients_sd == pytest.approx(means_SR[0, 1:].std(ddof=1))


def test_where_resamples_agree_the_interval_is_students_t_over_seeds() -> None:
    by_seed = np.array([0.1, 0.3, 0.2, 0.4, 0.1])
    found = estimate(np.tile(by_seed[:, None], (1, 2001)))
    # Mean .22, standard error .05831, 2.776 of which are .16188 (t of 4 degrees).
    half = student.ppf(0.975, 4) * by_seed.std(ddof=1) / 5**0.5
    assert half == pytest.approx(0.16188, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((0.22 - half, 0.22 + half), rel=0.01)
    assert found.seeds_sd == pytest.approx(by_seed.std(ddof=1))


def test_of_data_with_both_kinds_of_chance_about_95_of_100_intervals_hold_the_true_value() -> None:
    random, true = np.random.default_rng(2), 0.7
    num_both, num_patients_alone, num_trials = 0, 0, 250
    for _ in range(num_trials):
        patients_B = random.normal(size=NUM_PATIENTS)
        seeds_S1 = random.normal(scale=0.3, size=(NUM_SEEDS, 1))
        means_SR = means_of(true + patients_B + seeds_S1)
        both = estimate(means_SR)
        # As if the mean over seeds were one training: the chance in training is forgotten.
        alone = estimate(means_SR.mean(axis=0, keepdims=True))
        num_both += (both.low or 0) <= true <= (both.high or 0)
        num_patients_alone += (alone.low or 0) <= true <= (alone.high or 0)
    assert 0.92 <= num_both / num_trials <= 0.985
    assert num_patients_alone / num_trials < 0.87


def test_the_same_values_give_the_same_interval() -> None:
    means_SR = means_of(np.random.default_rng(3).normal(size=(NUM_SEEDS, NUM_PATIENTS)))
    assert estimate(means_SR) == estimate(means_SR.copy())


def test_one_seed_gives_the_interval_of_patients_alone() -> None:
    means_SR = means_of(np.random.default_rng(4).normal(size=(1, NUM_PATIENTS)))
    found = estimate(means_SR)
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(means_SR[0, 1:], [0.025, 0.975]))
    )
    assert (found.seeds_se, found.seeds_sd, found.num_seeds) == (None, None, 1)


def test_of_no_seed_nothing_is_known() -> None:
    found = estimate(np.full((3, 10), np.nan))
    assert (found.value, found.low, found.p, found.num_seeds) == (None, None, None, 0)


def test_seeds_and_resamples_without_a_value_are_left_out() -> None:
    means_SR = means_of(np.random.default_rng(5).normal(size=(3, NUM_PATIENTS)))
    holed_SR = np.concatenate([means_SR, np.full((1, means_SR.shape[1]), np.nan)])
    found = estimate(holed_SR)
    assert (found.value, found.low) == (estimate(means_SR).value, estimate(means_SR).low)
    assert found.num_seeds == 3
    holed_SR[0, 7] = np.nan
    assert estimate(holed_SR).low == estimate(np.delete(means_SR, 7, axis=1)).low


def test_no_end_of_an_interval_is_beyond_the_bounds() -> None:
    # Two seeds: Student's t of one degree reaches far.
    levels_SR = np.tile(np.array([[0.7], [0.9]]), (1, 500))
    free, bounded = estimate(levels_SR), estimate(levels_SR, bounds=(0.0, 1.0))
    assert (free.low or 0) < 0
    assert (bounded.low, bounded.high, bounded.p) == (0.0, 1.0, free.p)


def test_without_enough_patients_the_value_stands_alone() -> None:
    found = estimate(np.array([[0.5, 0.4], [0.7, 0.9]]), has_interval=False)
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high, found.p, found.patients_sd) == (None, None, None, None)


def test_no_difference_at_all_has_a_p_value_of_1() -> None:
    found = estimate(np.zeros((5, 2001)))
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_p_value_is_never_0_and_agrees_with_the_interval() -> None:
    far = estimate(np.ones((5, 2001)))
    assert far.p == pytest.approx(2 / 2001)
    value_SB = np.random.default_rng(6).normal(size=(NUM_SEEDS, NUM_PATIENTS))
    for shift in np.linspace(-0.6, 0.6, 41):
        found = estimate(means_of(value_SB + shift))
        assert found.low is not None
        assert found.high is not None
        assert found.p is not None
        is_outside = found.low > 0 or found.high < 0
        # One resample more or less, on the edge.
        assert is_outside == (found.p < 0.05) or abs(found.p - 0.05) < 0.002


def test_holm_finds_what_bonferroni_does_not() -> None:
    # Times 3, 2 and 1; Bonferroni would have .06 and .12 for the last two.
    assert holm([0.01, 0.02, 0.04]) == pytest.approx([0.03, 0.04, 0.04])


@given(st.lists(st.floats(0.0005, 1.0), min_size=1, max_size=12))
def test_holm_lies_between_the_p_values_and_bonferroni_and_keeps_their_order(
    p_values: list[float],
) -> None:
    found = holm(p_values)
    assert all(p <= adjusted for p, adjusted in zip(p_values, found, strict=True))
    bonferroni = [min(1.0, len(p_values) * p) for p in p_values]
    assert all(a <= b + 1e-12 for a, b in zip(found, bonferroni, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.asarray(found)[order]) >= 0).all()
    # What Holm's steps reject: in order, until one is not below level / (number left).
    is_going, rejected = True, []
    for rank, place in enumerate(order):
        is_going = is_going and p_values[place] * (len(p_values) - rank) < 0.05
        rejected.append(is_going)
    assert [found[place] < 0.05 for place in order] == rejected


@pytest.mark.parametrize("num_hospitals", [1, 4, 20, 50, 186, 1000])
def test_of_any_number_of_hospitals_one_that_differs_stands(num_hospitals: int) -> None:
    # No p value is below 2 / (R + 1); by Holm's method the smallest counts once for each hospital.
    smallest = 2 / (num_resamples_of(num_hospitals) + 1)
    assert holm([smallest, *[1.0] * (num_hospitals - 1)])[0] <= 0.02


def test_with_2000_resamples_none_of_50_hospitals_could_stand() -> None:
    assert holm([2 / 2001, *[1.0] * 50])[0] > 0.05
