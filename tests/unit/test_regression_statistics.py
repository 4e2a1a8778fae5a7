"""Sums of predicted quantities against scikit-learn, their laws, and what no patients can have."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from common.metrics.regression import RegressionStatistics
from common.metrics.statistics import EvaluationSums

LOW, HIGH = -20.0, 180.0
STATISTICS = RegressionStatistics(range=(LOW, HIGH))

Cohort = tuple[NDArray[np.float64], dict[str, NDArray[Any]]]


def cohort_of(
    predicted: list[float], values: list[float], known: list[bool] | None = None
) -> Cohort:
    return np.array(predicted, dtype=np.float64).reshape(-1, 1), {
        "known_B": np.array([True] * len(values) if known is None else known, dtype=np.bool_),
        "value_B": np.array(values, dtype=np.float32),
    }


def drawn(num_patients: int, seed: int) -> Cohort:
    rng = np.random.default_rng(seed)
    values = rng.uniform(LOW, HIGH, num_patients)
    predicted = np.clip(values + rng.normal(0, 30, num_patients), LOW, HIGH)
    return cohort_of(predicted.tolist(), values.tolist())


numbers = st.floats(-500, 500)
patients = st.lists(st.tuples(numbers, st.floats(LOW, HIGH), st.booleans()), max_size=30)


def cohort_from(rows: list[tuple[float, float, bool]]) -> Cohort:
    return cohort_of([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])


def test_errors_worked_by_hand() -> None:
    # Errors of 2, -2, 4 and 0 of values 10, 20, 30, 40: MAE 2, MSE 24/4 = 6; the values' squared
    # distances from their mean 25 are 225 + 25 + 25 + 225 = 500, so R² = 1 - 24/500.
    metrics = STATISTICS.metrics_of(
        STATISTICS.sums_of(*cohort_of([12, 18, 34, 40], [10, 20, 30, 40]))
    )
    assert metrics["num_patients"] == 4
    assert metrics["mae"] == pytest.approx(2.0)
    assert metrics["rmse"] == pytest.approx(6**0.5)
    assert metrics["r2"] == pytest.approx(1 - 24 / 500)
    assert metrics["loss"] == pytest.approx(6 / 200**2)


@given(st.integers(2, 200), st.integers(0, 2**32))
def test_the_metrics_are_scikit_learns(num_patients: int, seed: int) -> None:
    predicted, labels = drawn(num_patients, seed)
    metrics = STATISTICS.metrics_of(STATISTICS.sums_of(predicted, labels))
    values = labels["value_B"].astype(np.float64)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(values, predicted[:, 0]))
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(values, predicted[:, 0]))
    assert metrics["r2"] == pytest.approx(r2_score(values, predicted[:, 0]), rel=1e-6, abs=1e-9)


def test_values_that_vary_little_in_a_wide_range_have_an_r2() -> None:
    # Costs up to a million, of patients who cost a few units each.
    wide = RegressionStatistics(range=(0.0, 1e6))
    predicted, labels = cohort_of([1.5, 1.5, 2.5, 2.5], [1.0, 2.0, 2.0, 3.0])
    metrics = wide.metrics_of(wide.sums_of(predicted, labels))
    assert metrics["r2"] == pytest.approx(r2_score(labels["value_B"], predicted[:, 0]), rel=1e-6)


@given(st.floats(LOW, HIGH), st.integers(1, 300))
def test_values_that_do_not_vary_have_no_r2(value: float, num_patients: int) -> None:
    metrics = STATISTICS.metrics_of(
        STATISTICS.sums_of(*cohort_of([10.0] * num_patients, [value] * num_patients))
    )
    assert metrics["r2"] is None
    assert metrics["mae"] is not None


def test_predictions_count_as_clipped_to_the_range() -> None:
    metrics = STATISTICS.metrics_of(STATISTICS.sums_of(*cohort_of([1e9, -1e9], [170.0, -20.0])))
    assert metrics["mae"] == pytest.approx((10 + 0) / 2)


@given(patients)
def test_no_patient_adds_more_than_one_to_any_sum(rows: list[tuple[float, float, bool]]) -> None:
    sums = STATISTICS.sums_of(*cohort_from(rows))
    assert sums.num_patients == sum(row[2] for row in rows)
    for value in sums.sums.values():
        assert 0 <= float(value) <= sums.num_patients * (1 + 1e-12)


@given(patients, st.data())
def test_merging_the_sums_of_parts_gives_those_of_the_whole(
    rows: list[tuple[float, float, bool]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    one, other = (STATISTICS.sums_of(*cohort_from(part)) for part in (rows[:cut], rows[cut:]))
    whole = STATISTICS.sums_of(*cohort_from(rows))
    for merged in (one + other, other + one):
        assert merged.sums.keys() == whole.sums.keys() == STATISTICS.shapes().keys()
        for name, value in whole.sums.items():
            assert merged.sums[name] == pytest.approx(value, rel=1e-12, abs=1e-15)


@given(st.lists(patients, max_size=4))
def test_the_sums_of_any_patients_are_possible(
    sites: list[list[tuple[float, float, bool]]],
) -> None:
    total = STATISTICS.zero()
    for rows in sites:
        sums = STATISTICS.sums_of(*cohort_from(rows))
        STATISTICS.raise_if_impossible(sums)
        total = total + sums
    STATISTICS.raise_if_impossible(total)
    flat = {name: np.ravel(value).tolist() for name, value in total.sums.items()}
    assert STATISTICS.read(flat).sums == total.sums


Spoil = Callable[[dict[str, float]], dict[str, float]]
SPOILT: dict[str, Spoil] = {
    "half a patient": lambda s: {"num_patients": s["num_patients"] + 0.5},
    "more patients than can be counted": lambda s: {"num_patients": 2.0**53},
    "a larger error than the range": lambda s: {"absolute_error_sum": 1.01 * s["num_patients"]},
    "squares above the absolute errors": lambda s: {
        "squared_error_sum": 1.01 * s["absolute_error_sum"]
    },
    "squares below the mean's": lambda s: {"squared_error_sum": 0.0},
    "values above the range": lambda s: {
        "value_sum": 1.01 * s["num_patients"],
        "value_squares_sum": 1.01 * s["num_patients"],
    },
    "squared values above the values": lambda s: {"value_squares_sum": 1.01 * s["value_sum"]},
    "squared values below the mean's": lambda s: {
        "value_squares_sum": 0.99 * s["value_sum"] ** 2 / s["num_patients"]
    },
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_sums_that_no_patients_have_are_refused(spoil: Spoil) -> None:
    honest = {k: float(v) for k, v in STATISTICS.sums_of(*drawn(40, seed=1)).sums.items()}
    STATISTICS.read({name: [value] for name, value in honest.items()})
    doctored = honest | spoil(honest)
    with pytest.raises(ValueError, match="found some that disagree"):
        STATISTICS.read({name: [value] for name, value in doctored.items()})


@pytest.mark.parametrize("value", [[-1.0], [float("nan")], [1.0, 2.0], []])
def test_a_malformed_statistic_is_refused(value: list[float]) -> None:
    flat = {name: [0.0] for name in STATISTICS.shapes()}
    with pytest.raises(ValueError, match="absolute_error_sum"):
        STATISTICS.read(flat | {"absolute_error_sum": value})


@pytest.mark.parametrize(
    ("withheld", "undefined"),
    [
        ("absolute_error_sum", {"mae"}),
        ("squared_error_sum", {"rmse", "loss", "r2"}),
        ("value_sum", {"r2"}),
        ("value_squares_sum", {"r2"}),
    ],
)
def test_a_withheld_statistic_leaves_undefined_what_needs_it(
    withheld: str, undefined: set[str]
) -> None:
    sums = dict(STATISTICS.sums_of(*drawn(40, seed=2)).sums)
    del sums[withheld]
    metrics = STATISTICS.metrics_of(EvaluationSums(sums=sums))
    assert tuple(metrics) == STATISTICS.metric_names
    assert {name for name, value in metrics.items() if value is None} == undefined


def test_a_statistic_that_one_site_withholds_is_missing_from_the_whole() -> None:
    one, other = (STATISTICS.sums_of(*drawn(40, seed=seed)) for seed in (1, 2))
    kept = {k: v for k, v in one.sums.items() if k != "squared_error_sum"}
    assert not (EvaluationSums(sums=kept) + other).has("squared_error_sum")
    assert not (other + EvaluationSums(sums=kept)).has("squared_error_sum")


def test_nobody_has_no_metrics() -> None:
    metrics = STATISTICS.metrics_of(STATISTICS.zero())
    assert metrics == {"num_patients": 0, "mae": None, "rmse": None, "r2": None, "loss": None}


def test_exact_metrics_are_those_of_the_sums() -> None:
    cohort = drawn(40, seed=3)
    assert STATISTICS.exact_metrics(*cohort) == STATISTICS.metrics_of(STATISTICS.sums_of(*cohort))


def test_tables_show_metrics_that_exist() -> None:
    assert set(STATISTICS.columns) < set(STATISTICS.metric_names)
    assert STATISTICS.metric_names[0] == "num_patients"
