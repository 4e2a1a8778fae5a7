"""Recalibration: the intercept of a site, where it is and where it stays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.evaluation import predict, predict_at_site
from client.recalibration import add_intercept, fit_intercept
from client.training import Patients
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, study_of
from tests.unit.builders import patients_of as random_patients


def patients_of(
    num_patients: int, num_classes: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    scores_BC = rng.dirichlet(np.full(num_classes, 0.7), num_patients)
    return scores_BC, rng.integers(num_classes, size=num_patients)


@given(
    num_patients=st.integers(1, 60),
    num_classes=st.integers(2, 4),
    sd=st.floats(0.01, 10.0),
    seed=st.integers(0, 10**6),
)
def test_at_the_result_counts_and_probabilities_agree_but_for_the_pull_of_the_prior(
    num_patients: int, num_classes: int, sd: float, seed: int
) -> None:
    scores_BC, labels_B = patients_of(num_patients, num_classes, seed)
    intercept_C = fit_intercept(scores_BC, labels_B, sd)
    counts_C = np.bincount(labels_B, minlength=num_classes)
    expected_C = add_intercept(scores_BC, intercept_C).sum(axis=0)
    assert intercept_C[0] == 0
    assert np.allclose((counts_C - expected_C)[1:], (intercept_C / sd**2)[1:], atol=1e-5)


def test_with_a_wide_prior_the_intercept_is_the_difference_of_the_log_odds() -> None:
    # Every score is 1/2 (log odds 0) and 3 of 4 patients have the outcome: ln 3 is to be added.
    intercept_C = fit_intercept(np.full((4, 2), 0.5), np.array([1, 1, 1, 0]), 1e4)
    assert intercept_C == pytest.approx([0.0, np.log(3)], abs=1e-6)


def test_a_site_with_one_class_has_a_finite_intercept() -> None:
    scores_BC = np.tile([0.4, 0.6], (1000, 1))
    intercept_C = fit_intercept(scores_BC, np.ones(1000, dtype=np.int64), 2.0)
    assert 0 < intercept_C[1] < 20


@pytest.mark.parametrize("score", [0.0, 1e-9, 1.0 - 1e-9, 1.0])
def test_scores_at_the_edge_do_not_lead_astray(score: float) -> None:
    scores_BC = np.tile([1 - score, score], (50, 1))
    labels_B = np.array([0, 1] * 25)
    intercept_C = fit_intercept(scores_BC, labels_B, 3.0)
    expected = add_intercept(scores_BC, intercept_C).sum(axis=0)[1]
    assert np.isfinite(intercept_C).all()
    assert 25 - expected == pytest.approx(intercept_C[1] / 9, abs=1e-5)


@pytest.mark.parametrize(("num_patients", "sd"), [(0, 1.0), (20, 0.0)])
def test_nobody_to_fit_to_or_no_spread_gives_zeros(num_patients: int, sd: float) -> None:
    scores_BC, labels_B = patients_of(num_patients, 3, seed=0)
    assert fit_intercept(scores_BC, labels_B, sd).tolist() == [0.0, 0.0, 0.0]


def test_an_intercept_changes_no_order_of_the_patients_of_a_site() -> None:
    scores_BC, _ = patients_of(50, 2, seed=1)
    moved_BC = add_intercept(scores_BC, np.array([0.0, 1.5]))
    assert (np.argsort(moved_BC[:, 1]) == np.argsort(scores_BC[:, 1])).all()
    assert np.allclose(moved_BC.sum(axis=1), 1.0, atol=1e-12)


def everyone(sd: float) -> tuple[PatientModel, Patients, Patients, Study]:
    study = study_of(model={"site_intercept_sd": sd})
    model = PatientModel(study)
    return model, all_of_class(1, 40, study), all_of_class(0, 30, study), study


def all_of_class(label: int, num_patients: int, study: Study) -> Patients:
    patients = random_patients(study, num_patients, seed=1 + label)
    label_B = torch.full((num_patients,), label)
    return replace(patients, outcomes={"event": {**patients.outcomes["event"], "label_B": label_B}})


def test_without_an_intercept_a_site_predicts_as_the_global_model() -> None:
    model, trained_on, held_out, study = everyone(0.0)
    found = predict_at_site(model, held_out, study, trained_on=trained_on)["event"]
    assert found.tobytes() == predict(model, held_out)["event"].tobytes()


def test_the_intercept_follows_the_training_patients_and_leaves_the_model_as_it_was() -> None:
    model, trained_on, held_out, study = everyone(2.0)
    before = state_of(model).flat.tobytes()
    found = predict_at_site(model, held_out, study, trained_on=trained_on)["event"]
    # All training patients have the outcome, so it becomes more probable; no held-out one does.
    assert (found[:, 1] > predict(model, held_out)["event"][:, 1]).all()
    assert state_of(model).flat.tobytes() == before


def test_only_classes_have_an_intercept_and_only_the_known_count() -> None:
    study = study_of(outcomes=MORE_OUTCOMES, model={"site_intercept_sd": 2.0})
    model, held_out = PatientModel(study), random_patients(study, 30, seed=2)
    trained_on = random_patients(study, 40, seed=1)
    known_B = torch.arange(40) % 3 > 0
    event = {
        "known_B": known_B,
        # All who are known have the outcome; the others, who are not counted, would say otherwise.
        "label_B": torch.where(known_B, 1, 0),
    }
    some = replace(trained_on, outcomes={**trained_on.outcomes, "event": event})
    plain, found = (
        predict(model, held_out),
        predict_at_site(model, held_out, study, trained_on=some),
    )
    own_BC = predict(model, trained_on)["event"][known_B.numpy()]
    intercept_C = fit_intercept(own_BC, np.ones(int(known_B.sum()), dtype=np.int64), 2.0)
    expected_BC = add_intercept(plain["event"], intercept_C)
    np.testing.assert_allclose(found["event"], expected_BC, rtol=1e-12)
    for name in ("stay", "death"):
        assert found[name].tobytes() == plain[name].tobytes()
