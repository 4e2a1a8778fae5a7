"""What one patient can do to a clipped sum: neighbouring cohorts, nonsense, many records.

Letters of shapes: B patients, P trainable parameters.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client import dp_training
from client.physical_batch import PhysicalBatch
from client.training import Patients
from common.models.patient_model import PatientModel
from common.privacy.plan import PrivacyPlan
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, labels_of, patients_of, study_of
from tests.unit.private_builders import CPU, plan_with, privately_trained, values_of


def sum_of(study: Study, patients: Patients, plan: PrivacyPlan) -> NDArray[np.float64]:
    """The clipped sum, as a step takes it: of everybody, in physical batches of seven."""
    model = PatientModel(study)
    model.train()
    everybody_B = np.arange(len(patients))
    physical = PhysicalBatch(7, CPU)
    return dp_training._clipped_sum(model, patients, everybody_B, plan, physical)


def joined(one: Patients, other: Patients) -> Patients:
    """All patients of two cohorts, in their order."""

    def both(a: Any, b: Any) -> Any:
        return {
            n: {k: torch.cat([v, b[n][k]]) for k, v in arrays.items()} for n, arrays in a.items()
        }

    return replace(
        one,
        inputs=both(one.inputs, other.inputs),
        outcomes=both(one.outcomes, other.outcomes),
        num_patients=len(one) + len(other),
    )


def extreme(study: Study, seed: int, number: float) -> Patients:
    """One patient of whom everything is observed, all numbers `number`."""
    patient = patients_of(study, 1, seed)
    inputs = {
        name: {
            key: torch.ones_like(value)
            if key.startswith(("present", "observed"))
            else torch.full_like(value, number)
            if value.is_floating_point()
            else value
            for key, value in arrays.items()
        }
        for name, arrays in patient.inputs.items()
    }
    return replace(patient, inputs=inputs)


numbers = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, 1e38, -1e38, 3.4e38, 0.0]),
    st.floats(-1e6, 1e6),
)


@pytest.mark.threat("S0-1", "S1-2", "R-1")
@given(
    num_patients=st.integers(0, 12),
    seed=st.integers(0, 2**31),
    number=numbers,
    max_grad_norm=st.floats(1e-3, 1e3),
)
def test_adding_one_patient_moves_the_clipped_sum_by_max_grad_norm_at_most(
    num_patients: int, seed: int, number: float, max_grad_norm: float
) -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    plan = plan_with(max_grad_norm=max_grad_norm)
    cohort = patients_of(study, num_patients, seed)
    neighbour = joined(cohort, extreme(study, seed + 1, number))
    moved = sum_of(study, neighbour, plan) - sum_of(study, cohort, plan)
    # Sums of a dozen in float32.
    assert np.linalg.norm(moved) <= max_grad_norm * (1 + 1e-5)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_patient_of_nonsense_leaves_the_update_finite(number: float, optimizer: str) -> None:
    study = study_of(training={"optimizer": optimizer})
    cohort = patients_of(study, 20)
    plan = plan_with(sample_rate=1.0, steps_per_round=10)
    model = privately_trained(study, joined(cohort, extreme(study, 3, number)), plan)
    assert np.isfinite(values_of(model)).all()
    # Of those whose gradient is not finite, nothing comes in; the others are as they were.
    moved = sum_of(study, joined(cohort, extreme(study, 3, number)), plan)
    moved -= sum_of(study, cohort, plan)
    assert math.isfinite(number) or np.abs(moved).max() == 0.0


RECORDS = {
    "scans": {
        "kind": "images",
        "size": [8, 8],
        "max_images": 8,
        "channels": [4],
        "augment": {"flip": 0.5, "shift": 0.2, "contrast": 0.3, "noise": 0.1},
    },
    "letters": {"kind": "notes", "num_buckets": 20, "max_tokens": 64, "hidden": 4},
}


def with_records(num_images: int, num_notes: int) -> tuple[Study, Patients]:
    """One patient with as many equal images, and as many equal notes of eight words."""
    table = study_of().model_dump(mode="json", exclude_none=True)
    study = Study.model_validate({**table, "granularities": RECORDS})
    generator = torch.Generator().manual_seed(1)
    image_HW = torch.randint(0, 256, (8, 8), generator=generator, dtype=torch.uint8)
    words_T = torch.randint(2, 22, (8,), generator=generator)
    observed_BN = (torch.arange(8) < num_images).unsqueeze(0)
    tokens_BT = torch.zeros(1, 64, dtype=torch.int64)
    tokens_BT[0, : 8 * num_notes] = words_T.repeat(num_notes)
    yes_B = torch.ones(1, dtype=torch.bool)
    images_BNHW = image_HW * observed_BN[:, :, None, None]
    inputs = {
        "scans": {"present_B": yes_B, "images_BNHW": images_BNHW, "observed_BN": observed_BN},
        "letters": {"present_B": yes_B, "tokens_BT": tokens_BT},
    }
    patients = Patients(inputs=inputs, outcomes=labels_of(study, 1), device=CPU, num_patients=1)
    return study, patients


@pytest.mark.parametrize(("num_images", "num_notes"), [(1, 1), (2, 1), (8, 1), (1, 8), (8, 8)])
def test_more_records_of_a_patient_and_augmentation_leave_the_sensitivity(
    num_images: int, num_notes: int
) -> None:
    study, patient = with_records(num_images, num_notes)
    for max_grad_norm in (1e-3, 1e-2):
        plan = plan_with(max_grad_norm=max_grad_norm)
        for seed in range(4):
            torch.manual_seed(seed)
            norm = np.linalg.norm(sum_of(study, patient, plan))
            # The bound is reached: the gradient is longer, and one patient is clipped once.
            assert norm == pytest.approx(max_grad_norm, rel=1e-5)


def test_a_patient_of_whom_no_outcome_is_known_adds_nothing() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    patients = replace(patients_of(study, 10), outcomes=labels_of(study, 10, unknown=1.0))
    assert np.abs(sum_of(study, patients, plan_with())).max() == 0.0


def test_adding_one_patient_changes_the_draws_of_others_which_nobody_must_know() -> None:
    # Why the draws are secret: known ones let one patient move a sum by more than one gradient.
    study = study_of(model={"dropout": 0.5})
    plan = plan_with(max_grad_norm=1e-3)
    sums = []
    for cohort in (
        patients_of(study, 40),
        joined(patients_of(study, 1, 5), patients_of(study, 40)),
    ):
        model = PatientModel(study)
        model.train()
        torch.manual_seed(0)
        whole = PhysicalBatch(256, CPU)
        sums.append(dp_training._clipped_sum(model, cohort, np.arange(len(cohort)), plan, whole))
    assert np.linalg.norm(sums[1] - sums[0]) > 2 * plan.max_grad_norm
