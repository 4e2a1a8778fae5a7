"""Samples, noise and dropout of private training: secret, never from a seed, each drawn once."""

from itertools import chain

import numpy as np
import torch

from client.dp_training import train_privately
from common.models.patient_model import PatientModel, state_of
from common.privacy.mechanisms import NoiseSource, poisson_sample
from tests.unit.builders import patients_of, study_of
from tests.unit.private_builders import plan_with, privately_trained, values_of, watched


def test_a_step_looks_at_the_patients_of_its_poisson_sample_and_at_no_other() -> None:
    study, plan = study_of(training={"batch_size": 5}), plan_with(sample_rate=0.3)
    patients = watched(patients_of(study, 40))
    model = privately_trained(study, patients, plan)
    source = NoiseSource.seeded(1)
    for seen in patients.seen:
        assert seen == poisson_sample(source, 40, 0.3).tolist()
        source.uniform(2)
        source.normal(len(values_of(model)))
    assert len(patients.seen) == 3


def test_equal_sources_and_seeds_give_equal_parameters_bit_for_bit() -> None:
    study = study_of(model={"dropout": 0.3, "granularity_dropout": 0.3})
    patients = patients_of(study, 40)
    first = state_of(privately_trained(study, patients, plan_with()))
    torch.rand(7)
    assert state_of(privately_trained(study, patients, plan_with())) == first
    assert state_of(privately_trained(study, patients, plan_with(), seed=2)) != first
    assert state_of(privately_trained(study, patients, plan_with(), noise=2)) != first


def test_samples_and_noise_do_not_come_from_the_seed() -> None:
    # Without dropout there is nothing left that a seed could change.
    study = study_of()
    patients = patients_of(study, 40)
    states = [
        state_of(privately_trained(study, patients, plan_with(), seed=seed)) for seed in (1, 2)
    ]
    assert states[0] == states[1]


def test_dropout_of_each_step_comes_from_the_source_and_the_seed_together() -> None:
    # A seed alone, which others know, would tell by whose draws a sum has changed.
    study = study_of(model={"dropout": 0.5})
    given: dict[tuple[int, int], list[int]] = {}
    for noise, seed in ((1, 1), (2, 1), (1, 2)):
        seeds = given.setdefault((noise, seed), [])
        patients = watched(
            patients_of(study, 40), lambda seeds=seeds: seeds.append(torch.initial_seed())
        )
        privately_trained(study, patients, plan_with(sample_rate=1.0), noise=noise, seed=seed)
    assert [len(seeds) for seeds in given.values()] == [3, 3, 3]
    assert len(set(chain(*given.values()))) == 9


def test_seeding_torch_twice_does_not_repeat_the_noise() -> None:
    study = study_of()
    patients = watched(patients_of(study, 40))
    values = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        model = PatientModel(study)
        source = NoiseSource.secure()
        train_privately(model, patients, study, plan_with(), source=source, seed=1)
        values.append(values_of(model))
    # Each parameter moves by noise of .0022 in float32: a coincidence is rare, and all are not.
    assert (values[0] == values[1]).mean() < 0.05
    assert patients.seen[:3] != patients.seen[3:]


def test_torchs_global_random_state_is_left_as_it_was() -> None:
    study = study_of(model={"dropout": 0.5, "granularity_dropout": 0.5})
    torch.manual_seed(99)
    before = torch.get_rng_state()
    privately_trained(study, patients_of(study, 40), plan_with())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_noise_of_a_step_is_that_of_the_plan_whatever_the_cohort() -> None:
    # The plan's expected batch size and rate, not those of the patients that happen to be there.
    study = study_of(training={"learning_rate": 1.0, "batch_size": 3})
    plan = plan_with(sample_rate=1e-12, expected_batch_size=5.0, steps_per_round=1)
    moves = []
    for num_patients in (0, 7, 33):
        source = NoiseSource.seeded(1)
        source.uniform(40 - num_patients)
        model = PatientModel(study)
        before_P = values_of(model)
        patients = patients_of(study, num_patients)
        train_privately(model, patients, study, plan, source=source, seed=1)
        moves.append(values_of(model) - before_P)
    assert np.array_equal(moves[0], moves[1])
    assert np.array_equal(moves[0], moves[2])
