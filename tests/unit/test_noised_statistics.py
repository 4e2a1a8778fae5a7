"""Statistics that carry noise: unbiased where it is moderate, never absurd, honest about it."""

from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from common.metrics.classification import ClassStatistics, ranking
from common.metrics.noised import NoisedStatistics, arcsine_edges
from common.metrics.noised_classes import NoisedClasses
from common.metrics.noised_regression import NoisedRegression
from common.metrics.noised_survival import NoisedSurvival
from common.metrics.regression import RegressionStatistics
from common.metrics.statistics import EvaluationSums, Metrics
from common.metrics.survival import SurvivalStatistics, concordance_index, risk_of, time_bins

Floats = NDArray[np.float64]
Cohort = tuple[Floats, dict[str, NDArray[Any]]]
CUTS = (10.0, 20.0, 40.0)
BINARY = NoisedClasses(num_classes=2, score_bins=10)
MULTICLASS = NoisedClasses(num_classes=3, score_bins=10)
REGRESSION = NoisedRegression(range=(-20.0, 180.0))
SURVIVAL = NoisedSurvival(cut_points=CUTS, has_likelihood=True, num_bins=6)
ALL: list[NoisedStatistics] = [BINARY, MULTICLASS, REGRESSION, SURVIVAL]


def binary(num_patients: int, seed: int = 0) -> Cohort:
    """Patients whose class follows their score."""
    rng = np.random.default_rng(seed)
    score_B = 1 / (1 + np.exp(-1.5 * rng.normal(size=num_patients)))
    labels = {"known_B": np.ones(num_patients, dtype=np.bool_)}
    labels["label_B"] = (rng.random(num_patients) < score_B).astype(np.int64)
    return np.stack([1 - score_B, score_B], axis=1), labels


def multiclass(num_patients: int, seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    scores_BC = rng.dirichlet(np.ones(3), num_patients)
    drawn_B = (rng.random((num_patients, 1)) > scores_BC.cumsum(axis=1)).sum(axis=1)
    known_B = np.ones(num_patients, dtype=np.bool_)
    return scores_BC, {"known_B": known_B, "label_B": np.minimum(drawn_B, 2)}


def regression(num_patients: int, seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    value_B = rng.uniform(-20, 180, num_patients)
    known_B = np.ones(num_patients, dtype=np.bool_)
    predicted_B1 = (value_B + rng.normal(0, 30, num_patients))[:, None]
    return predicted_B1, {"known_B": known_B, "value_B": value_B.astype(np.float32)}


def survival(num_patients: int, seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    hazard_B = rng.uniform(0.02, 0.6, num_patients)
    time_B = rng.exponential(8 / hazard_B).astype(np.float32)
    labels = {"known_B": np.ones(num_patients, dtype=np.bool_), "time_B": time_B}
    labels["event_B"] = rng.random(num_patients) < 0.7
    return np.cumprod(1 - np.repeat(hazard_B[:, None], len(CUTS), axis=1), axis=1), labels


COHORTS = dict(zip(ALL, (binary, multiclass, regression, survival), strict=True))
EACH = pytest.mark.parametrize(
    "statistics", ALL, ids=lambda s: f"{type(s).__name__}{s.squared_sensitivity:g}"
)


def noised(statistics: NoisedStatistics, cohort: Cohort, sd: float, seed: int) -> EvaluationSums:
    vector_N = statistics.vector_of(*cohort)
    noise_N = np.random.default_rng(seed).normal(0, sd, len(vector_N))
    return statistics.sums_from(vector_N + noise_N, sd**2)


def flat_of(sums: EvaluationSums) -> dict[str, list[float]]:
    return {name: np.ravel(value).tolist() for name, value in sums.sums.items()}


def known_of(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_without_noise_binary_metrics_are_those_of_the_same_bins(
    num_patients: int, seed: int
) -> None:
    scores_BC, labels = binary(num_patients, seed)
    found = BINARY.metrics_of(BINARY.sums_of(scores_BC, labels))
    bin_B = np.searchsorted(arcsine_edges(10), scores_BC[:, 1], side="right")
    label_B = labels["label_B"]
    assert found["num_patients"] == num_patients
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(label_B, bin_B >= 5))
    f1 = sk.f1_score(label_B, bin_B >= 5, zero_division=0.0)
    assert (found["f1"] or 0.0) == pytest.approx(f1)
    if 0 < label_B.sum() < num_patients:
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(label_B, bin_B))
        assert found["auprc"] == pytest.approx(sk.average_precision_score(label_B, bin_B))
    else:
        assert found["auroc"] is found["auprc"] is None


def test_binary_calibration_worked_by_hand() -> None:
    # Two bins, middles sin²(π/8) = .1464 and .8536. One negative below; one of each class above:
    # |.1464 · 1| + |.8536 · 2 - 1| over three.
    statistics = NoisedClasses(num_classes=2, score_bins=2)
    score_B = np.array([0.2, 0.7, 0.9])
    labels = {"known_B": np.ones(3, dtype=np.bool_), "label_B": np.array([0, 1, 0])}
    sums = statistics.sums_of(np.stack([1 - score_B, score_B], axis=1), labels)
    expected = (0.146447 + 0.707107) / 3
    assert statistics.metrics_of(sums)["calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_an_even_number_of_bins_has_an_edge_at_one_half() -> None:
    for num_bins in range(2, 60, 2):
        assert arcsine_edges(num_bins)[num_bins // 2 - 1] == 0.5
    scores_BC = np.array([[0.5, 0.5], [0.501, 0.499]])
    labels = {"known_B": np.ones(2, dtype=np.bool_), "label_B": np.array([1, 0])}
    assert BINARY.metrics_of(BINARY.sums_of(scores_BC, labels))["accuracy"] == 1.0


def test_without_noise_multiclass_metrics_are_those_of_the_confusion_and_the_bins() -> None:
    scores_BC, labels = multiclass(90)
    found = MULTICLASS.metrics_of(MULTICLASS.sums_of(scores_BC, labels))
    plain = ClassStatistics(num_classes=3, score_bins=10)
    exact = plain.exact_metrics(scores_BC, labels)
    assert found["num_patients"] == pytest.approx(90)
    assert found["accuracy"] == pytest.approx(exact["accuracy"])
    assert found["f1"] == pytest.approx(exact["f1"])
    bin_BC = np.searchsorted(arcsine_edges(10), scores_BC, side="right")
    onehot_BC = np.eye(3)[labels["label_B"]]
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(onehot_BC, bin_BC, average="macro"))
    assert found["calibration_error"] is found["loss"] is found["brier"] is None


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_without_noise_regression_loses_nothing(num_patients: int, seed: int) -> None:
    cohort = regression(num_patients, seed)
    found = REGRESSION.metrics_of(REGRESSION.sums_of(*cohort))
    exact = RegressionStatistics(range=REGRESSION.range).exact_metrics(*cohort)
    for name in REGRESSION.released_names:
        assert found[name] == pytest.approx(exact[name], abs=1e-9)
    assert found["r2"] is None


@given(st.integers(2, 60), st.integers(0, 2**32))
def test_without_noise_the_c_index_is_that_of_the_bins(num_patients: int, seed: int) -> None:
    survival_BK, labels = survival(num_patients, seed)
    found = SURVIVAL.metrics_of(SURVIVAL.sums_of(survival_BK, labels))
    time_B = time_bins(labels["time_B"].astype(np.float64), CUTS, 6)
    risk_B = np.searchsorted(arcsine_edges(6), risk_of(survival_BK), side="right")
    # Pairs within a bin of time do not count: the censored of a bin come first here.
    moved_B = time_B - 0.5 * ~labels["event_B"]
    expected = concordance_index(moved_B, labels["event_B"], risk_B.astype(np.float64))
    assert found["num_events"] == labels["event_B"].sum()
    assert (found["c_index"] or 0.0) == pytest.approx(np.nan_to_num(expected))


@EACH
def test_moderate_noise_does_not_shift_a_metric(statistics: NoisedStatistics) -> None:
    cohort = COHORTS[statistics](600)
    exact = known_of(statistics.metrics_of(statistics.sums_of(*cohort)))
    found: dict[str, list[float]] = {name: [] for name in statistics.released_names}
    for seed in range(150):
        estimates = statistics.estimates_of(noised(statistics, cohort, 2.0, seed))
        for name, value in estimates.items():
            found[name].append(value)
    for name, values in found.items():
        # A mean over 150 is known to a twelfth of the deviation; three of them and a little bias.
        slack = 0.25 * float(np.std(values)) + 0.01 * exact[name]
        assert np.mean(values) == pytest.approx(exact[name], abs=slack), name


def test_calibration_is_not_taken_for_bad_where_only_noise_is() -> None:
    # A perfectly calibrated model of 600: noise of 6 in each of 20 cells.
    values = [
        BINARY.estimates_of(noised(BINARY, binary(600, seed), 6.0, seed))["calibration_error"]
        for seed in range(60)
    ]
    # Without the correction it is .079 on average; the bins without noise have .037.
    assert np.mean(values) < 0.055


@EACH
@pytest.mark.parametrize("sd", [1.0, 3.0])
def test_the_noise_sd_is_that_of_releases_with_fresh_noise(
    statistics: NoisedStatistics, sd: float
) -> None:
    cohort = COHORTS[statistics](600)
    estimates = [
        statistics.estimates_of(noised(statistics, cohort, sd, seed)) for seed in range(200)
    ]
    told = [statistics.metrics_of(noised(statistics, cohort, sd, seed)) for seed in range(6)]
    for name in statistics.released_names:
        if name == "calibration_error":  # its noise is that of an absolute value: next test
            continue
        true = float(np.std([values[name] for values in estimates]))
        mean = float(np.mean([metrics[f"{name}_noise_sd"] for metrics in told]))
        assert 0.75 < mean / true < 1.33, name


def test_the_noise_sd_of_calibration_is_of_the_right_size() -> None:
    cohort = binary(600)
    values = [
        BINARY.estimates_of(noised(BINARY, cohort, 3.0, seed))["calibration_error"]
        for seed in range(200)
    ]
    told = BINARY.metrics_of(noised(BINARY, cohort, 3.0, 0))["calibration_error_noise_sd"]
    assert told is not None
    assert 0.5 < told / np.std(values) < 2.0


@EACH
def test_the_same_sums_have_the_same_metrics(statistics: NoisedStatistics) -> None:
    sums = noised(statistics, COHORTS[statistics](80), 2.0, 1)
    assert statistics.metrics_of(sums) == statistics.metrics_of(sums)


@EACH
def test_noised_sums_of_sites_add_up_with_their_noise(statistics: NoisedStatistics) -> None:
    cohort = COHORTS[statistics](80)
    one, other = noised(statistics, cohort, 2.0, 1), noised(statistics, cohort, 3.0, 2)
    whole = statistics.zero() + one + other
    vector_N = statistics.vector_from(one) + statistics.vector_from(other)
    np.testing.assert_allclose(statistics.vector_from(whole), vector_N)
    assert float(whole.sums["noise_variance"]) == pytest.approx(13.0)
    assert whole.num_patients == pytest.approx(one.num_patients + other.num_patients)


@EACH
@given(data=st.data(), n=st.integers(0, 30), sd=st.floats(0.01, 1e4))
def test_metrics_are_within_their_ranges_whatever_the_noise(
    statistics: NoisedStatistics, data: st.DataObject, n: int, sd: float
) -> None:
    sums = noised(statistics, COHORTS[statistics](n), sd, data.draw(st.integers(0, 2**32)))
    statistics.raise_if_impossible(sums)
    metrics = statistics.metrics_of(sums)
    assert set(metrics) >= set(statistics.metric_names)
    for name, value in known_of(metrics).items():
        assert np.isfinite(value), name
        assert value >= 0, name
        if name in ("auroc", "auprc", "accuracy", "f1", "calibration_error", "c_index", "loss"):
            assert value <= 1, name
        if name in ("mae", "rmse"):
            assert value <= 200, name


@EACH
def test_where_noised_counts_say_that_nobody_is_there_nothing_is_told(
    statistics: NoisedStatistics,
) -> None:
    vector_N = statistics.vector_from(statistics.zero())
    metrics = statistics.metrics_of(statistics.sums_from(vector_N - 1.0, 4.0))
    assert known_of(metrics) == {"num_patients": 0}
    assert known_of(statistics.metrics_of(statistics.zero())) == {"num_patients": 0}


def test_without_positives_above_the_noise_there_is_no_ranking() -> None:
    sums = BINARY.sums_from(np.array([-0.1] * 10 + [5.0] * 10), 1.0)
    metrics = BINARY.metrics_of(sums)
    assert metrics["auroc"] is metrics["auprc"] is None
    assert metrics["accuracy"] is not None
    assert all(np.isnan(value) for value in ranking(np.zeros(3), np.array([1.0, -2.0, 0.5])))


@EACH
def test_what_is_sent_reads_back_as_it_was(statistics: NoisedStatistics) -> None:
    sums = noised(statistics, COHORTS[statistics](20), 3.0, 5)
    assert any(value < 0 for values in flat_of(sums).values() for value in values)
    back = statistics.read(flat_of(sums))
    assert flat_of(back) == flat_of(sums)
    assert {name: np.shape(value) for name, value in back.sums.items()} == statistics.shapes()


@EACH
def test_a_release_without_noise_is_refused(statistics: NoisedStatistics) -> None:
    exact = flat_of(statistics.sums_of(*COHORTS[statistics](20)))
    with pytest.raises(ValueError, match="expected noise in every release"):
        statistics.read(exact)
    with pytest.raises(ValueError, match="expected noise in every release"):
        statistics.read(exact | {"noise_variance": [-1.0]})


@EACH
def test_values_that_noise_does_not_give_are_refused(statistics: NoisedStatistics) -> None:
    honest = flat_of(noised(statistics, COHORTS[statistics](20), 1.0, 5))
    name = list(honest)[-1]
    for spoilt in (
        {name: [-1000.0, *honest[name][1:]]},
        {"num_patients": [honest["num_patients"][0] + 1000.0]}
        if name != "squared_error_sum"
        else {"num_patients": [-1000.0]},
    ):
        with pytest.raises(ValueError, match="found some that disagree"):
            statistics.read(honest | spoilt)


@EACH
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_noise_is_finite(statistics: NoisedStatistics, value: float) -> None:
    honest = flat_of(noised(statistics, COHORTS[statistics](20), 1.0, 5))
    name = list(honest)[-1]
    with pytest.raises(ValueError, match=f"finite values in {name}"):
        statistics.read(honest | {name: [value, *honest[name][1:]]})


@EACH
def test_a_withheld_statistic_leaves_nothing_to_tell(statistics: NoisedStatistics) -> None:
    honest = flat_of(noised(statistics, COHORTS[statistics](20), 1.0, 5))
    for name in honest.keys() - {"num_patients"}:
        rest = {key: value for key, value in honest.items() if key != name}
        assert known_of(statistics.metrics_of(statistics.read(rest))) == {"num_patients": 0}


@pytest.mark.parametrize(
    ("statistics", "plain"),
    [
        (BINARY, ClassStatistics(num_classes=2, score_bins=10)),
        (MULTICLASS, ClassStatistics(num_classes=3, score_bins=10)),
        (REGRESSION, RegressionStatistics(range=(-20.0, 180.0))),
        (SURVIVAL, SurvivalStatistics(cut_points=CUTS, has_likelihood=True)),
    ],
)
def test_the_oracle_knows_no_noise(statistics: NoisedStatistics, plain: Any) -> None:
    cohort = COHORTS[statistics](60)
    assert statistics.exact_metrics(*cohort) == plain.exact_metrics(*cohort)
    assert statistics.metric_names == plain.metric_names
    assert statistics.columns == plain.columns


def test_the_error_of_regression_has_less_noise_than_its_plain_sums_would() -> None:
    cohort = regression(2000)
    sd = sqrt(REGRESSION.squared_sensitivity)
    maes = [
        REGRESSION.estimates_of(noised(REGRESSION, cohort, sd, seed))["mae"] / 200
        for seed in range(400)
    ]
    mae = REGRESSION.metrics_of(REGRESSION.sums_of(*cohort))["mae"]
    assert mae is not None
    e = mae / 200
    # δ(a / n) = δA / 2n + (1/2 - e) δn / n, each of variance 3; the plain sums have 3 (1 + e²).
    expected = 3 * (0.25 + (0.5 - e) ** 2)
    assert np.var(maes) * 2000**2 == pytest.approx(expected, rel=0.2)
    assert expected < 0.5 * 3 * (1 + e**2)


def test_an_error_of_nothing_but_noise_is_undefined_and_not_zero() -> None:
    statistics = NoisedRegression(range=(0.0, 10.0))
    # Errors e of which 2e - 1 and 2e² - 1 add up to less than -n: only noise can do that.
    sums = statistics.sums_from(np.array([20.0, -25.0, -21.0]), 4.0)
    metrics = statistics.metrics_of(sums)
    assert metrics["num_patients"] == 20.0
    assert (metrics["mae"], metrics["rmse"], metrics["loss"]) == (None, None, None)
