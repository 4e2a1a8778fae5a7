"""Contributions of granularities: Shapley's axioms, and one example by hand."""

from itertools import permutations

import numpy as np
import pytest
import torch

from client.contributions import _shapley, contributions
from client.evaluation import predict, with_intercepts
from client.training import Patients
from common.models.patient_model import PatientModel
from common.study import Study
from common.subsets import subsets_of
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, patients_of, study_of


@pytest.fixture(params=["attention", "gated_sum", "concat", "graph"])
def study(request: pytest.FixtureRequest) -> Study:
    return study_of(model={"fusion": request.param}, outcomes=MORE_OUTCOMES)


def _model(study: Study) -> PatientModel:
    model = PatientModel(study)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    return model


def test_they_add_up_to_the_score_of_the_patient(study: Study) -> None:
    model, patients = _model(study), patients_of(study, 9)
    predicted = predict(model, patients)
    added = {
        name: parts.nothing_B + parts.granularities_BG.sum(axis=1)
        for name, parts in contributions(model, patients, study).items()
    }
    p = predicted["event"][:, 1]
    assert added["event"] == pytest.approx(np.log(p) - np.log1p(-p))
    assert added["stay"] == pytest.approx(predicted["stay"][:, 0])
    assert added["death"] == pytest.approx(1 - predicted["death"].mean(axis=1))


def test_an_absent_granularity_contributes_exactly_nothing(study: Study) -> None:
    patients = patients_of(study, 9)
    absent = patients.inputs["vitals"] | {"present_B": torch.zeros(9, dtype=torch.bool)}
    inputs = {**patients.inputs, "vitals": absent}
    lacking = Patients(
        inputs=inputs, outcomes=patients.outcomes, device=patients.device, num_patients=9
    )
    place = list(study.granularities).index("vitals")
    for parts in contributions(_model(study), lacking, study).values():
        assert (parts.granularities_BG[:, place] == 0).all()
        assert (parts.granularities_BG[:, 0] != 0).any()
        assert (parts.site_B == 0).all()


def test_of_several_classes_it_is_the_predicted_one() -> None:
    study = study_of(outcomes=MULTICLASS)
    model, patients = _model(study), patients_of(study, 9)
    p_BC = predict(model, patients)["event"]
    top = p_BC.max(axis=1)
    parts = contributions(model, patients, study)["event"]
    found = parts.nothing_B + parts.granularities_BG.sum(axis=1)
    assert found == pytest.approx(np.log(top) - np.log1p(-top))


def test_the_intercept_of_the_site_is_its_own_part_and_all_parts_add_up(study: Study) -> None:
    model, patients = _model(study), patients_of(study, 9)
    intercepts = {"event": np.array([0.0, 1.25])}
    plain = contributions(model, patients, study)
    found = contributions(model, patients, study, intercepts)
    p = with_intercepts(predict(model, patients), intercepts)["event"][:, 1]
    total = found["event"].nothing_B + found["event"].granularities_BG.sum(axis=1)
    assert total + found["event"].site_B == pytest.approx(np.log(p) - np.log1p(-p))
    # Of two classes the log odds move by the intercept, and nothing else does.
    assert found["event"].site_B == pytest.approx(np.full(9, 1.25))
    for name, parts in plain.items():
        assert found[name].granularities_BG == pytest.approx(parts.granularities_BG)
    assert (found["stay"].site_B == 0).all()
    assert (found["death"].site_B == 0).all()


def test_of_several_classes_the_intercept_decides_which_is_the_predicted_one() -> None:
    study = study_of(outcomes=MULTICLASS)
    model, patients = _model(study), patients_of(study, 40)
    plain_BC = predict(model, patients)["event"]
    intercepts = {"event": np.array([0.0, 0.4, -0.4])}
    moved_BC = with_intercepts({"event": plain_BC}, intercepts)["event"]
    assert (plain_BC.argmax(axis=1) != moved_BC.argmax(axis=1)).any()
    top = moved_BC.max(axis=1)
    parts = contributions(model, patients, study, intercepts)["event"]
    total = parts.nothing_B + parts.granularities_BG.sum(axis=1) + parts.site_B
    assert total == pytest.approx(np.log(top) - np.log1p(-top))


def test_two_granularities_by_hand() -> None:
    # Alone they add 1 and 2; together 5, so that each gets half of the 2 that neither brings alone.
    subsets = [(), (0,), (1,), (0, 1)]
    value_BG = _shapley(np.array([[10.0], [11.0], [12.0], [15.0]]), subsets, 2)
    assert value_BG.tolist() == [[2.0, 3.0]]


def test_it_is_the_mean_over_all_orders_of_joining() -> None:
    subsets = subsets_of(range(4))
    score_SB = np.random.default_rng(0).normal(size=(len(subsets), 3))
    score_of = {frozenset(s): score_SB[i] for i, s in enumerate(subsets)}
    expected_BG = np.zeros((3, 4))
    orders = list(permutations(range(4)))
    for order in orders:
        for i, g in enumerate(order):
            before = frozenset(order[:i])
            expected_BG[:, g] += (score_of[before | {g}] - score_of[before]) / len(orders)
    assert _shapley(score_SB, subsets, 4) == pytest.approx(expected_BG)
