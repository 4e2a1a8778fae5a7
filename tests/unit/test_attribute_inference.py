"""Attribute inference on predictions worked by hand, and what its guesses may depend on."""

import numpy as np
import pytest
import torch

from client.training import Patients
from common.errors import StudyError
from common.models.patient_model import PatientModel
from common.study import Study
from common.study_file import load_study, without_granularity
from simulations.attacks.attribute_inference import (
    Attribute,
    Told,
    attribute_of,
    hits_of,
    infer,
    interval_of_mean,
    median_of,
    values_of,
)
from tests.unit.builders import patients_of


@pytest.fixture(scope="module")
def study() -> Study:
    demo = load_study("demo")
    for name in ("imaging", "genomics", "vitals", "notes"):
        demo = without_granularity(demo, name)
    return demo


def test_the_attribute_is_a_category_of_the_last_table(study: Study) -> None:
    expected = Attribute(granularity="lifestyle", feature="smoker", is_categorical=True)
    assert attribute_of(study) == expected


def test_a_study_of_one_granularity_has_nothing_to_withhold(study: Study) -> None:
    assert attribute_of(without_granularity(study, "labs")) is None
    with pytest.raises(StudyError):
        without_granularity(without_granularity(study, "labs"), "lifestyle")


def guesses(study: Study, attacked: Patients, told: Told) -> np.ndarray:
    attribute = attribute_of(study)
    assert attribute is not None
    known = patients_of(study, 60, seed=5)
    values = values_of(known, attribute, study, median=median_of(known, attribute, study))
    model = PatientModel(study)
    return infer(model, attacked, known, values, attribute, told=told)


def with_other_lifestyle(patients: Patients) -> Patients:
    other = {k: v.flip(0) for k, v in patients.inputs["lifestyle"].items()}
    return Patients(
        inputs={**patients.inputs, "lifestyle": other},
        outcomes=patients.outcomes,
        device=patients.device,
        num_patients=patients.num_patients,
    )


def test_the_withheld_granularity_enters_by_what_is_told_alone(study: Study) -> None:
    attacked = patients_of(study, 20, seed=6)
    changed = with_other_lifestyle(attacked)
    assert not torch.equal(
        attacked.inputs["lifestyle"]["codes_BK"], changed.inputs["lifestyle"]["codes_BK"]
    )
    assert (guesses(study, attacked, "outcomes") == guesses(study, changed, "outcomes")).all()
    told = guesses(study, attacked, "predictions"), guesses(study, changed, "predictions")
    assert (told[0] != told[1]).any()


def test_exact_predictions_find_a_record_that_the_attacker_has(study: Study) -> None:
    # Each attacked patient is one of the attacker's own: nobody's predictions come nearer.
    attribute = attribute_of(study)
    assert attribute is not None
    known = patients_of(study, 60, seed=5)
    values = values_of(known, attribute, study, median=0.0)
    guessed = infer(PatientModel(study), known, known, values, attribute, told="predictions")
    hits, usual = hits_of(guessed, values, values)
    assert hits.mean() > usual.mean() + 0.2


def test_hits_are_counted_of_patients_whose_attribute_is_known() -> None:
    truth = np.array([0, 1, -1, 2])
    guessed = np.array([0, 2, 0, 2])
    known_values = np.array([1, 1, 0, -1])
    hits, usual = hits_of(guessed, truth, known_values)
    assert hits.tolist() == [1.0, 0.0, 1.0]
    assert usual.tolist() == [0.0, 1.0, 0.0]  # the attacker's most frequent value is 1


def test_a_number_is_asked_whether_it_is_above_the_median(study: Study) -> None:
    attribute = Attribute(granularity="labs", feature="age_years", is_categorical=False)
    patients = patients_of(study, 41, seed=2)
    median = median_of(patients, attribute, study)
    values = values_of(patients, attribute, study, median=median)
    known = values[values >= 0]
    assert set(values) <= {-1, 0, 1}
    assert abs(known.mean() - 0.5) < 0.1


def test_the_interval_of_a_mean_holds_it_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        # Models differ by chance, and so do the patients of each.
        models = random.normal(size=5)
        low, high = interval_of_mean([random.normal(m, 0.3, size=60).tolist() for m in models])
        inside += low <= 0.0 <= high
    # Binomial(400, .95): mean 380, sd 4.4; by patients alone it would be about 40 in 400.
    assert 363 <= inside <= 397


def test_the_interval_of_one_seed_is_over_its_patients() -> None:
    low, high = interval_of_mean([[0.0, 1.0, 0.0, 1.0]])
    assert (low + high) / 2 == pytest.approx(0.5)
    # t(3) at .975 is 3.182; the standard error is .5774 / 2.
    assert high - low == pytest.approx(2 * 3.1824 * 0.57735 / 2, rel=1e-3)
