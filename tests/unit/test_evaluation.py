"""Evaluation at a site: probabilities of everyone, whatever the batches, and their sums."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import client.evaluation as evaluation
from client.config import load_site_config
from client.data import read_cohort, usable_cohort
from client.evaluation import evaluate, outcomes_of, predict
from client.training import Patients, to_device
from common.metrics.classification import ClassStatistics
from common.metrics.evaluation import to_flat
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from common.study_file import override
from tests.unit import builders
from tests.unit.builders import MORE_OUTCOMES, study_of


@pytest.fixture
def everyone(new_site, tiny_study: Study) -> Patients:
    cohort = usable_cohort(*read_cohort(load_site_config(new_site()), tiny_study))
    return to_device(cohort, torch.device("cpu"))


def test_every_patient_has_probabilities_that_add_to_one(tiny_study, everyone) -> None:
    scores_BC = predict(PatientModel(tiny_study), everyone)["event"]
    assert scores_BC.shape == (60, 2)
    assert scores_BC.dtype == np.float64
    assert (scores_BC >= 0).all()
    assert np.allclose(scores_BC.sum(axis=1), 1.0, atol=1e-12)


def test_the_size_of_a_batch_does_not_matter(
    tiny_study, everyone, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PatientModel(tiny_study)
    whole = predict(model, everyone)["event"]
    monkeypatch.setattr(evaluation, "_BATCH", 7)
    assert np.allclose(predict(model, everyone)["event"], whole, atol=1e-6)


def test_nothing_is_dropped_at_random_in_an_evaluation(tiny_study, everyone) -> None:
    study = override(tiny_study, model__dropout=0.5, model__granularity_dropout=0.5)
    model = PatientModel(study)
    model.train()
    first, second = (predict(model, everyone)["event"] for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_an_evaluation_leaves_the_model_as_it_was(tiny_study, everyone) -> None:
    model = PatientModel(tiny_study)
    before = state_of(model).flat.tobytes()
    predict(model, everyone)
    assert state_of(model).flat.tobytes() == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nobody_is_predicted_for_nobody(tiny_study, everyone) -> None:
    nobody = Patients(
        inputs={k: {n: v[:0] for n, v in g.items()} for k, g in everyone.inputs.items()},
        outcomes={k: {n: v[:0] for n, v in g.items()} for k, g in everyone.outcomes.items()},
        device=everyone.device,
        num_patients=0,
    )
    assert predict(PatientModel(tiny_study), nobody)["event"].shape == (0, 2)


def test_the_sums_are_those_of_these_scores_and_labels(tiny_study, everyone) -> None:
    predictions, outcomes = predict(PatientModel(tiny_study), everyone), outcomes_of(everyone)
    found = evaluate(predictions, outcomes, tiny_study)
    statistics = ClassStatistics(num_classes=2, score_bins=10)
    scores_BC, labels = predictions["event"], outcomes["event"]
    assert to_flat(found) == to_flat({"event": statistics.sums_of(scores_BC, labels)})
    accuracy = float((scores_BC.argmax(axis=1) == labels["label_B"]).mean())
    metrics = statistics.metrics_of(found["event"])
    assert metrics["accuracy"] == pytest.approx(accuracy, abs=1e-12)


def test_each_outcome_is_evaluated_over_those_of_whom_it_is_known() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    outcomes = builders.outcomes_of(study, 40, unknown=0.3)
    predictions = builders.predictions_of(study, 40)
    whole = evaluate(predictions, outcomes, study)
    assert list(whole) == ["event", "stay", "death"]
    numbers = {name: sums.num_patients for name, sums in whole.items()}
    assert numbers == {name: arrays["known_B"].sum() for name, arrays in outcomes.items()}
    assert 0 < numbers["event"] < 40
    # Whatever is predicted where the outcome is not known.
    spoilt = {
        name: np.where(outcomes[name]["known_B"][:, None], values, 0.5)
        for name, values in predictions.items()
    }
    assert to_flat(evaluate(spoilt, outcomes, study)) == to_flat(whole)


def test_absent_granularities_cannot_influence_a_prediction(tiny_study, everyone) -> None:
    absent = {k: dict(g) for k, g in everyone.inputs.items()}
    absent["lifestyle"]["present_B"] = torch.zeros(60, dtype=torch.bool)
    other = {k: dict(g) for k, g in absent.items()}
    other["lifestyle"]["numeric_BF"] = absent["lifestyle"]["numeric_BF"] + 1e6
    other["lifestyle"]["codes_BK"] = torch.zeros_like(absent["lifestyle"]["codes_BK"])
    model = PatientModel(tiny_study)
    one, two = (
        predict(model, replace(everyone, inputs=inputs))["event"] for inputs in (absent, other)
    )
    assert one.tobytes() == two.tobytes()
