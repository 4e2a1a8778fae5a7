"""Statistics of predicted classes, against scikit-learn on the patients themselves."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from common.metrics.classification import ClassStatistics
from common.metrics.statistics import EvaluationSums, Metrics

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]
BINS = 200


def _binary(positive_B: list[float] | Scores) -> Scores:
    positive_B = np.asarray(positive_B, dtype=np.float64)
    return np.stack([1 - positive_B, positive_B], axis=1)


def _statistics(num_classes: int, bins: int = BINS) -> ClassStatistics:
    return ClassStatistics(num_classes=num_classes, score_bins=bins)


def _sums(scores_BC: Scores, labels_B: Labels, bins: int = BINS) -> EvaluationSums:
    """The sums of patients whose class is known."""
    labels = {"known_B": np.ones(len(labels_B), dtype=np.bool_), "label_B": labels_B}
    return _statistics(scores_BC.shape[1], bins).sums_of(scores_BC, labels)


def _metrics(scores_BC: Scores, labels_B: Labels, bins: int = BINS) -> Metrics:
    return _statistics(scores_BC.shape[1], bins).metrics_of(_sums(scores_BC, labels_B, bins))


def _flat(sums: EvaluationSums) -> dict[str, tuple[float, ...]]:
    return {name: tuple(value.reshape(-1).tolist()) for name, value in sums.sums.items()}


def _both_classes(labels_B: list[int]) -> bool:
    return 0 < sum(labels_B) < len(labels_B)


def _labelled(score: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, int]]]:
    patient = st.tuples(score, st.integers(0, 1))
    return st.lists(patient, min_size=2, max_size=60).filter(
        lambda some: _both_classes([label for _, label in some])
    )


@given(_labelled(st.integers(0, BINS).map(lambda edge: edge / BINS)))
def test_binary_metrics_are_scikit_learns_where_scores_lie_on_edges(
    patients: list[tuple[float, int]],
) -> None:
    score_B, labels_B = (np.array(column) for column in zip(*patients, strict=True))
    found = _metrics(_binary(score_B), labels_B)
    # The last bin is closed: 1 shares it with what lies below. Scikit-learn sees them so, too.
    seen_B = np.where(score_B == 1.0, 1 - 1 / BINS, score_B)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(labels_B, seen_B), abs=1e-12)
    assert found["auprc"] == pytest.approx(sk.average_precision_score(labels_B, seen_B), abs=1e-12)


@given(_labelled(st.floats(0, 1)))
def test_binary_metrics_of_sums_are_exactly_scikit_learns(
    patients: list[tuple[float, int]],
) -> None:
    score_B, labels_B = (np.array(column) for column in zip(*patients, strict=True))
    # At .5 the first class of two that are equally probable is predicted.
    predicted_B = (_binary(score_B)[:, 1] > _binary(score_B)[:, 0]).astype(int)
    clipped_B = np.clip(score_B, 1e-12, 1 - 1e-12)
    found = _metrics(_binary(score_B), labels_B)
    assert found["num_patients"] == len(labels_B)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels_B, predicted_B))
    assert found["f1"] == pytest.approx(sk.f1_score(labels_B, predicted_B, zero_division=0.0))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(labels_B, score_B), abs=1e-12)
    assert found["loss"] == pytest.approx(sk.log_loss(labels_B, clipped_B), rel=1e-5, abs=1e-11)


@given(_labelled(st.floats(0, 1)), st.sampled_from([10, 17, 200]))
def test_auroc_is_within_its_stated_bound(patients: list[tuple[float, int]], bins: int) -> None:
    score_B, labels_B = (np.array(column) for column in zip(*patients, strict=True))
    found = _metrics(_binary(score_B), labels_B, bins)
    assert found["auroc"] is not None
    assert found["auroc_error_bound"] is not None
    error = abs(found["auroc"] - sk.roc_auc_score(labels_B, score_B))
    assert error <= found["auroc_error_bound"] + 1e-12


def test_the_bound_is_reached_where_a_bin_hides_a_perfect_order() -> None:
    # Both in one bin of ten: a tie counts half, the truth is 1.
    found = _metrics(_binary([0.51, 0.59]), np.array([0, 1]), bins=10)
    assert (found["auroc"], found["auroc_error_bound"]) == (0.5, 0.5)


def test_auroc_is_exact_where_each_patient_has_a_bin() -> None:
    rng = np.random.default_rng(1)
    score_B = (rng.permutation(BINS) + rng.uniform(0.1, 0.9, BINS)) / BINS
    labels_B = (rng.uniform(size=BINS) < score_B).astype(int)
    found = _metrics(_binary(score_B), labels_B)
    assert found["auroc_error_bound"] == 0.0
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(labels_B, score_B), abs=1e-14)
    expected = sk.average_precision_score(labels_B, score_B)
    assert found["auprc"] == pytest.approx(expected, abs=1e-14)


def test_binary_metrics_worked_by_hand() -> None:
    # scores .1 .4 .6 .9, labels 0 1 0 1: right at .1 and .9 (accuracy .5).
    # AUROC: pairs (.4 > .1) yes, (.4 > .6) no, (.9 > .1) yes, (.9 > .6) yes: 3/4.
    # AUPRC: positives found at ranks 1 and 3: precision 1 and 2/3, mean 5/6.
    # F1 of class 1: one hit, one missed, one false alarm: 2/4.
    # Brier: (.01 + .36 + .36 + .01) / 4. Calibration, four bins of one: (.1 + .6 + .6 + .1) / 4.
    found = _metrics(_binary([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1]))
    assert found["accuracy"] == 0.5
    assert found["auroc"] == 0.75
    assert found["auprc"] == pytest.approx(5 / 6)
    assert found["f1"] == 0.5
    assert found["brier"] == pytest.approx(0.185)
    assert found["calibration_error"] == pytest.approx(0.35)


@pytest.mark.parametrize("bins", [10, 49, 200, 10_000])
def test_every_edge_opens_its_own_bin(bins: int) -> None:
    scores_BC = _binary(np.arange(bins + 1) / bins)
    sums = _sums(scores_BC, np.ones(bins + 1, dtype=np.int64), bins).sums
    # The last bin is closed on both sides.
    assert sums["positives_by_score"][0].tolist() == [1.0] * (bins - 1) + [2.0]


@st.composite
def predictions(draw: st.DrawFn) -> tuple[Scores, Labels]:
    num_classes = draw(st.sampled_from([2, 3, 5]))
    num_patients = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores_BC = rng.dirichlet(np.full(num_classes, 0.5), num_patients).reshape(-1, num_classes)
    return scores_BC, rng.integers(num_classes, size=num_patients)


def _numbers(sums: EvaluationSums, num_classes: int) -> dict[str, float]:
    """The metrics, an undefined one as -1: pytest compares no None."""
    metrics = _statistics(num_classes).metrics_of(sums)
    return {name: -1.0 if value is None else value for name, value in metrics.items()}


@given(predictions(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_merging_any_partition_gives_the_pooled_sums(
    pooled: tuple[Scores, Labels], num_sites: int, rng: random.Random
) -> None:
    scores_BC, labels_B = pooled
    site_B = np.array([rng.randrange(num_sites) for _ in labels_B], dtype=int)
    num_classes = scores_BC.shape[1]
    merged = _statistics(num_classes).zero()
    for site in range(num_sites):
        is_here_B = site_B == site
        merged += _sums(scores_BC[is_here_B], labels_B[is_here_B])
    expected = _sums(scores_BC, labels_B)
    for name, value in expected.sums.items():
        np.testing.assert_allclose(merged.sums[name], value, rtol=1e-12, atol=1e-12)
    found, whole = _numbers(merged, num_classes), _numbers(expected, num_classes)
    assert found == pytest.approx(whole, rel=1e-9, abs=1e-12)


@given(st.lists(predictions().filter(lambda p: p[0].shape[1] == 3), min_size=2, max_size=4))
def test_the_order_of_merging_changes_no_count(sites: list[tuple[Scores, Labels]]) -> None:
    sums = [_sums(*site) for site in sites]
    forwards = backwards = _statistics(3).zero()
    for part, other in zip(sums, reversed(sums), strict=True):
        forwards, backwards = forwards + part, backwards + other
    for name in ("num_patients", "confusion", "positives_by_score", "calibration_count"):
        np.testing.assert_array_equal(forwards.sums[name], backwards.sums[name])


@given(predictions().filter(lambda p: p[0].shape[1] > 2 and len(np.unique(p[1])) == p[0].shape[1]))
def test_multiclass_metrics_are_scikit_learns(pooled: tuple[Scores, Labels]) -> None:
    scores_BC, labels_B = pooled
    num_classes = scores_BC.shape[1]
    predicted_B = scores_BC.argmax(axis=1)
    onehot_BC = np.eye(num_classes)[labels_B]
    found = _metrics(scores_BC, labels_B, bins=10_000)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels_B, predicted_B))
    f1 = sk.f1_score(labels_B, predicted_B, average="macro", zero_division=0.0)
    assert found["f1"] == pytest.approx(f1)
    assert found["brier"] == pytest.approx(((scores_BC - onehot_BC) ** 2).sum(axis=1).mean())
    clipped_BC = np.maximum(scores_BC, 1e-12)
    loss = -np.log(clipped_BC[np.arange(len(labels_B)), labels_B]).mean()
    assert found["loss"] == pytest.approx(loss)
    auroc = sk.roc_auc_score(onehot_BC, scores_BC, average="macro")
    assert found["auroc"] is not None
    assert found["auroc_error_bound"] is not None
    assert abs(found["auroc"] - auroc) <= found["auroc_error_bound"] + 1e-12


def test_multiclass_auprc_is_the_mean_over_classes() -> None:
    rng = np.random.default_rng(3)
    scores_BC = rng.dirichlet(np.ones(3), 50)
    labels_B = rng.integers(3, size=50)
    expected = sk.average_precision_score(np.eye(3)[labels_B], scores_BC, average="macro")
    assert _metrics(scores_BC, labels_B, bins=10_000)["auprc"] == pytest.approx(expected, abs=1e-3)


def test_multiclass_calibration_is_of_the_most_probable_class() -> None:
    # Two patients at .6, one right; one at .8, wrong: |1.2 - 1| + |.8 - 0| over three.
    scores_BC = np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])
    found = _metrics(scores_BC, np.array([0, 0, 0]))
    assert found["calibration_error"] == pytest.approx(1.0 / 3)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_has_no_ranking(label: int) -> None:
    found = _metrics(_binary([0.2, 0.7]), np.array([label, label]))
    assert found["auroc"] is found["auprc"] is found["auroc_error_bound"] is None
    assert found["accuracy"] == 0.5


def test_a_class_without_patients_has_no_multiclass_ranking() -> None:
    found = _metrics(np.full((4, 3), 1 / 3), np.array([0, 0, 1, 1]))
    assert found["auroc"] is None
    assert found["f1"] is not None


def test_f1_is_undefined_where_class_1_is_neither_there_nor_predicted() -> None:
    assert _metrics(_binary([0.2, 0.3]), np.array([0, 0]))["f1"] is None


@pytest.mark.parametrize("num_classes", [2, 3])
def test_no_patients_have_no_metrics(num_classes: int) -> None:
    statistics = _statistics(num_classes)
    nobody = _sums(np.empty((0, num_classes)), np.empty(0, dtype=np.int64))
    expected = dict.fromkeys(statistics.metric_names) | {"num_patients": 0.0}
    assert statistics.metrics_of(nobody) == statistics.metrics_of(statistics.zero()) == expected
    assert statistics.undefined() == expected


def test_a_certain_mistake_costs_a_finite_loss() -> None:
    assert _metrics(_binary([0.0]), np.array([1]))["loss"] == pytest.approx(12 * np.log(10))


@given(predictions())
def test_sums_survive_their_flat_form(pooled: tuple[Scores, Labels]) -> None:
    sums, statistics = _sums(*pooled), _statistics(pooled[0].shape[1])
    back = statistics.read(_flat(sums))
    assert _flat(back) == _flat(sums)
    assert {k: v.shape for k, v in back.sums.items()} == statistics.shapes()


FLAT = _flat(_sums(_binary([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1]), bins=10))

IMPOSSIBLE = {
    "no number of patients": ("num_patients", None),
    "too few elements": ("confusion", (1.0, 1.0, 2.0)),
    "too many elements": ("num_patients", (4.0, 4.0)),
    "a negative value": ("loss_sum", (-0.1,)),
    "infinity": ("brier_sum", (float("inf"),)),
    "not a number": ("brier_sum", (float("nan"),)),
    "another number of patients": ("num_patients", (5.0,)),
    "a confusion of more patients": ("confusion", (9.0, 1.0, 1.0, 1.0)),
    "half patients": ("confusion", (0.5, 1.5, 1.0, 1.0)),
    "scores of more patients": ("positives_by_score", (1.0,) * 10),
    "scores of half patients": ("negatives_by_score", (0.5, 1.5) + (0.0,) * 8),
    "calibration of more patients": ("calibration_count", (1.0,) * 10),
    "scores above 1": ("calibration_score_sum", (2.0,) + (0.0,) * 9),
    "more outcomes than patients": ("calibration_outcome_sum", (2.0,) + (0.0,) * 9),
    "a Brier score above 2": ("brier_sum", (8.1,)),
    "a loss beyond the largest": ("loss_sum", (1e300,)),
}


@pytest.mark.parametrize("spoil", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_statistics_that_no_patients_can_have_are_refused(
    spoil: tuple[str, tuple[float, ...] | None],
) -> None:
    name, values = spoil
    flat = {k: v for k, v in (FLAT | {name: values}).items() if v is not None}
    with pytest.raises(ValueError, match="expected"):
        _statistics(2, bins=10).read(flat)


# What a policy withholds.

# A metric is undefined where a statistic that it needs was withheld, and no other is.
NEEDS = {
    "confusion": {"accuracy", "f1"},
    "loss_sum": {"loss"},
    "brier_sum": {"brier"},
    "positives_by_score": {"auroc", "auprc", "auroc_error_bound"},
    "negatives_by_score": {"auroc", "auprc", "auroc_error_bound"},
    "calibration_count": {"calibration_error"},
    "calibration_score_sum": {"calibration_error"},
    "calibration_outcome_sum": {"calibration_error"},
}


def test_every_statistic_but_the_number_of_patients_may_be_withheld() -> None:
    assert {"num_patients", *NEEDS} == set(_statistics(2).shapes())


@pytest.mark.parametrize("name", NEEDS)
def test_a_withheld_statistic_takes_the_metrics_that_need_it_with_it_and_no_others(
    name: str,
) -> None:
    statistics = _statistics(2, bins=10)
    read = statistics.read({key: values for key, values in FLAT.items() if key != name})
    whole, found = statistics.metrics_of(statistics.read(FLAT)), statistics.metrics_of(read)
    assert {metric for metric, value in found.items() if value is None} == NEEDS[name]
    assert {k: v for k, v in found.items() if k not in NEEDS[name]} == {
        k: v for k, v in whole.items() if k not in NEEDS[name]
    }


@pytest.mark.parametrize("name", NEEDS)
def test_a_statistic_that_one_part_withholds_is_missing_from_the_whole(name: str) -> None:
    statistics = _statistics(2, bins=10)
    whole = statistics.read(FLAT)
    partial = statistics.read({key: values for key, values in FLAT.items() if key != name})
    for merged in (whole + partial, partial + whole, statistics.zero() + partial + whole):
        assert set(merged.sums) == set(FLAT) - {name}
        assert not merged.has(name)
        assert merged.has("num_patients")
        assert merged.num_patients == 8.0


def test_patients_whose_class_is_not_known_are_not_counted() -> None:
    scores_BC, label_B = _binary([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1])
    more_BC = np.concatenate([_binary([0.3, 0.8]), scores_BC])
    labels = {
        "known_B": np.array([False, False, True, True, True, True]),
        "label_B": np.concatenate([[-1, -1], label_B]),
    }
    statistics = _statistics(2)
    assert _flat(statistics.sums_of(more_BC, labels)) == _flat(_sums(scores_BC, label_B))
    exact = statistics.exact_metrics(more_BC, labels)
    assert (exact["num_patients"], exact["auroc"]) == (4.0, 0.75)
