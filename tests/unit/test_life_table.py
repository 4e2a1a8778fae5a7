"""Observed survival from counts: Kaplan and Meier's estimate as oracle, and the sums of curves."""

import numpy as np
import pytest

from common.metrics.life_table import observed_survival
from common.metrics.statistics import EvaluationSums
from common.metrics.survival import SurvivalStatistics

CUTS = (10.0, 20.0, 40.0)
STATISTICS = SurvivalStatistics(cut_points=CUTS, has_likelihood=True)


def labels_of(time_B, event_B) -> dict[str, np.ndarray]:
    return {
        "known_B": np.ones(len(time_B), dtype=np.bool_),
        "time_B": np.asarray(time_B, dtype=np.float32),
        "event_B": np.asarray(event_B, dtype=np.bool_),
    }


def drawn(num_patients: int, seed: int, censored: float = 60.0):
    """Times of events of mean 30, and censoring that depends on nothing."""
    rng = np.random.default_rng(seed)
    event_B, end_B = rng.exponential(30, num_patients), rng.exponential(censored, num_patients)
    return np.minimum(event_B, end_B), event_B <= end_B


def sums_of(time_B, event_B, statistics: SurvivalStatistics = STATISTICS) -> EvaluationSums:
    curve_BK = np.tile([0.7, 0.5, 0.25], (len(time_B), 1))
    return statistics.sums_of(curve_BK, labels_of(time_B, event_B))


def kaplan_meier(time_B, event_B, at: float) -> float:
    """One patient after the other. Source: Kaplan and Meier 1958, JASA 53:457."""
    survival = 1.0
    for time in sorted(set(time_B[event_B & (time_B < at)])):
        survival *= 1 - (event_B & (time_B == time)).sum() / (time_B >= time).sum()
    return survival


@pytest.mark.parametrize("seed", range(5))
def test_without_censoring_it_is_the_part_of_patients_whose_time_is_later(seed: int) -> None:
    time_B = np.random.default_rng(seed).exponential(30, 200)
    told = observed_survival(sums_of(time_B, np.ones(200, dtype=bool)), CUTS)
    assert [s.time for s in told] == list(CUTS)
    for found in told:
        # 10, 20 and 40 are edges of 64 bins up to 40.
        assert found.observed == pytest.approx((time_B >= found.time).mean())
        assert found.at_risk == (time_B >= found.time).sum()


@pytest.mark.parametrize("cuts", [CUTS, (7.0, 13.3, 40.0)])
@pytest.mark.parametrize("num_patients", [40, 400])
def test_it_differs_from_kaplan_and_meier_by_what_happens_within_one_bin(
    num_patients: int, cuts: tuple[float, ...]
) -> None:
    statistics = SurvivalStatistics(cut_points=cuts, has_likelihood=True)
    width = cuts[-1] / 64
    for seed in range(10):
        time_B, event_B = drawn(num_patients, seed)
        for found in observed_survival(sums_of(time_B, event_B, statistics), cuts):
            # All events of a bin sooner, or later; and the censored of each bin before or behind.
            high = kaplan_meier(time_B, event_B, found.time - width)
            low = kaplan_meier(time_B, event_B, found.time + width)
            slack = 1 / num_patients
            assert low - slack <= found.observed <= high + slack


@pytest.mark.parametrize("time", [1, 2])
def test_about_95_of_100_intervals_hold_the_true_survival(time: int) -> None:
    true = np.exp(-CUTS[time] / 30)
    intervals = [
        observed_survival(sums_of(*drawn(120, s)), CUTS)[time].interval for s in range(300)
    ]
    assert 0.91 <= np.mean([low <= true <= high for low, high in intervals]) <= 0.985
    narrow = [(low + 0.02, high - 0.02) for low, high in intervals]
    assert np.mean([low <= true <= high for low, high in narrow]) < 0.93


def test_times_from_which_on_nobody_is_at_risk_are_missing() -> None:
    time_B = np.full(50, 15.0)
    told = observed_survival(sums_of(time_B, np.arange(50) < 10), CUTS)
    assert [s.time for s in told] == [10.0]
    assert told[0].observed == 1


def test_before_the_first_event_few_patients_make_a_wide_interval() -> None:
    few, many = (
        observed_survival(sums_of(np.full(n, 50.0), np.zeros(n, dtype=bool)), CUTS)[0]
        for n in (20, 2000)
    )
    assert few.observed == many.observed == 1
    assert few.interval[0] < 0.9 < 0.99 < many.interval[0]


def test_without_counts_nothing_is_told() -> None:
    assert observed_survival(EvaluationSums(sums={"num_patients": np.asarray(9.0)}), CUTS) == []


# The sum of the curves.


def test_the_sum_of_curves_merges_and_is_that_of_the_predictions() -> None:
    rng = np.random.default_rng(0)
    curve_BK = np.sort(rng.random((60, 3)), axis=1)[:, ::-1]
    whole = STATISTICS.sums_of(curve_BK, labels_of(*drawn(60, 1)))
    assert whole.sums["survival_sum"] == pytest.approx(curve_BK.sum(axis=0))
    time_B, event_B = drawn(60, 1)
    parts = [
        STATISTICS.sums_of(curve_BK[part], labels_of(time_B[part], event_B[part]))
        for part in (slice(20), slice(20, 60))
    ]
    assert (parts[0] + parts[1]).sums["survival_sum"] == pytest.approx(curve_BK.sum(axis=0))


def test_a_model_of_order_alone_has_no_sum_of_curves() -> None:
    order = SurvivalStatistics(cut_points=CUTS, has_likelihood=False)
    assert "survival_sum" in STATISTICS.shapes()
    assert "survival_sum" not in order.shapes()


@pytest.mark.threat("C-1")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda total_K: total_K[::-1],  # a curve that ascends
        lambda total_K: total_K * 0.5,  # other risks than were counted
        lambda total_K: total_K + 30.0,
        lambda total_K: total_K * np.array([1.0, 1.0, 1.6]),
    ],
)
def test_a_sum_of_curves_that_no_patients_of_these_risks_have_is_refused(spoil) -> None:
    honest = sums_of(*drawn(100, 2)).sums
    flat = {name: np.ravel(value).tolist() for name, value in honest.items()}
    STATISTICS.read(flat)
    flat["survival_sum"] = spoil(honest["survival_sum"]).tolist()
    with pytest.raises(ValueError, match="found some that disagree"):
        STATISTICS.read(flat)


def test_coarser_bins_count_the_same_patients() -> None:
    coarse = SurvivalStatistics(cut_points=CUTS, has_likelihood=True, time_bins=9, risk_bins=4)
    sums = sums_of(*drawn(100, 3), coarse)
    coarse.raise_if_impossible(sums)
    assert sums.sums["events_by_time_and_risk"].shape == (9, 4)
    fine = sums_of(*drawn(100, 3))
    assert coarse.metrics_of(sums)["num_events"] == STATISTICS.metrics_of(fine)["num_events"]
