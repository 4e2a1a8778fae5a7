"""The oracle: exact metrics of pooled predictions, against numbers worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics.evaluation import PERSONAL
from common.metrics.statistics import Metrics
from common.study import Study
from simulations.oracle import Evaluated, Oracle, exact_metrics, pooled
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, outcomes_of, predictions_of, study_of

STUDY = study_of()


def evaluated(scores_BC: np.ndarray, label_B: np.ndarray) -> Evaluated:
    """Predictions and outcomes of the small study's event, known of everybody."""
    known_B = np.ones(len(label_B), dtype=np.bool_)
    return {"event": scores_BC}, {"event": {"known_B": known_B, "label_B": label_B}}


def exact(scores_BC: np.ndarray, label_B: np.ndarray, study: Study = STUDY) -> Metrics:
    return exact_metrics(*evaluated(scores_BC, label_B), study)["event"]


def binary(scores: list[float]) -> np.ndarray:
    return np.stack([1 - np.asarray(scores), np.asarray(scores)], axis=1)


def test_metrics_of_five_patients_worked_by_hand() -> None:
    # Positives score .9 and .4; negatives .8, .3 and .1. Of 6 pairs, .9 wins 3 and .4 wins 2.
    metrics = exact(binary([0.9, 0.4, 0.8, 0.3, 0.1]), np.array([1, 1, 0, 0, 0]))
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
    metrics = exact(binary([0.5, 0.5, 0.5]), np.array([1, 0, 0]))
    assert metrics["auroc"] == pytest.approx(0.5)


def test_auroc_needs_no_bins(tiny_study) -> None:
    # All four scores lie in one bin of a histogram, and are ranked all the same.
    scores = [0.5001, 0.5002, 0.5003, 0.5004]
    assert exact(binary(scores), np.array([0, 0, 1, 1]))["auroc"] == 1.0
    assert exact(binary(scores), np.array([1, 1, 0, 0]))["auroc"] == 0.0


def test_with_one_class_ranking_is_undefined_and_the_rest_is_not() -> None:
    metrics = exact(binary([0.9, 0.8]), np.array([1, 1]))
    assert (metrics["auroc"], metrics["auprc"]) == (None, None)
    assert metrics["accuracy"] == 1.0


def test_of_several_classes_auroc_is_the_mean_of_one_against_the_rest() -> None:
    scores_BC = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.6, 0.1]])
    # Class 0: .6 beats .2 and .3: 1. Class 1: .5 beats .3, loses to .6: 1/2.
    # Class 2 (patient 3, .1): ties .1 (1/2), loses to .3: 1/4.
    metrics = exact(scores_BC, np.array([0, 1, 2]), study_of(outcomes=MULTICLASS))
    assert metrics["auroc"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)


@pytest.mark.parametrize("decimals", [1, 6], ids=["many ties", "hardly any"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_ranking_is_that_of_scikit_learn(num_classes: int, decimals: int) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    random = np.random.default_rng(2)
    labels_B = random.integers(0, num_classes, 200)
    scores_BC = random.dirichlet(np.ones(num_classes), 200).round(decimals)
    columns = [1] if num_classes == 2 else range(num_classes)
    classes = [f"c{c}" for c in range(num_classes)]
    kind = "binary" if num_classes == 2 else "multiclass"
    event = {"column": "event", "kind": kind, "classes": classes}
    metrics = exact(scores_BC, labels_B, study_of(outcomes={"event": event}))
    for name, of in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        expected = np.mean([of(labels_B == c, scores_BC[:, c]) for c in columns])
        assert metrics[name] == pytest.approx(expected, rel=1e-12)


@given(order=st.permutations(["a", "b", "c"]))
def test_the_order_in_which_sites_are_seen_changes_nothing(order: list[str]) -> None:
    random = np.random.default_rng(1)
    seen = {
        name: evaluated(binary(random.uniform(size=9).tolist()), np.arange(9) % 2) for name in "abc"
    }

    def told(names: list[str]) -> dict[str, Metrics]:
        oracle = Oracle()
        for name in names:
            oracle.observer(name)(4, "", *seen[name])
        return oracle.pop(4, STUDY) or {}

    assert told(order) == told(["a", "b", "c"])
    everyone = exact(
        np.concatenate([seen[name][0]["event"] for name in "abc"]),
        np.concatenate([seen[name][1]["event"]["label_B"] for name in "abc"]),
    )
    assert told(order) == {"event": everyone}


def test_a_site_that_is_asked_again_counts_once_with_its_last_predictions() -> None:
    oracle = Oracle()
    observe = oracle.observer("a")
    observe(0, "", *evaluated(binary([0.1, 0.9]), np.array([1, 0])))
    observe(0, "", *evaluated(binary([0.9, 0.1]), np.array([1, 0])))
    metrics = oracle.pop(0, STUDY)
    assert metrics is not None
    assert (metrics["event"]["num_patients"], metrics["event"]["accuracy"]) == (2, 1.0)


def test_a_round_is_told_once_and_a_round_without_predictions_not_at_all() -> None:
    oracle = Oracle()
    oracle.observer("a")(1, "", *evaluated(binary([0.1, 0.9]), np.array([0, 1])))
    assert oracle.pop(0, STUDY) is None
    assert oracle.pop(1, STUDY) is not None
    assert oracle.pop(1, STUDY) is None


def test_the_latest_predictions_of_a_site_stay_known() -> None:
    oracle = Oracle()
    oracle.observer("a")(0, "", *evaluated(binary([0.1]), np.array([0])))
    oracle.observer("a")(1, "", *evaluated(binary([0.7]), np.array([0])))
    oracle.pop(1, STUDY)
    predictions, _ = oracle.latest()["a"]
    assert predictions["event"].tolist() == binary([0.7]).tolist()
    assert set(oracle.latest()) == {"a"}


def test_a_sites_own_model_is_kept_apart_and_is_no_part_of_the_round() -> None:
    oracle = Oracle()
    oracle.observer("a")(1, "", *evaluated(binary([0.1, 0.9]), np.array([0, 1])))
    oracle.observer("a")(1, PERSONAL, *evaluated(binary([0.9, 0.1]), np.array([0, 1])))
    metrics = oracle.pop(1, STUDY)
    assert metrics is not None
    assert metrics["event"]["accuracy"] == 1.0
    assert oracle.latest(PERSONAL)["a"][0]["event"].tolist() == binary([0.9, 0.1]).tolist()
    assert oracle.latest()["a"][0]["event"].tolist() == binary([0.1, 0.9]).tolist()


def test_every_outcome_is_judged_over_those_of_whom_it_is_known() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    parts = [
        (predictions_of(study, n, seed=n), outcomes_of(study, n, seed=n, unknown=0.3))
        for n in (20, 30)
    ]
    predictions, outcomes = pooled(parts)
    metrics = exact_metrics(predictions, outcomes, study)
    for name in ("event", "stay", "death"):
        known_B = outcomes[name]["known_B"]
        assert len(known_B) == len(predictions[name]) == 50
        assert metrics[name]["num_patients"] == known_B.sum() < 50
    error_B = predictions["stay"][:, 0] - outcomes["stay"]["value_B"]
    known_B = outcomes["stay"]["known_B"]
    assert metrics["stay"]["mae"] == pytest.approx(np.abs(error_B[known_B]).mean(), rel=1e-9)
