"""Is the noise of a private step what the plan says? Samples of real steps, and wrong noises too.

Every sample here is what a step of `train_privately` did to a parameter, over what the noise should
be: learning_rate * noise_multiplier * max_grad_norm / expected_batch_size.

Letters of shapes: P trainable parameters, S samples.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import kstest

from client.dp_training import train_privately
from client.training import Patients
from common.models.patient_model import PatientModel
from common.privacy.mechanisms import NoiseSource
from common.privacy.plan import PrivacyPlan
from common.study import Study
from tests.unit.builders import labels_of, patients_of, study_of
from tests.unit.private_builders import plan_with, values_of

LEARNING_RATE = 0.25
# At most this far from the closed form; seven standard errors of a million samples.
TOLERANCE = 0.005
STEP = {"noise_multiplier": 1.3, "max_grad_norm": 0.7, "expected_batch_size": 5.0}


def study_with(width: int, **sections: Any) -> Study:
    """The small study with a hidden layer of `width`, and plain SGD."""
    table = study_of().model_dump(mode="json", exclude_none=True)
    table["granularities"]["labs"]["hidden"] = [width, width]
    table["training"]["learning_rate"] = LEARNING_RATE
    return Study.model_validate({**table, **sections})


def blank(study: Study) -> PatientModel:
    """A model of zeros, so that what a step does to it is not rounded."""
    model = PatientModel(study)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def samples_of(
    study: Study, patients: Patients, plan: PrivacyPlan, *, claimed: PrivacyPlan, seed: int = 1
) -> NDArray[np.float64]:
    """What each parameter has moved, in units of what one step of `claimed` should do, (P,)."""
    model = blank(study)
    source = NoiseSource.seeded(seed)
    train_privately(model, patients, study, plan, source=source, seed=1)
    scale = claimed.noise_multiplier * claimed.max_grad_norm / claimed.expected_batch_size
    return values_of(model) / (LEARNING_RATE * scale)


def is_standard_normal(samples_S: NDArray[np.float64]) -> bool:
    """Kolmogorov's and Smirnov's test, at a level of one in a thousand."""
    return bool(kstest(samples_S, "norm").pvalue > 1e-3)


@pytest.fixture(scope="module")
def million() -> NDArray[np.float64]:
    study = study_with(1000)
    plan = plan_with(**STEP, steps_per_round=1)
    samples_S = samples_of(study, patients_of(study, 0), plan, claimed=plan)
    assert len(samples_S) > 1_000_000
    return samples_S


def test_a_million_samples_have_the_standard_deviation_of_the_closed_form(million) -> None:
    assert abs(million.std() - 1) < TOLERANCE
    assert abs(million.mean()) < TOLERANCE
    # The fourth moment of a normal is 3; its standard error here is .01.
    assert abs((million**4).mean() - 3) < 0.05


@pytest.mark.threat("S0-1", "R-1")
def test_the_noise_is_normal_and_a_twentieth_less_or_more_is_not(million) -> None:
    assert is_standard_normal(million)
    assert not is_standard_normal(million / 0.95)
    assert not is_standard_normal(million / 1.05)


@pytest.mark.threat("S0-1", "R-1")
@pytest.mark.parametrize("factor", [0.95, 1.05, 2 / 3, 3 / 2])
def test_a_step_with_another_noise_than_claimed_is_found(factor: float) -> None:
    study = study_with(300)
    claimed = plan_with(**STEP, steps_per_round=1)
    wrong = replace(claimed, noise_multiplier=factor * claimed.noise_multiplier)
    nobody = patients_of(study, 0)
    assert is_standard_normal(samples_of(study, nobody, claimed, claimed=claimed))
    samples_S = samples_of(study, nobody, wrong, claimed=claimed)
    assert not is_standard_normal(samples_S)
    assert abs(samples_S.std() - 1) > TOLERANCE


# Each changes one of the three numbers that the noise is made of; the divisor is the expected
# batch size, whatever the batch size of the study or the number of patients.
@pytest.mark.parametrize(
    "fields",
    [{"noise_multiplier": 8.0}, {"max_grad_norm": 30.0}, {"expected_batch_size": 64.0}],
    ids=str,
)
def test_the_noise_follows_every_part_of_its_closed_form(fields: dict[str, float]) -> None:
    study = study_with(300)
    plan = plan_with(**{**STEP, **fields}, steps_per_round=1)
    samples_S = samples_of(study, patients_of(study, 0), plan, claimed=plan)
    # 91000 samples: standard error .0023.
    assert abs(samples_S.std() - 1) < 0.01
    assert is_standard_normal(samples_S)


@pytest.mark.parametrize("num_patients", [0, 40])
def test_the_noise_of_many_steps_adds_up_in_squares(num_patients: int) -> None:
    # Of the patients no outcome is known, so that all gradients are zero.
    study = study_with(100)
    plan = plan_with(**STEP, steps_per_round=16)
    patients = patients_of(study, num_patients)
    patients = replace(patients, outcomes=labels_of(study, num_patients, unknown=1.0))
    samples_S = samples_of(study, patients, plan, claimed=plan) / 4
    # 10000 samples: standard error .007.
    assert abs(samples_S.std() - 1) < 0.025
    assert is_standard_normal(samples_S)


def test_every_block_of_parameters_has_the_same_noise() -> None:
    study = study_with(100, personal={"local_blocks": ["heads.*", "fusion.*"]})
    plan = plan_with(**STEP, steps_per_round=1)
    draws = [
        samples_of(study, patients_of(study, 0), plan, claimed=plan, seed=seed)
        for seed in range(400)
    ]
    drawn_SP = np.stack(draws)
    start = 0
    for name, parameter in blank(study).named_parameters():
        block_S = drawn_SP[:, start : start + parameter.numel()].ravel()[:40_000]
        start += parameter.numel()
        # 400 samples at least: a standard error of a twenty-eighth.
        assert abs(block_S.std() - 1) < 4.5 / np.sqrt(2 * len(block_S)), name
        assert is_standard_normal(block_S), name
    assert start == drawn_SP.shape[1]


def test_noises_of_neighbouring_parameters_and_steps_have_nothing_to_do_with_each_other(
    million,
) -> None:
    def correlation(one_S: NDArray[np.float64], other_S: NDArray[np.float64]) -> float:
        return abs(float(np.corrcoef(one_S, other_S)[0, 1])) * np.sqrt(len(one_S))

    # Box and Muller make normals in pairs, half a piece of 2^14 apart.
    for lag in (1, 2, 1 << 13, 1 << 14):
        assert correlation(million[:-lag], million[lag:]) < 4
        assert correlation(million[:-lag] ** 2, million[lag:] ** 2) < 4
    study = study_with(300)
    one, two = (plan_with(**STEP, steps_per_round=steps) for steps in (1, 2))
    nobody = patients_of(study, 0)
    first_S = samples_of(study, nobody, one, claimed=one)
    second_S = samples_of(study, nobody, two, claimed=one) - first_S
    assert is_standard_normal(second_S)
    assert correlation(first_S, second_S) < 4
    # As it would be with the noise of the first step once more.
    assert correlation(first_S, 2 * first_S - first_S) > 100
