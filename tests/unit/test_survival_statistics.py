"""Sums of predicted survival: the likelihood one by one, what is possible, and their laws."""

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics.survival import (
    SurvivalStatistics,
    negative_log_likelihood,
    risk_of,
    survived_intervals,
)
from tests.unit.survival_cases import (
    CUTS,
    ORDER_ONLY,
    STATISTICS,
    Floats,
    as_cohort,
    curves,
    drawn,
    labels_of,
    tied_patients,
)


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


def test_nobody_has_no_metrics() -> None:
    metrics = STATISTICS.metrics_of(STATISTICS.zero())
    assert metrics == dict.fromkeys(STATISTICS.metric_names) | {"num_patients": 0}
