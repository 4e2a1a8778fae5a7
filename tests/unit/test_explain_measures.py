"""Resampled metrics, calibration, decisions, survival: beside oracles, and by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.explain.calibration import ECE, calibration_bins, calibration_of
from client.explain.decisions import (
    decisions_of,
    judged,
    sensitivity_threshold,
    youden_threshold,
)
from client.explain.regression import Quantities, quantities_of, stretches_of
from client.explain.survival import kaplan_meier, survival_of
from client.explain.temperature import HIGHEST, LOWEST, at_temperature, fit_temperature
from common.metrics.classification import ClassStatistics
from common.metrics.resampling import auroc, concordance, draws, estimate, mean
from common.metrics.survival import concordance_index
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, study_of
from tests.unit.explain_cases import (
    SMALLEST_GROUP,
    cohort_of,
    subject_of,
    with_labels,
    with_predictions,
)


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_auroc_of_a_resample_is_that_of_its_patients(seed: int, num_patients: int) -> None:
    random = np.random.default_rng(seed)
    score_B = random.integers(0, 8, num_patients) / 8  # ties
    label_B = random.integers(0, 2, num_patients)
    drawn_RB = draws(num_patients, 3)
    found_R = auroc(score_B, label_B == 1, drawn_RB)
    for found, drawn_B in zip(found_R, drawn_RB.astype(int), strict=True):
        score, label = np.repeat(score_B, drawn_B), np.repeat(label_B, drawn_B)
        scores_BC = np.stack([1 - score, score], axis=1)
        labels = {"known_B": np.ones(len(label), dtype=bool), "label_B": label}
        statistics = ClassStatistics(num_classes=2, score_bins=10)
        expected = statistics.exact_metrics(scores_BC, labels)["auroc"]
        assert found == pytest.approx(expected) if expected is not None else np.isnan(found)


@given(st.integers(0, 10_000))
def test_concordance_of_a_resample_is_that_of_its_patients(seed: int) -> None:
    random = np.random.default_rng(seed)
    risk_B, time_B = random.integers(0, 5, 20) / 5, random.integers(0, 6, 20).astype(float)
    event_B, drawn_RB = random.uniform(size=20) < 0.5, draws(20, 3)
    found_R = concordance(risk_B, time_B, event_B, drawn_RB)
    for found, drawn_B in zip(found_R, drawn_RB.astype(int), strict=True):
        repeated = (np.repeat(v, drawn_B) for v in (time_B, event_B, risk_B))
        assert found == pytest.approx(concordance_index(*repeated), nan_ok=True)


def test_an_interval_holds_what_it_estimates_about_19_times_in_20() -> None:
    random = np.random.default_rng(0)
    num_held = 0
    for _ in range(200):
        value_B = random.normal(3.0, 1.0, 60)
        found = estimate(mean(value_B, draws(60, 300)))
        num_held += found.low < 3.0 < found.high
    # Of 200, at 95 %: 190 ± 3.1; a percentile interval is a little narrow. At 68 % it were 136.
    assert 180 <= num_held <= 199


def test_equal_patients_give_equal_draws() -> None:
    assert (draws(30) == draws(30)).all()
    assert (draws(30)[1:].sum(axis=1) == 30).all()


def test_the_temperature_undoes_what_was_made_too_bold() -> None:
    random = np.random.default_rng(0)
    p_B = random.uniform(0.02, 0.98, 20_000)
    label_B = (random.uniform(size=len(p_B)) < p_B).astype(np.int64)
    true_BC = np.stack([1 - p_B, p_B], axis=1)
    # 20,000 patients: a standard error of about .01.
    assert fit_temperature(at_temperature(true_BC, 0.5), label_B) == pytest.approx(2.0, abs=0.06)
    assert fit_temperature(at_temperature(true_BC, 2.0), label_B) == pytest.approx(0.5, abs=0.02)


def test_no_other_temperature_has_a_lower_loss() -> None:
    random = np.random.default_rng(1)
    scores_BC, label_B = random.dirichlet(np.ones(3), 80), random.integers(0, 3, 80)

    def loss(temperature: float) -> float:
        scaled_BC = at_temperature(scores_BC, temperature)
        return float(-np.log(scaled_BC[np.arange(80), label_B]).sum())

    found = fit_temperature(scores_BC, label_B)
    assert found is not None
    assert all(loss(found) <= loss(t) + 1e-9 for t in np.geomspace(LOWEST, HIGHEST, 400))


def test_a_temperature_ends_where_patients_are_told_apart_without_a_mistake() -> None:
    scores_BC = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(scores_BC, np.array([0, 1])) == pytest.approx(LOWEST, rel=1e-6)
    assert fit_temperature(scores_BC, np.array([1, 0])) == pytest.approx(HIGHEST, rel=1e-6)
    assert fit_temperature(scores_BC, np.array([1, 1])) is None


def test_nothing_chosen_or_fitted_depends_on_a_held_out_patient() -> None:
    study = study_of()
    subject = subject_of(study)
    others = cohort_of(study, 40, seed=9)
    label_B = 1 - subject.test.cohort.outcomes["event"]["label_B"]
    changed = subject_of(study, test=with_labels(others, "event", label_B))
    before, after = calibration_of(subject, "event"), calibration_of(changed, "event")
    assert before.temperature == after.temperature
    assert before.before != after.before
    thresholds = [[d.threshold for d in decisions_of(s, "event", 0.8)] for s in (subject, changed)]
    assert thresholds[0] == thresholds[1]
    assert decisions_of(subject, "event", 0.8)[0] != decisions_of(changed, "event", 0.8)[0]


@pytest.mark.parametrize("outcomes", [{}, MULTICLASS])
def test_measures_of_calibration_are_those_of_every_evaluation(outcomes: dict[str, object]) -> None:
    study = study_of(outcomes=outcomes)
    subject = subject_of(study)
    found = calibration_of(subject, "event").before
    scores_BC = subject.test.predictions["event"]
    statistics = ClassStatistics(num_classes=scores_BC.shape[1], score_bins=10)
    labels = subject.test.cohort.outcomes["event"]
    expected = statistics.metrics_of(statistics.sums_of(scores_BC, labels))
    assert found[ECE].value == pytest.approx(expected["calibration_error"])
    assert found["Brier score"].value == pytest.approx(expected["brier"])
    assert found["log loss"].value == pytest.approx(expected["loss"])
    assert found[ECE].low is None
    assert found["log loss"].low < expected["loss"] < found["log loss"].high


@given(st.integers(0, 10_000), st.integers(1, 120))
def test_a_bin_never_tells_of_fewer_patients_than_it_may(seed: int, num_patients: int) -> None:
    random = np.random.default_rng(seed)
    score_B = np.round(random.uniform(size=num_patients), 1)  # ties
    right_B = random.uniform(size=num_patients) < 0.5
    bins = calibration_bins(score_B, right_B, SMALLEST_GROUP)
    assert len(bins) != 1
    assert all(b.num_patients >= SMALLEST_GROUP for b in bins)
    if bins:
        assert sum(b.num_patients for b in bins) == num_patients
        assert sum(b.num_patients * b.observed for b in bins) == pytest.approx(right_B.sum())


def test_a_decision_by_hand() -> None:
    flagged_B = np.array([True, True, True, False, False, False, False])
    positive_B = np.array([True, True, False, True, False, False, False])
    found = judged("rule", 0.5, flagged_B, positive_B, draws(7, 200))
    values = {name: e.value for name, e in found.measures.items()}
    # 2 of 3 found, 3 of 4 cleared; 2 of 3 flagged are right, 3 of 4 others; F1 = 4 / 6.
    assert values == pytest.approx(
        {"sensitivity": 2 / 3, "specificity": 3 / 4, "PPV": 2 / 3, "NPV": 3 / 4, "F1": 4 / 6}
    )
    assert found.num_flagged == 3
    assert all(e.low <= e.value <= e.high for e in found.measures.values())


def test_where_all_are_right_the_interval_is_not_a_point() -> None:
    positive_B = np.array([True] * 5 + [False] * 5)
    found = judged("rule", 0.5, positive_B, positive_B, draws(10, 200))
    # Wilson's for 5 of 5: 5 / (5 + 1.96²).
    assert found.measures["sensitivity"].low == pytest.approx(5 / (5 + 1.96**2))
    assert found.measures["sensitivity"].high == 1.0


@given(st.integers(0, 10_000))
def test_youdens_threshold_is_the_best_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    score_B = random.integers(0, 10, 30) / 10
    positive_B = np.arange(30) % 3 == 0

    def youden(threshold: float) -> float:
        flagged_B = score_B >= threshold
        return float(flagged_B[positive_B].mean() + (~flagged_B)[~positive_B].mean())

    best = max(youden(t) for t in np.unique(score_B))
    assert youden(youden_threshold(score_B, positive_B)) == pytest.approx(best)


@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
def test_the_asked_sensitivity_is_reached_and_by_no_higher_threshold(
    seed: int, sensitivity: float
) -> None:
    random = np.random.default_rng(seed)
    score_B, positive_B = random.uniform(size=40), random.uniform(size=40) < 0.5
    positive_B[0] = True
    threshold = sensitivity_threshold(score_B, positive_B, sensitivity)
    assert (score_B[positive_B] >= threshold).mean() >= sensitivity - 1e-9
    assert (score_B[positive_B] > threshold).mean() < sensitivity


def test_several_classes_are_judged_by_the_most_probable_one() -> None:
    study = study_of(outcomes=MULTICLASS)
    subject = subject_of(study)
    found = decisions_of(subject, "event", None)
    assert [d.name for d in found] == list(MULTICLASS["event"]["classes"])
    decided_B = subject.test.predictions["event"].argmax(axis=1)
    assert [d.num_flagged for d in found] == [int((decided_B == c).sum()) for c in range(3)]
    assert all(d.threshold is None for d in found)


def test_one_class_among_training_patients_chooses_no_threshold() -> None:
    study = study_of()
    train = with_labels(cohort_of(study, 60, seed=1), "event", np.zeros(60))
    subject = subject_of(study, train=train)
    assert {d.name for d in decisions_of(subject, "event", 0.9)} == {f"0.{k}" for k in range(1, 10)}
    assert calibration_of(subject, "event").temperature is None


def test_kaplan_meier_by_hand() -> None:
    # At 2, 1 of 5 dies; one is censored at 3; at 4, 1 of 3; at 6, 1 of 1 (the other left at 5).
    time_B = np.array([2.0, 3.0, 4.0, 5.0, 6.0])
    event_B = np.array([True, False, True, False, True])
    found = kaplan_meier(time_B, event_B, np.array([1.0, 2.0, 4.5, 6.0, 7.0]))
    assert found.survival_K == pytest.approx([1.0, 0.8, 0.8 * 2 / 3, 0.0, 0.0])
    assert found.at_risk_K.tolist() == [5, 5, 2, 1, 0]
    # Greenwood at 2: 1 / (5 · 4) = .05; log(.8) = -.2231; .8^exp(±1.96 · .2236 / .2231).
    assert found.low_K[1] == pytest.approx(0.2038, abs=1e-4)
    assert found.high_K[1] == pytest.approx(0.9692, abs=1e-4)


def test_without_censoring_kaplan_meier_is_the_part_that_lives_longer() -> None:
    time_B = np.random.default_rng(0).integers(1, 20, 50).astype(float)
    times_K = np.arange(0.0, 20.0)
    found = kaplan_meier(time_B, np.ones(50, dtype=bool), times_K)
    assert found.survival_K == pytest.approx([(time_B > t).mean() for t in times_K])


def test_after_the_last_patient_nothing_is_known() -> None:
    found = kaplan_meier(np.array([1.0, 2.0]), np.array([True, False]), np.array([2.0, 3.0]))
    assert found.survival_K[0] == 0.5
    assert np.isnan(found.survival_K[1])
    assert np.isnan(found.low_K[1])


def test_thirds_of_risk_hold_everybody_and_too_small_ones_are_left_out() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    found = survival_of(subject_of(study), "death")
    assert sum(third.num_patients for third in found.thirds) == found.num_patients == 40
    means = [float(third.predicted_K.mean()) for third in found.thirds]
    assert means == sorted(means, reverse=True)
    few = survival_of(subject_of(study, test=cohort_of(study, 29, seed=2)), "death")
    assert all(third.num_patients >= SMALLEST_GROUP for third in few.thirds)
    assert len(few.thirds) < 3


def test_a_cox_model_shows_observed_survival_alone() -> None:
    outcomes = {"death": MORE_OUTCOMES["death"] | {"loss": "cox"}}
    found = survival_of(subject_of(study_of(outcomes=outcomes)), "death")
    assert len(found.thirds) == 3
    assert all(third.predicted_K is None for third in found.thirds)


def test_quantities_leave_out_the_unknown_and_stretches_hold_enough() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    test = cohort_of(study, 60, seed=2, unknown=0.4)
    subject = subject_of(study, test=test)
    found = quantities_of(subject, "stay")
    known_B = test.outcomes["stay"]["known_B"]
    assert len(found.ids) == known_B.sum() < 60
    assert found.residual_B == pytest.approx(found.observed_B - found.predicted_B)
    stretches = stretches_of(found, SMALLEST_GROUP)
    assert sum(s.num_patients for s in stretches) == len(found.ids)
    assert all(s.num_patients >= SMALLEST_GROUP for s in stretches)
    nobody = Quantities(predicted_B=np.zeros(3), observed_B=np.zeros(3), ids=("a", "b", "c"))
    assert stretches_of(nobody, SMALLEST_GROUP) == []


def test_nobody_held_out_with_a_known_outcome_is_no_crash() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    cohort = cohort_of(study, 20, seed=2, unknown=1.0)
    subject = subject_of(study, test=cohort)
    assert calibration_of(subject, "event").before[ECE].value is None
    assert all(
        e.value is None for d in decisions_of(subject, "event", 0.9) for e in d.measures.values()
    )
    assert survival_of(subject, "death").thirds == []
    assert quantities_of(subject, "stay").ids == ()


def test_perfect_predictions_are_judged_as_perfect() -> None:
    study = study_of()
    subject = subject_of(study)
    parts = [part.cohort.outcomes["event"]["label_B"] for part in (subject.train, subject.test)]
    scores = [np.stack([1.0 - label_B, 1.0 * label_B], axis=1) for label_B in parts]
    perfect = with_predictions(subject, "event", *scores)
    youden = decisions_of(replace(perfect), "event", None)[0]
    assert all(e.value == 1.0 for e in youden.measures.values())
    assert calibration_of(perfect, "event").before[ECE].value == 0.0
