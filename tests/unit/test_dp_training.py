"""Private training against one-by-one loops as oracle, worked by hand, and every step with noise.

Letters of shapes: B patients, P trainable parameters.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from client.dp_training import train_privately
from client.training import Patients, Pull
from common.models.patient_model import PatientModel, state_of
from common.privacy.mechanisms import NoiseSource, poisson_sample
from common.privacy.plan import PrivacyPlan
from common.study import Study
from common.study_file import study_from_toml
from tests.unit.builders import MORE_OUTCOMES, patients_of, study_of
from tests.unit.private_builders import (
    CPU,
    clipped_one_by_one,
    difference,
    in_float64,
    plan_with,
    privately_trained,
    values_of,
    watched,
)


def torchs_optimizer(model: PatientModel, study: Study) -> torch.optim.Optimizer:
    plan = study.training
    groups = [
        {"params": [p], "weight_decay": 0.0 if name in model.undecayed else plan.weight_decay}
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=plan.momentum)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=plan.learning_rate)


def trained_one_by_one(
    study: Study, patients: Patients, plan: PrivacyPlan, pull: Pull | None, noise: int
) -> PatientModel:
    """DP-SGD again: a loop over patients, torch's own optimizer, noise from the same stream."""
    model = PatientModel(study).double()
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torchs_optimizer(model, study)
    if pull is None and study.strategy.name == "fedprox":
        origin = [p.detach().clone() for p in parameters]
        pull = Pull(origin=origin, strength=study.strategy.proximal_mu)
    source = NoiseSource.seeded(noise)
    for _ in range(plan.steps_per_round):
        index_B = poisson_sample(source, len(patients), plan.sample_rate)
        source.uniform(2)  # the secret of dropout
        sum_P = clipped_one_by_one(model, patients, index_B, plan.max_grad_norm).sum(axis=0)
        sum_P += plan.noise_multiplier * plan.max_grad_norm * source.normal(len(sum_P))
        flat_P = torch.from_numpy(sum_P / plan.expected_batch_size)
        for place, (parameter, piece) in enumerate(
            zip(parameters, flat_P.split([p.numel() for p in parameters]), strict=True)
        ):
            parameter.grad = piece.view_as(parameter).clone()
            if pull is not None:
                parameter.grad += pull.strength * (parameter.detach() - pull.origin[place])
        optimizer.step()
    return model


SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "everybody": {"plan": {"sample_rate": 1.0, "expected_batch_size": 40.0}},
    "momentum and decay": {"training": {"momentum": 0.9, "weight_decay": 0.1}},
    "fedprox": {"strategy": {"name": "fedprox", "proximal_mu": 0.7}},
    "frozen": {"model": {"frozen": ["labs"]}},
    "more outcomes": {"outcomes": MORE_OUTCOMES},
    "nothing clipped": {"plan": {"max_grad_norm": 1e6, "noise_multiplier": 1e-16}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_without_much_noise_the_update_is_that_of_a_loop_over_patients(name: str) -> None:
    sections = dict(SETTINGS[name])
    fields = {"noise_multiplier": 1e-10, **sections.pop("plan", {})}
    training = {"learning_rate": 0.1, **sections.pop("training", {})}
    study, plan = study_of(training=training, **sections), plan_with(**fields)
    patients = in_float64(patients_of(study, 40))
    ours = PatientModel(study).double()
    train_privately(ours, patients, study, plan, source=NoiseSource.seeded(3), seed=1)
    theirs = trained_one_by_one(study, patients, plan, None, 3)
    start_P = values_of(PatientModel(study))
    update_P, expected_P = values_of(ours) - start_P, values_of(theirs) - start_P
    assert np.linalg.norm(update_P - expected_P) < 1e-9 * np.linalg.norm(expected_P)
    assert np.linalg.norm(expected_P) > 1e-4


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_with_noise_adaptive_steps_are_those_of_torch_on_the_noised_gradient(
    optimizer: str,
) -> None:
    study = study_of(training={"optimizer": optimizer, "weight_decay": 0.1})
    patients, plan = in_float64(patients_of(study, 40)), plan_with()
    ours = PatientModel(study).double()
    train_privately(ours, patients, study, plan, source=NoiseSource.seeded(3), seed=1)
    # Released noise is rounded to 2^-24 of its standard deviation.
    assert difference(ours, trained_one_by_one(study, patients, plan, None, 3)) < 1e-6


def test_a_pull_of_its_own_replaces_that_of_the_study() -> None:
    study = study_of(strategy={"name": "fedprox", "proximal_mu": 0.1})
    patients, plan = in_float64(patients_of(study, 40)), plan_with(noise_multiplier=1e-10)
    ours = PatientModel(study).double()
    origin = [torch.ones_like(p) for p in ours.parameters()]
    pull = Pull(origin=origin, strength=2.0)
    train_privately(ours, patients, study, plan, source=NoiseSource.seeded(3), seed=1, pull=pull)
    assert difference(ours, trained_one_by_one(study, patients, plan, pull, 3)) < 1e-9
    assert difference(ours, trained_one_by_one(study, patients, plan, None, 3)) > 1e-2


# With all parameters zero, each of three classes has probability 1/3, and only the biases of the
# head have gradients.
BY_HAND = """
[study]
name = "by-hand"
[outcomes.event]
column = "event"
kind = "multiclass"
classes = ["no", "yes", "never"]
[granularities.labs]
kind = "tabular"
hidden = []
[granularities.labs.features]
x = { kind = "numeric", unit = "1", range = [-1, 1] }
[model]
width = 2
fusion = "concat"
[training]
rounds = 1
local_steps = 1
batch_size = 4
learning_rate = 0.5
"""


def one_patient(label: int) -> Patients:
    yes_B = torch.ones(1, dtype=torch.bool)
    labs = {
        "numeric_BF": torch.tensor([[0.2]]),
        "observed_BF": yes_B.unsqueeze(1),
        "codes_BK": torch.zeros(1, 0, dtype=torch.int64),
        "present_B": yes_B,
    }
    event = {"known_B": yes_B, "label_B": torch.tensor([label])}
    return Patients(inputs={"labs": labs}, outcomes={"event": event}, device=CPU, num_patients=1)


def test_one_step_on_one_patient_worked_by_hand() -> None:
    study = study_from_toml(BY_HAND)
    model = PatientModel(study)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    plan = plan_with(
        noise_multiplier=1e-9,
        max_grad_norm=0.5,
        sample_rate=1.0,
        expected_batch_size=4.0,
        steps_per_round=1,
    )
    source = NoiseSource.seeded(1)
    train_privately(model, one_patient(1), study, plan, source=source, seed=1)
    # p = 1/3 for each class; gradient (1/3, -2/3, 1/3), norm sqrt(6)/3 = .8164966, so it is
    # clipped to half of (1, -2, 1)/sqrt(6) = (.2041241, -.4082483, .2041241). A step of SGD is
    # -.5 times a fourth of it: the expected batch size of 4 is the divisor, not the one patient.
    bias = model.heads["event"].linear.bias
    assert bias.tolist() == pytest.approx([-0.0255155, 0.0510310, -0.0255155], abs=1e-7)
    assert model.heads["event"].linear.weight.abs().max() < 1e-8


def noise_only(study: Study, plan: PrivacyPlan, draws: Callable[[NoiseSource], object]) -> Any:
    """What T steps of noise alone do to a model under SGD, worked out from the stream."""
    values_P = values_of(PatientModel(study))
    source = NoiseSource.seeded(1)
    for _ in range(plan.steps_per_round):
        draws(source)
        source.uniform(2)
        scale = plan.noise_multiplier * plan.max_grad_norm / plan.expected_batch_size
        values_P = values_P - study.training.learning_rate * scale * source.normal(len(values_P))
    return values_P


def test_an_empty_sample_is_a_step_of_noise_alone() -> None:
    study, plan = study_of(), plan_with(sample_rate=1e-12, steps_per_round=20)
    patients = patients_of(study, 40)
    model = privately_trained(study, patients, plan)
    expected_P = noise_only(study, plan, lambda source: source.uniform(40))
    assert np.abs(values_of(model) - expected_P).max() < 1e-6


def test_without_patients_all_steps_are_steps_of_noise_alone() -> None:
    study, plan = study_of(), plan_with(steps_per_round=20)
    nobody = patients_of(study, 0)
    model = PatientModel(study)
    source = NoiseSource.seeded(1)
    assert train_privately(model, nobody, study, plan, source=source, seed=1) == 20
    expected_P = noise_only(study, plan, lambda source: None)
    assert np.abs(values_of(model) - expected_P).max() < 1e-6


@pytest.mark.parametrize("num_patients", [0, 1, 9, 10, 40])
@pytest.mark.parametrize("rate", [1e-12, 0.05, 1.0])
def test_there_are_as_many_steps_as_the_plan_pays_for(num_patients: int, rate: float) -> None:
    # Few patients sampled with a small chance: some samples are empty, and every step counts.
    study, plan = study_of(), plan_with(sample_rate=rate, steps_per_round=7)
    model = PatientModel(study)
    source = NoiseSource.seeded(1)
    patients = patients_of(study, num_patients)
    assert train_privately(model, patients, study, plan, source=source, seed=1) == 7
    # Each step takes one uniform of every patient, two for dropout, and one normal of every
    # parameter, no more.
    twin = NoiseSource.seeded(1)
    for _ in range(7):
        twin.uniform(num_patients + 2)
        twin.normal(len(values_of(model)))
    assert np.array_equal(source.uniform(5), twin.uniform(5))


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_fewer_steps_than_the_plan_pays_for_may_be_asked(num_steps: int) -> None:
    study = study_of()
    patients = patients_of(study, 40)
    model = PatientModel(study)
    before = state_of(model)
    source = NoiseSource.seeded(1)
    taken = train_privately(
        model, patients, study, plan_with(), source=source, seed=1, num_steps=num_steps
    )
    assert taken == num_steps
    few = privately_trained(study, patients, plan_with(steps_per_round=max(num_steps, 1)))
    assert state_of(model) == (state_of(few) if num_steps else before)


def test_more_steps_than_the_plan_pays_for_are_refused() -> None:
    study = study_of()
    with pytest.raises(ValueError, match="at most the 3 steps"):
        privately_trained(study, patients_of(study, 5), plan_with(), num_steps=4)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "none"},
        {"mode": "site"},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": math.inf},
        {"expected_batch_size": 0.0},
        {"expected_batch_size": math.nan},
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
    ],
    ids=str,
)
def test_a_plan_without_noise_for_patients_is_refused_by_name(fields: dict[str, Any]) -> None:
    study = study_of()
    model = PatientModel(study)
    before = state_of(model)
    (name,) = fields
    with pytest.raises(ValueError, match=name.replace("sample_rate", "sample rate")):
        train_privately(
            model,
            patients_of(study, 0),
            study,
            plan_with(**fields),
            source=NoiseSource.seeded(1),
            seed=1,
        )
    assert state_of(model) == before


def test_balanced_classes_are_refused() -> None:
    study = study_of(training={"balance": "resample"})
    with pytest.raises(ValueError, match=r"training\.balance"):
        privately_trained(study, patients_of(study, 5), plan_with())


@pytest.mark.parametrize("size", [4, 16, 64])
@pytest.mark.parametrize("is_double", [False, True])
def test_the_physical_batch_changes_no_sample_no_noise_and_no_sum(
    size: int, is_double: bool
) -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    plan = plan_with(sample_rate=0.8, noise_multiplier=1e-3)
    patients = patients_of(study, 60)
    models = [PatientModel(study), PatientModel(study)]
    if is_double:
        models, patients = [m.double() for m in models], in_float64(patients)
    pieces, whole = watched(patients), watched(patients)
    sources = [NoiseSource.seeded(1), NoiseSource.seeded(1)]
    for model, seen, source, physical in zip(
        models, (pieces, whole), sources, (size, 256), strict=True
    ):
        train_privately(model, seen, study, plan, source=source, seed=1, physical_batch=physical)
    assert list(chain(*pieces.seen)) == list(chain(*whole.seen))
    assert len(whole.seen) == 3
    assert max(len(piece) for piece in pieces.seen) <= size
    assert difference(*models) < (1e-13 if is_double else 1e-6)
    assert np.array_equal(*(source.uniform(3) for source in sources))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_private_training_on_a_gpu_stays_close_to_that_on_the_cpu() -> None:
    study = study_of(training={"optimizer": "adamw"})
    states = []
    for device in (CPU, torch.device("cuda:0")):
        patients = patients_of(study, 40)
        moved = replace(
            patients,
            device=device,
            inputs={n: {k: v.to(device) for k, v in a.items()} for n, a in patients.inputs.items()},
            outcomes={
                n: {k: v.to(device) for k, v in a.items()} for n, a in patients.outcomes.items()
            },
        )
        model = PatientModel(study).to(device)
        train_privately(model, moved, study, plan_with(), source=NoiseSource.seeded(1), seed=1)
        states.append(state_of(model).flat)
    assert np.allclose(states[0], states[1], rtol=1e-3, atol=1e-4)
