"""The oracle: exact metrics of pooled predictions, against numbers worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.oracle import Oracle, exact_metrics


def binary(scores: list[float]) -> np.ndarray:
    return np.stack([1 - np.asarray(scores), np.asarray(scores)], axis=1)


def test_metrics_of_five_patients_worked_by_hand() -> None:
    # Positives score .9 and .4; negatives .8, .3 and .1. Of 6 pairs, .9 wins 3 and .4 wins 2.
    metrics = exact_metrics(binary([0.9, 0.4, 0.8, 0.3, 0.1]), np.array([1, 1, 0, 0, 0]))
    assert metrics["num_patients"] == 5
    assert metrics["auroc"] == pytest.approx(5 / 6)
    # At .9 precision is 1 of 1; at .4 it is 2 of 3: (1 + 2/3) / 2.
    assert metrics["auprc"] == pytest.approx(5 / 6)
    # At a threshold of .5: .9, .3 and .1 are right.
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    # Squared errors .01, .36, .64, .09 and .01.
    assert metrics["brier"] == pytest.approx(1.11 / 5)
    assert metrics["f1"] == pytest.approx(1 / 2)
    assert "auroc_error_bound" not in metrics


def test_ties_count_half() -> None:
    metrics = exact_metrics(binary([0.5, 0.5, 0.5]), np.array([1, 0, 0]))
    assert metrics["auroc"] == pytest.approx(0.5)


def test_auroc_needs_no_bins(tiny_study) -> None:
    # All four scores lie in one bin of a histogram, and are ranked all the same.
    scores = [0.5001, 0.5002, 0.5003, 0.5004]
    assert exact_metrics(binary(scores), np.array([0, 0, 1, 1]))["auroc"] == 1.0
    assert exact_metrics(binary(scores), np.array([1, 1, 0, 0]))["auroc"] == 0.0


def test_with_one_class_ranking_is_undefined_and_the_rest_is_not() -> None:
    metrics = exact_metrics(binary([0.9, 0.8]), np.array([1, 1]))
    assert (metrics["auroc"], metrics["auprc"]) == (None, None)
    assert metrics["accuracy"] == 1.0


def test_of_several_classes_auroc_is_the_mean_of_one_against_the_rest() -> None:
    scores_BC = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.6, 0.1]])
    # Class 0: .6 beats .2 and .3: 1. Class 1: .5 beats .3, loses to .6: 1/2.
    # Class 2 (patient 3, .1): ties .1 (1/2), loses to .3: 1/4.
    metrics = exact_metrics(scores_BC, np.array([0, 1, 2]))
    assert metrics["auroc"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)


@pytest.mark.parametrize("decimals", [1, 6], ids=["many ties", "hardly any"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_ranking_is_that_of_scikit_learn(num_classes: int, decimals: int) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    random = np.random.default_rng(2)
    labels_B = random.integers(0, num_classes, 200)
    scores_BC = random.dirichlet(np.ones(num_classes), 200).round(decimals)
    columns = [1] if num_classes == 2 else range(num_classes)
    metrics = exact_metrics(scores_BC, labels_B)
    for name, of in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        expected = np.mean([of(labels_B == c, scores_BC[:, c]) for c in columns])
        assert metrics[name] == pytest.approx(expected, rel=1e-12)


@given(order=st.permutations(["a", "b", "c"]))
def test_the_order_in_which_sites_are_seen_changes_nothing(order: list[str]) -> None:
    random = np.random.default_rng(1)
    seen = {name: (binary(random.uniform(size=9).tolist()), np.arange(9) % 2) for name in "abc"}

    def pooled(names: list[str]) -> dict:
        oracle = Oracle()
        for name in names:
            oracle.observer(name)(4, *seen[name])
        return oracle.pop(4) or {}

    assert pooled(order) == pooled(["a", "b", "c"])
    everyone = exact_metrics(
        np.concatenate([seen[name][0] for name in "abc"]),
        np.concatenate([seen[name][1] for name in "abc"]),
    )
    assert pooled(order) == everyone


def test_a_site_that_is_asked_again_counts_once_with_its_last_predictions() -> None:
    oracle = Oracle()
    observe = oracle.observer("a")
    observe(0, binary([0.1, 0.9]), np.array([1, 0]))
    observe(0, binary([0.9, 0.1]), np.array([1, 0]))
    metrics = oracle.pop(0)
    assert metrics is not None
    assert (metrics["num_patients"], metrics["accuracy"]) == (2, 1.0)


def test_a_round_is_told_once_and_a_round_without_predictions_not_at_all() -> None:
    oracle = Oracle()
    oracle.observer("a")(1, binary([0.1, 0.9]), np.array([0, 1]))
    assert oracle.pop(0) is None
    assert oracle.pop(1) is not None
    assert oracle.pop(1) is None


def test_the_latest_predictions_of_a_site_stay_known() -> None:
    oracle = Oracle()
    oracle.observer("a")(0, binary([0.1]), np.array([0]))
    oracle.observer("a")(1, binary([0.7]), np.array([0]))
    oracle.pop(1)
    assert oracle.latest("a", 2).tolist() == binary([0.7]).tolist()
    assert oracle.latest("b", 2).shape == (0, 2)
