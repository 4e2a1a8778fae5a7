"""The main metric on resamples: that of the patients drawn, for every kind of outcome."""

from typing import Any

import numpy as np
import pytest

from common.metrics.evaluation import statistics_of
from common.study import Study
from simulations.joining.resample import drawn_at, is_higher_better, resampled, too_few
from simulations.results.measure import primary_metric
from tests.round.mixed_hospitals import OUTCOMES, mixed_study

NUM_PATIENTS = 40


def labels_of(outcome: str, random: np.random.Generator) -> dict[str, Any]:
    known_B = random.uniform(size=NUM_PATIENTS) < 0.8
    if outcome == "stay":
        # Some beyond the plausible range of 0 to 60.
        return {"value_B": random.uniform(-5, 70, NUM_PATIENTS), "known_B": known_B}
    if outcome == "death":
        time_B = random.integers(1, 12, NUM_PATIENTS).astype(np.float32) * 30
        return {"time_B": time_B, "event_B": random.uniform(size=NUM_PATIENTS) < 0.6} | {
            "known_B": known_B
        }
    num_classes = len(OUTCOMES[outcome]["classes"])
    return {"label_B": random.integers(num_classes, size=NUM_PATIENTS), "known_B": known_B}


def predictions_of(outcome: str, random: np.random.Generator) -> np.ndarray:
    if outcome == "stay":
        return random.uniform(-10, 80, (NUM_PATIENTS, 1))
    if outcome == "death":
        return np.sort(random.uniform(size=(NUM_PATIENTS, 4)), axis=1)[:, ::-1]
    scores = random.uniform(size=(NUM_PATIENTS, len(OUTCOMES[outcome]["classes"])))
    scores_BC: np.ndarray = scores / scores.sum(axis=1, keepdims=True)
    return scores_BC


def exact(study: Study, predictions_BP: np.ndarray, labels: dict[str, Any]) -> float:
    outcome, metric = primary_metric(study)
    value = statistics_of(study)[outcome].exact_metrics(predictions_BP, labels)[metric]
    return np.nan if value is None else value


@pytest.mark.parametrize("outcome", list(OUTCOMES))
def test_each_resample_has_the_exact_metric_of_the_patients_drawn(outcome: str) -> None:
    study, random = mixed_study(outcome), np.random.default_rng(1)
    predictions_BP, labels = predictions_of(outcome, random), labels_of(outcome, random)
    known_B = labels["known_B"]
    drawn_RB = drawn_at("north", int(known_B.sum()), num_resamples=25)
    found_R = resampled({outcome: predictions_BP}, {outcome: labels}, study, drawn_RB)
    expected = []
    for drawn_B in drawn_RB.astype(int):
        rows = np.repeat(np.flatnonzero(known_B), drawn_B)
        again = {name: value[rows] for name, value in labels.items()}
        expected.append(exact(study, predictions_BP[rows], again))
    assert found_R == pytest.approx(np.array(expected), nan_ok=True)
    assert found_R[0] == pytest.approx(exact(study, predictions_BP, labels))


@pytest.mark.parametrize("outcome", list(OUTCOMES))
def test_predictions_that_are_not_finite_have_no_metric(outcome: str) -> None:
    study, random = mixed_study(outcome), np.random.default_rng(1)
    predictions_BP, labels = predictions_of(outcome, random), labels_of(outcome, random)
    labels["known_B"][3] = True
    predictions_BP[3] = np.nan
    drawn_RB = drawn_at("north", int(labels["known_B"].sum()), num_resamples=4)
    found_R = resampled({outcome: predictions_BP}, {outcome: labels}, study, drawn_RB)
    assert np.isnan(found_R).all()


def test_of_nobody_the_metric_is_undefined() -> None:
    labels = {"label_B": np.zeros(2, dtype=int), "known_B": np.zeros(2, dtype=bool)}
    found_R = resampled(
        {"event": np.full((2, 2), 0.5)}, {"event": labels}, mixed_study("event"), drawn_at("n", 0)
    )
    assert np.isnan(found_R).all()


def test_a_hospital_has_the_same_resamples_again_and_another_of_its_size_has_others() -> None:
    assert np.array_equal(drawn_at("north", 20), drawn_at("north", 20))
    north_RB, south_RB = drawn_at("north", 20), drawn_at("south", 20)
    assert (north_RB[0] == 1).all()
    assert (south_RB[0] == 1).all()
    assert (north_RB.sum(axis=1) == 20).all()
    # In the same order, a mean over two hospitals would vary as much as each of them.
    correlation = np.corrcoef(north_RB[1:, 0], south_RB[1:, 0])[0, 1]
    assert abs(correlation) < 0.1


@pytest.mark.parametrize(
    ("outcome", "is_better"), [("event", True), ("stage", True), ("death", True), ("stay", False)]
)
def test_more_is_better_of_all_metrics_but_errors(outcome: str, is_better: bool) -> None:
    assert is_higher_better(mixed_study(outcome)) is is_better


def counted(outcome: str, counts: tuple[int, ...]) -> dict[str, Any]:
    """Patients with so many of each class; of an event; or with a known quantity."""
    if outcome == "stay":
        return {"known_B": np.arange(50) < counts[0], "value_B": np.zeros(50)}
    groups = np.repeat(np.arange(len(counts)), counts)
    known_B = np.ones(len(groups), dtype=bool)
    if outcome == "death":
        return {"known_B": known_B, "event_B": groups == 1, "time_B": np.ones(len(groups))}
    return {"known_B": known_B, "label_B": groups}


@pytest.mark.parametrize(
    ("outcome", "counts", "told"),
    [
        ("event", (10, 10), ""),
        ("event", (30, 9), "9 of 39 held-out patients are of class “yes”"),
        ("event", (30, 1), "1 of 31 held-out patients is of class “yes”"),
        ("stage", (10, 30, 10), ""),
        ("stage", (10, 0, 10), "0 of 20 held-out patients are of class “1”"),
        ("death", (0, 10), ""),
        ("death", (40, 9), "9 of 49 held-out patients had the event"),
        ("stay", (10,), ""),
        ("stay", (9,), "there are only 9 held-out patients"),
    ],
)
def test_an_interval_takes_ten_patients_of_each_kind(
    outcome: str, counts: tuple[int, ...], told: str
) -> None:
    reason = too_few(counted(outcome, counts), mixed_study(outcome).primary)
    assert reason == (f"{told}, and an interval takes at least 10" if told else "")


def test_without_a_known_outcome_there_is_a_reason() -> None:
    reason = too_few(counted("stay", (0,)), mixed_study("stay").primary)
    assert reason == "no outcome is known of a held-out patient"
