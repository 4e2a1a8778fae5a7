"""The C-index: by brute force, from binned times and risks, and within its bound."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.metrics.statistics import EvaluationSums
from common.metrics.survival import RISK_BINS, TIME_BINS, SurvivalStatistics, concordance_index
from tests.unit.survival_cases import (
    ORDER_ONLY,
    STATISTICS,
    Cohort,
    Floats,
    as_cohort,
    curves,
    drawn,
    labels_of,
    tied_patients,
)


def pair_by_pair(time_B: Floats, event_B: NDArray[np.bool_], risk_B: Floats) -> float:
    """Harrell's C as the sentence says it: over unordered pairs."""
    num_pairs, score = 0, 0.0
    for i in range(len(time_B)):
        for j in range(i + 1, len(time_B)):
            first, second = (i, j) if time_B[i] <= time_B[j] else (j, i)
            if time_B[i] == time_B[j]:
                if event_B[i] == event_B[j]:
                    continue
                first, second = (i, j) if event_B[i] else (j, i)
            elif not event_B[first]:
                continue
            num_pairs += 1
            if risk_B[first] > risk_B[second]:
                score += 1
            elif risk_B[first] == risk_B[second]:
                score += 0.5
    return score / num_pairs if num_pairs else float("nan")


@given(tied_patients)
def test_the_c_index_is_that_of_a_loop_over_all_pairs(
    rows: list[tuple[float, bool, float]],
) -> None:
    time_B = np.array([r[0] for r in rows], dtype=np.float64)
    event_B = np.array([r[1] for r in rows], dtype=np.bool_)
    risk_B = np.array([r[2] for r in rows], dtype=np.float64)
    found, expected = (f(time_B, event_B, risk_B) for f in (concordance_index, pair_by_pair))
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_c_index_worked_by_hand() -> None:
    # Times 1 (event), 2 (censored), 2 (event), 3 (event). Comparable pairs, earlier first: patient
    # 0 with 1, 2 and 3; patient 2 with 1 (same time, censored) and 3. Risks .9, .9, .5, .2: right,
    # tied, right; (2, 1): .5 < .9 wrong; (2, 3): right. With 0-1 tied: .5 + 1 + 1 + 0 + 1 of 5.
    time_B, event_B = np.array([1.0, 2.0, 2.0, 3.0]), np.array([True, False, True, True])
    assert concordance_index(time_B, event_B, np.array([0.9, 0.9, 0.5, 0.2])) == 3.5 / 5


@given(tied_patients)
def test_the_opposite_risk_has_the_opposite_c_index(rows: list[tuple[float, bool, float]]) -> None:
    time_B = np.array([r[0] for r in rows], dtype=np.float64)
    event_B = np.array([r[1] for r in rows], dtype=np.bool_)
    risk_B = np.array([r[2] for r in rows], dtype=np.float64)
    both = concordance_index(time_B, event_B, risk_B) + concordance_index(time_B, event_B, -risk_B)
    assert isnan(both) or both == pytest.approx(1.0)


def close_by_its_bound(cohort: Cohort) -> float | None:
    """The bound, once the binned C-index is within it of the exact one."""
    survival_BK, labels = cohort
    binned = STATISTICS.metrics_of(STATISTICS.sums_of(survival_BK, labels))
    exact = STATISTICS.exact_metrics(survival_BK, labels)["c_index"]
    c_index, bound = binned["c_index"], binned["c_index_error_bound"]
    if c_index is None:
        assert bound is None
        return None
    assert exact is not None
    assert bound is not None
    assert abs(c_index - exact) <= bound + 1e-12
    return bound


@given(tied_patients)
def test_the_binned_c_index_is_within_its_bound_of_the_exact_one(
    rows: list[tuple[float, bool, float]],
) -> None:
    close_by_its_bound(as_cohort(rows))


@given(st.integers(2, 300), st.integers(0, 2**32))
def test_the_bound_holds_for_many_cohorts(num_patients: int, seed: int) -> None:
    close_by_its_bound(drawn(num_patients, seed))


def test_the_bound_tells_something_in_a_cohort_of_some_hundreds() -> None:
    bound = close_by_its_bound(drawn(500, seed=4))
    assert bound is not None
    assert bound < 0.2  # the error itself is .003


def test_the_c_index_of_sums_worked_by_hand() -> None:
    # Time bins are 40 / 64 = .625 wide; risk bins are equal in the logit, from -8 to 8, 1/8 wide.
    # Constant curves of 1 - risk. Risk .83 (logit 1.586) at time 1 and .37 (-.532) at 5, both
    # events, and .0009 (-7.012) censored at 50: three pairs in three bins of time, all right.
    risk_B = np.array([0.83, 0.37, 0.0009])
    sums = STATISTICS.sums_of(
        np.tile(1 - risk_B[:, None], (1, 3)), labels_of([1.0, 5.0, 50.0], [True, True, False])
    )
    events_TR, censored_TR = (
        sums.sums[f"{name}_by_time_and_risk"] for name in ("events", "censored")
    )
    assert events_TR.shape == (TIME_BINS, RISK_BINS)
    assert np.argwhere(events_TR).tolist() == [[1, 76], [8, 59]]
    assert np.argwhere(censored_TR).tolist() == [[64, 7]]
    metrics = STATISTICS.metrics_of(sums)
    assert metrics["c_index"] == 1.0
    assert metrics["c_index_error_bound"] == 0.0
    assert metrics["num_events"] == 2


def test_the_bound_worked_by_hand() -> None:
    # Two events and a censored time within the first bin of time, one censored later, in the risk
    # bin of the first: pairs over bins: 2, one of them tied; within: 1 of the events and 2 with the
    # censored. Found: (.5 + 1) / 2; the bound is (.5 · 1 + 3) / (2 + 3).
    risk_B = np.array([0.5, 0.9, 0.2, 0.5])
    sums = STATISTICS.sums_of(
        np.tile(1 - risk_B[:, None], (1, 3)),
        labels_of([0.1, 0.2, 0.3, 9.0], [True, True, False, False]),
    )
    metrics = STATISTICS.metrics_of(sums)
    assert metrics["c_index"] == 0.75
    assert metrics["c_index_error_bound"] == 0.7


def test_without_an_event_there_is_no_c_index() -> None:
    metrics = STATISTICS.metrics_of(
        STATISTICS.sums_of(curves([(0.1, 0.1, 0.1)] * 3), labels_of([1.0, 2.0, 3.0], [False] * 3))
    )
    assert metrics["c_index"] is None
    assert metrics["c_index_error_bound"] is None
    assert metrics["num_events"] == 0
    assert metrics["loss"] is not None


@pytest.mark.parametrize("withheld", ["events_by_time_and_risk", "censored_by_time_and_risk"])
def test_without_a_histogram_there_is_a_loss_but_no_c_index(withheld: str) -> None:
    sums = dict(STATISTICS.sums_of(*drawn(50, seed=6)).sums)
    del sums[withheld]
    metrics = STATISTICS.metrics_of(EvaluationSums(sums=sums))
    assert {name for name, value in metrics.items() if value is not None} == {
        "num_patients",
        "loss",
    }


def test_exact_metrics_differ_in_the_c_index_alone() -> None:
    cohort = drawn(200, seed=7)
    binned = STATISTICS.metrics_of(STATISTICS.sums_of(*cohort))
    exact = STATISTICS.exact_metrics(*cohort)
    assert "c_index_error_bound" not in exact
    assert {name for name, value in exact.items() if value != binned[name]} == {"c_index"}


@pytest.mark.parametrize("last", [40.0, 0.1, 1e12])
def test_times_after_the_last_cut_point_have_one_bin_however_late(last: float) -> None:
    statistics = SurvivalStatistics(cut_points=(last,), has_likelihood=False)
    times = [0.0, 0.999 * last, last, 1.001 * last, 2 * last, 3e38]
    with np.errstate(all="raise"):
        sums = statistics.sums_of(np.full((6, 1), 0.5), labels_of(times, [True] * 6))
    by_time = sums.sums["events_by_time_and_risk"].sum(axis=1)
    expected = np.zeros(TIME_BINS)
    expected[[0, TIME_BINS - 2, TIME_BINS - 1]] = [1, 2, 3]
    np.testing.assert_array_equal(by_time, expected)


def test_risks_of_cox_are_binned_by_equal_steps_of_the_logit() -> None:
    # Logits two bins apart, each in the middle of one; beyond ±8 all are alike.
    logit_B = np.concatenate([np.arange(-8, 8, 0.25) + 1 / 16, [-40.0, -9.0, 9.0, 800.0]])
    with np.errstate(over="ignore"):
        falling_B1 = (1 / (1 + np.exp(logit_B)))[:, None]
    sums = ORDER_ONLY.sums_of(falling_B1, labels_of([1.0] * 68, [False] * 68))
    by_risk = sums.sums["censored_by_time_and_risk"].sum(axis=0)
    expected = np.zeros(RISK_BINS)
    expected[::2] = 1
    expected[0], expected[-1] = 3, 2
    np.testing.assert_array_equal(by_risk, expected)


def test_the_bound_of_an_order_alone_tells_something_too() -> None:
    rng = np.random.default_rng(0)
    logit_B = rng.normal(size=500)
    labels = labels_of(rng.exponential(10 * np.exp(-logit_B)).tolist(), [True] * 500)
    falling_B1 = (1 / (1 + np.exp(logit_B)))[:, None]
    metrics = ORDER_ONLY.metrics_of(ORDER_ONLY.sums_of(falling_B1, labels))
    exact = ORDER_ONLY.exact_metrics(falling_B1, labels)
    assert abs(metrics["c_index"] - exact["c_index"]) <= metrics["c_index_error_bound"] < 0.1


def test_a_risk_that_is_no_number_has_no_bin_and_is_an_error() -> None:
    labels = labels_of([1.0, 2.0], [True, False])
    with pytest.raises(ValueError, match="found some that are not a number"):
        ORDER_ONLY.sums_of(np.array([[0.5], [np.nan]]), labels)
