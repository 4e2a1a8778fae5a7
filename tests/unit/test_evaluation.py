"""Evaluation at a site: probabilities of everyone, whatever the batches, and their sums."""

import numpy as np
import pytest
import torch

import client.evaluation as evaluation
from client.config import load_site_config
from client.data import read_cohort, usable_cohort
from client.evaluation import evaluate, predict
from client.training import Patients, to_device
from common.metrics import metrics_of, sums_of
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from common.study_file import override


@pytest.fixture
def everyone(new_site, tiny_study: Study) -> Patients:
    cohort = usable_cohort(*read_cohort(load_site_config(new_site()), tiny_study))
    return to_device(cohort, torch.device("cpu"))


def test_every_patient_has_probabilities_that_add_to_one(tiny_study, everyone) -> None:
    scores_BC = predict(PatientModel(tiny_study), everyone, tiny_study)
    assert scores_BC.shape == (60, 2)
    assert scores_BC.dtype == np.float64
    assert (scores_BC >= 0).all()
    assert np.allclose(scores_BC.sum(axis=1), 1.0, atol=1e-12)


def test_the_size_of_a_batch_does_not_matter(
    tiny_study, everyone, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PatientModel(tiny_study)
    whole = predict(model, everyone, tiny_study)
    monkeypatch.setattr(evaluation, "_BATCH", 7)
    assert np.allclose(predict(model, everyone, tiny_study), whole, atol=1e-6)


def test_nothing_is_dropped_at_random_in_an_evaluation(tiny_study, everyone) -> None:
    study = override(tiny_study, model__dropout=0.5, model__granularity_dropout=0.5)
    model = PatientModel(study)
    model.train()
    assert predict(model, everyone, study).tobytes() == predict(model, everyone, study).tobytes()


def test_an_evaluation_leaves_the_model_as_it_was(tiny_study, everyone) -> None:
    model = PatientModel(tiny_study)
    before = state_of(model).flat.tobytes()
    predict(model, everyone, tiny_study)
    assert state_of(model).flat.tobytes() == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nobody_is_predicted_for_nobody(tiny_study, everyone) -> None:
    nobody = Patients(
        inputs={k: {n: v[:0] for n, v in g.items()} for k, g in everyone.inputs.items()},
        labels_B=everyone.labels_B[:0],
    )
    assert predict(PatientModel(tiny_study), nobody, tiny_study).shape == (0, 2)


def test_the_sums_are_those_of_these_scores_and_labels(tiny_study, everyone) -> None:
    scores_BC = predict(PatientModel(tiny_study), everyone, tiny_study)
    found = evaluate(scores_BC, everyone, tiny_study)
    expected = sums_of(scores_BC, everyone.labels_B.numpy(), score_bins=10)
    assert found.to_flat() == expected.to_flat()
    accuracy = float((scores_BC.argmax(axis=1) == everyone.labels_B.numpy()).mean())
    assert metrics_of(found)["accuracy"] == pytest.approx(accuracy, abs=1e-12)


def test_absent_granularities_cannot_influence_a_prediction(tiny_study, everyone) -> None:
    absent = {k: dict(g) for k, g in everyone.inputs.items()}
    absent["lifestyle"]["present_B"] = torch.zeros(60, dtype=torch.bool)
    other = {k: dict(g) for k, g in absent.items()}
    other["lifestyle"]["numeric_BF"] = absent["lifestyle"]["numeric_BF"] + 1e6
    other["lifestyle"]["codes_BK"] = torch.zeros_like(absent["lifestyle"]["codes_BK"])
    model = PatientModel(tiny_study)
    one, two = (
        predict(model, Patients(inputs=inputs, labels_B=everyone.labels_B), tiny_study)
        for inputs in (absent, other)
    )
    assert one.tobytes() == two.tobytes()
