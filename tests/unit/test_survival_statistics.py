"""Sums of predicted survival: the C-index by brute force, the likelihood one by one, their laws."""

from collections.abc import Callable
from math import isnan, log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.metrics.statistics import EvaluationSums
from common.metrics.survival import (
    RISK_BINS,
    TIME_BINS,
    SurvivalStatistics,
    concordance_index,
    negative_log_likelihood,
    risk_of,
    survived_intervals,
)

CUTS = (10.0, 20.0, 40.0)
STATISTICS = SurvivalStatistics(cut_points=CUTS, has_likelihood=True)
ORDER_ONLY = SurvivalStatistics(cut_points=CUTS, has_likelihood=False)

Floats = NDArray[np.float64]
Cohort = tuple[Floats, dict[str, NDArray[Any]]]


def labels_of(
    times: list[float], events: list[bool], known: list[bool] | None = None
) -> dict[str, NDArray[Any]]:
    return {
        "known_B": np.array([True] * len(times) if known is None else known, dtype=np.bool_),
        "time_B": np.array(times, dtype=np.float32),
        "event_B": np.array(events, dtype=np.bool_),
    }


def curves(hazards: list[tuple[float, float, float]]) -> Floats:
    return np.cumprod(1 - np.array(hazards, dtype=np.float64).reshape(-1, len(CUTS)), axis=1)


def drawn(num_patients: int, seed: int) -> Cohort:
    """Patients whose risk tells something of their time; some outlive the last cut point."""
    rng = np.random.default_rng(seed)
    hazard_BK = rng.uniform(0.01, 0.6, (num_patients, 1)) * rng.uniform(
        0.8, 1.2, (num_patients, len(CUTS))
    )
    times = rng.exponential(8 / hazard_BK[:, 0])
    events = rng.random(num_patients) < 0.6
    return np.cumprod(1 - hazard_BK, axis=1), labels_of(times.tolist(), events.tolist())


# Few different times and risks, so that ties are common.
tied_patients = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 5.0, 10.0, 15.0, 20.0, 40.0, 41.0]) | st.floats(0, 60),
        st.booleans(),
        st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1),
    ),
    max_size=25,
)


def as_cohort(rows: list[tuple[float, bool, float]]) -> Cohort:
    labels = labels_of([r[0] for r in rows], [r[1] for r in rows])
    return curves([(r[2], r[2] / 2, r[2] / 3) for r in rows]), labels


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


def test_risk_is_the_mean_probability_of_the_event_by_the_cut_points() -> None:
    np.testing.assert_allclose(risk_of(np.array([[0.9, 0.6, 0.3], [1.0, 1.0, 1.0]])), [0.4, 0.0])


def test_the_likelihood_worked_by_hand() -> None:
    # Hazards 1/2, 1/5, 1/4: the curve is .5, .4, .3. Events at 10 and 10.5 (intervals 1 and 2):
    # .5 and .1; an event beyond the last cut: .3; censored at 4.9: 1; at 5, the first middle: .5;
    # at 14.9: .5; at 15: .4; at 29.9: .4; at 30: .3; at 1000: .3. At time 0: event .5, censored 1.
    times = [10, 10.5, 41, 4.9, 5, 14.9, 15, 29.9, 30, 1000, 0, 0]
    events = [True] * 3 + [False] * 7 + [True, False]
    likelihoods = [0.5, 0.1, 0.3, 1, 0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.5, 1]
    labels = labels_of([float(t) for t in times], events)
    survival_BK = curves([(1 / 2, 1 / 5, 1 / 4)] * len(times))
    loss_B = negative_log_likelihood(
        survival_BK, labels["time_B"].astype(np.float64), labels["event_B"], CUTS
    )
    np.testing.assert_allclose(loss_B, -np.log(likelihoods), rtol=1e-6, atol=1e-12)


def one_by_one(curve: Floats, time: float, event: bool, cuts: tuple[float, ...]) -> float:
    """The likelihood in words: the drop over the interval of an event, or what is left."""
    left, previous = 1.0, 0.0
    for k, end in enumerate(cuts):
        if event and time <= end:
            return -log(max(left - curve[k], 1e-7))
        if not event and time < (previous + end) / 2:
            break
        left, previous = float(curve[k]), end
    return -log(max(left, 1e-7))


@given(tied_patients)
def test_the_likelihood_is_that_of_one_patient_after_the_other(
    rows: list[tuple[float, bool, float]],
) -> None:
    survival_BK, labels = as_cohort(rows)
    time_B = labels["time_B"].astype(np.float64)
    found = negative_log_likelihood(survival_BK, time_B, labels["event_B"], CUTS)
    expected = [
        one_by_one(curve, time, event, CUTS)
        for curve, time, event in zip(survival_BK, time_B, labels["event_B"], strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_time_at_a_cut_point_that_no_float_holds_is_in_the_interval_before() -> None:
    # 0.1 as a 32-bit time is above 0.1 as a 64-bit cut point.
    cuts = (0.1, 0.3, 0.7)
    labels = labels_of([0.1, 0.3, 0.7], [True, True, True])
    survival_BK = np.array([[0.5, 0.4, 0.3]] * 3)
    loss_B = negative_log_likelihood(
        survival_BK, labels["time_B"].astype(np.float64), labels["event_B"], cuts
    )
    np.testing.assert_allclose(loss_B, -np.log([0.5, 0.1, 0.1]))


@given(st.lists(st.floats(0, 100, width=32), max_size=20))
def test_survived_intervals_count_from_their_middles(times: list[float]) -> None:
    found = survived_intervals(np.array(times, dtype=np.float64), CUTS)
    assert found.tolist() == [sum(t >= middle for middle in (5, 15, 30)) for t in times]


@given(tied_patients, st.data())
def test_merging_the_sums_of_parts_gives_those_of_the_whole(
    rows: list[tuple[float, bool, float]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    one, other = (STATISTICS.sums_of(*as_cohort(part)) for part in (rows[:cut], rows[cut:]))
    whole = STATISTICS.sums_of(*as_cohort(rows))
    merged = one + other
    assert merged.sums.keys() == whole.sums.keys() == STATISTICS.shapes().keys()
    for name, value in whole.sums.items():
        np.testing.assert_allclose(merged.sums[name], value, rtol=1e-12)
        assert np.shape(value) == STATISTICS.shapes()[name]


@pytest.mark.parametrize("statistics", [STATISTICS, ORDER_ONLY], ids=["likelihood", "order"])
@given(rows=st.lists(tied_patients, max_size=4))
def test_the_sums_of_any_patients_are_possible(
    statistics: SurvivalStatistics, rows: list[list[tuple[float, bool, float]]]
) -> None:
    total = statistics.zero()
    for part in rows:
        sums = statistics.sums_of(*as_cohort(part))
        statistics.raise_if_impossible(sums)
        total = total + sums
    flat = {name: np.ravel(value).tolist() for name, value in total.sums.items()}
    for name, value in statistics.read(flat).sums.items():
        np.testing.assert_array_equal(value, total.sums[name])


@given(st.integers(1, 40))
def test_the_worst_of_predictions_is_possible(num_patients: int) -> None:
    # Certain of the event in the first interval, of patients who live to the end.
    survival_BK = np.zeros((num_patients, len(CUTS)))
    labels = labels_of([100.0] * num_patients, [False] * num_patients)
    sums = STATISTICS.sums_of(survival_BK, labels)
    STATISTICS.raise_if_impossible(sums)
    assert float(sums.sums["loss_sum"]) == pytest.approx(-num_patients * log(1e-7))


Spoil = Callable[[dict[str, Any]], dict[str, Any]]


def _with_a_cell(sums: dict[str, Any], name: str, change: float) -> dict[str, Any]:
    cells = np.array(sums[name])
    cells[np.unravel_index(cells.argmax(), cells.shape)] += change
    return {name: cells}


SPOILT: dict[str, Spoil] = {
    "a patient more": lambda s: {"num_patients": np.asarray(s["num_patients"] + 1)},
    "half a patient": lambda s: {
        "num_patients": np.asarray(s["num_patients"] + 0.5),
        **_with_a_cell(s, "events_by_time_and_risk", 0.5),
    },
    "an event more": lambda s: _with_a_cell(s, "events_by_time_and_risk", 1),
    "someone censored less": lambda s: _with_a_cell(s, "censored_by_time_and_risk", -1),
    "more loss than anyone has": lambda s: {"loss_sum": 100.0 * s["num_patients"]},
    "more patients than can be counted": lambda s: {
        "num_patients": np.asarray(2.0**53),
        **_with_a_cell(s, "events_by_time_and_risk", 2.0**53 - s["num_patients"]),
    },
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_sums_that_no_patients_have_are_refused(spoil: Spoil) -> None:
    honest = dict(STATISTICS.sums_of(*drawn(200, seed=1)).sums)
    doctored = honest | spoil(honest)
    STATISTICS.read({name: np.ravel(value).tolist() for name, value in honest.items()})
    with pytest.raises(ValueError, match="found some that disagree"):
        STATISTICS.read({name: np.ravel(value).tolist() for name, value in doctored.items()})


def test_a_model_of_order_alone_has_no_likelihood() -> None:
    rng = np.random.default_rng(0)
    labels = labels_of(rng.uniform(0, 50, 40).tolist(), [True] * 40)
    sums = ORDER_ONLY.sums_of(rng.uniform(0, 1, (40, 1)), labels)
    assert "loss_sum" not in ORDER_ONLY.shapes()
    assert not sums.has("loss_sum")
    metrics = ORDER_ONLY.metrics_of(sums)
    assert metrics["loss"] is None
    assert metrics["c_index"] is not None


def test_only_patients_whose_time_is_known_count() -> None:
    survival_BK, labels = drawn(50, seed=5)
    half_B = np.arange(50) % 2 == 0
    part = STATISTICS.sums_of(survival_BK, labels | {"known_B": half_B})
    alone = STATISTICS.sums_of(survival_BK[half_B], {k: v[half_B] for k, v in labels.items()})
    assert part.num_patients == 25
    for name, value in alone.sums.items():
        np.testing.assert_array_equal(part.sums[name], value)


def test_without_an_event_there_is_no_c_index() -> None:
    metrics = STATISTICS.metrics_of(
        STATISTICS.sums_of(curves([(0.1, 0.1, 0.1)] * 3), labels_of([1.0, 2.0, 3.0], [False] * 3))
    )
    assert metrics["c_index"] is None
    assert metrics["c_index_error_bound"] is None
    assert metrics["num_events"] == 0
    assert metrics["loss"] is not None


def test_nobody_has_no_metrics() -> None:
    metrics = STATISTICS.metrics_of(STATISTICS.zero())
    assert metrics == dict.fromkeys(STATISTICS.metric_names) | {"num_patients": 0}


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
