"""Class balancing: how often each patient is met in local training."""

from collections import Counter

import numpy as np
import pytest
import torch

from client.training import Patients, _balancing, train
from common.models.patient_model import PatientModel, parameters_of
from common.study import Study

BINARY = {"kind": "binary", "column": "event", "classes": ["no", "yes"]}
STAGE = {"kind": "multiclass", "column": "stage", "classes": ["a", "b", "c"]}
DAYS = {"kind": "regression", "column": "days", "unit": "days", "range": [0, 60]}


def study_of(outcomes: dict[str, object], **training: object) -> Study:
    number = {"kind": "numeric", "unit": "years", "range": [0, 100]}
    return Study.model_validate(
        {
            "study": {"name": "small"},
            "outcomes": outcomes,
            "granularities": {
                "labs": {"kind": "tabular", "hidden": [], "features": {"age_years": number}}
            },
            "model": {"width": 2, "fusion": "concat"},
            "training": {"rounds": 1, "local_epochs": 1, "batch_size": 16, **training},
        }
    )


class Met(Patients):
    """Patients who count how often each was in a batch."""

    def batch(
        self, index_B: torch.Tensor
    ) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, dict[str, torch.Tensor]]]:
        self.inputs["labs"]["met_N"].index_add_(0, index_B, torch.ones(len(index_B)))
        return super().batch(index_B)


def patients_of(label_B: list[int], outcome: str = "event") -> Met:
    num_patients = len(label_B)
    labels = torch.tensor(label_B)
    outcomes: dict[str, dict[str, torch.Tensor]] = {
        outcome: {"known_B": labels >= 0, "label_B": labels},
        "days": {"known_B": labels >= 0, "value_B": torch.ones(num_patients)},
    }
    labs = {
        "present_B": torch.ones(num_patients, dtype=torch.bool),
        "numeric_BF": torch.arange(num_patients, dtype=torch.float32).unsqueeze(1) % 100,
        "observed_BF": torch.ones(num_patients, 1, dtype=torch.bool),
        "codes_BK": torch.zeros(num_patients, 0, dtype=torch.long),
        "met_N": torch.zeros(num_patients),
    }
    return Met(
        inputs={"labs": labs},
        outcomes=outcomes,
        device=torch.device("cpu"),
        num_patients=num_patients,
    )


def met(label_B: list[int], study: Study, *, seed: int = 0) -> np.ndarray:
    """How often each patient was met in one round."""
    patients = patients_of(label_B, next(iter(study.outcomes)))
    train(PatientModel(study), patients, study, seed=seed)
    return patients.inputs["labs"]["met_N"].numpy()


@pytest.mark.parametrize(
    ("outcome", "label_B"),
    [
        ({"event": BINARY}, [0] * 180 + [1] * 20),
        ({"stage": STAGE, "days": DAYS}, [0] * 140 + [1] * 50 + [2] * 10),
        # Patients whose class is unknown are a class of their own: other outcomes are learned.
    ],
    ids=["two classes", "three classes"],
)
def test_balanced_training_meets_each_class_equally_often(
    outcome: dict[str, object], label_B: list[int]
) -> None:
    met_N = met(label_B, study_of(outcome, balance="resample", local_epochs=20))
    num_met = {c: met_N[np.array(label_B) == c].sum() for c in Counter(label_B)}
    num_draws, share = met_N.sum(), 1 / len(num_met)
    assert num_draws == 20 * 200
    # Five standard deviations of a binomial: a law that fails once in a million seeds; the
    # frequencies without balance are 30 of them away.
    allowed = 5 * (num_draws * share * (1 - share)) ** 0.5
    for count in num_met.values():
        assert abs(count - num_draws * share) < allowed
    unbalanced = max(Counter(label_B).values()) / 200 * num_draws
    assert abs(unbalanced - num_draws * share) > 3 * allowed


def test_within_a_class_balanced_training_meets_patients_equally_often() -> None:
    label_B = [0] * 150 + [1] * 50
    met_N = met(label_B, study_of({"event": BINARY}, balance="resample", local_epochs=40))
    for label, num_patients in ((0, 150), (1, 50)):
        expected = 40 * 200 / 2 / num_patients
        deviation = (met_N[np.array(label_B) == label] - expected) / expected**0.5
        # Of a Poisson count: as far from the mean as its own standard deviation says.
        assert abs(deviation).max() < 5
        assert 0.7 < deviation.std() < 1.3


@pytest.mark.parametrize("num_patients", [15, 16, 17, 100])
def test_without_balance_every_patient_is_met_once_an_epoch(num_patients: int) -> None:
    label_B = [0] * (num_patients - 3) + [1] * 3
    met_N = met(label_B, study_of({"event": BINARY}, local_epochs=3))
    assert met_N.tolist() == [3.0] * num_patients


def test_balance_takes_as_many_steps_and_patients_as_without() -> None:
    label_B = [0] * 90 + [1] * 11
    study = study_of({"event": BINARY}, balance="resample", local_epochs=2)
    patients = patients_of(label_B)
    assert train(PatientModel(study), patients, study, seed=0) == 2 * 7
    assert patients.inputs["labs"]["met_N"].sum() == 2 * 101


def test_the_draws_depend_on_the_seed_alone() -> None:
    study = study_of({"event": BINARY}, balance="resample")
    label_B = [0] * 90 + [1] * 10
    one, again, other = (met(label_B, study, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_balanced_training_is_the_same_bit_for_bit_whatever_torchs_random_state() -> None:
    study = study_of({"event": BINARY}, balance="resample")
    trained = []
    for state in (0, 1):
        torch.manual_seed(state)
        model = PatientModel(study)
        train(model, patients_of([0] * 40 + [1] * 8), study, seed=3)
        trained.append(parameters_of(model).flat.tobytes())
    assert trained[0] == trained[1]


def test_one_class_alone_is_drawn_evenly() -> None:
    met_N = met([1] * 50, study_of({"event": BINARY}, balance="resample", local_epochs=10))
    assert met_N.sum() == 500
    assert met_N.max() < 30


def test_balancing_needs_classes_as_the_first_outcome() -> None:
    with pytest.raises(ValueError, match="expected classes as the first outcome"):
        study_of({"days": DAYS, "event": BINARY}, balance="resample")


def test_patients_of_unknown_class_are_met_as_often_as_without_balance() -> None:
    # Of 200 patients 100 are of unknown class (-1), 80 and 20 of the others, who share the rest.
    label_B = [-1] * 100 + [0] * 80 + [1] * 20
    chance_B = _balancing(patients_of(label_B), study_of({"event": BINARY}, balance="resample"))
    label_B = torch.tensor(label_B)
    shares = [float(chance_B[label_B == c].sum() / chance_B.sum()) for c in (-1, 0, 1)]
    assert shares == pytest.approx([0.5, 0.25, 0.25])


def test_where_no_class_is_known_all_are_met_alike() -> None:
    study = study_of({"event": BINARY}, balance="resample")
    assert _balancing(patients_of([-1] * 5), study).tolist() == [1.0] * 5
