"""What is released is the noised steps and nothing beside: no buffer, no other step, no log."""

import logging
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from client.dp_training import train_privately
from common.errors import Refusal, RefusalCode
from common.models.patient_model import PatientModel
from common.privacy.mechanisms import NoiseSource
from tests.unit.builders import patients_of, study_of
from tests.unit.private_builders import plan_with, privately_trained, values_of, watched


def test_everything_trainable_gets_noise_and_nothing_else_moves() -> None:
    study = study_of(
        model={"frozen": ["vitals"]},
        personal={"local_blocks": ["heads.*"]},
        training={"learning_rate": 1.0},
    )
    model = PatientModel(study)
    assert any(name.startswith("heads.") for name in model.local_blocks)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    # No patient is ever sampled, so that nothing but noise can move a parameter.
    plan = plan_with(sample_rate=1e-12)
    source = NoiseSource.seeded(1)
    train_privately(model, patients_of(study, 40), study, plan, source=source, seed=1)
    for name, value in model.state_dict().items():
        num_still = int((value == before[name]).sum())
        assert num_still == (0 if name in trainable else value.numel()), name


def test_training_leaves_the_patients_as_they_were() -> None:
    study = study_of()
    patients, same = patients_of(study, 40), patients_of(study, 40)
    privately_trained(study, patients, plan_with())
    for name, arrays in same.inputs.items():
        assert all(torch.equal(value, patients.inputs[name][k]) for k, value in arrays.items())


def test_nothing_of_a_sample_is_logged(caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    study = study_of()
    privately_trained(study, patients_of(study, 40), plan_with())
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def leak_into_buffer(model: PatientModel) -> None:
    buffer = next(b for b in model.buffers() if b.is_floating_point())
    buffer.view(-1)[0] += 0.125


def leak_into_new_buffer(model: PatientModel) -> None:
    model.register_buffer("mean_of_data", torch.tensor(3.5))


def leak_into_hidden_buffer(model: PatientModel) -> None:
    model.fusion.register_buffer("seen", torch.tensor(3.5), persistent=False)


def leak_into_shape(model: PatientModel) -> None:
    model.register_buffer("numbers", torch.zeros(3))


def leak_into_frozen(model: PatientModel) -> None:
    next(model.encoders["labs"].parameters()).data.view(-1)[0] += 0.125


def leak_into_parameter(model: PatientModel) -> None:
    next(model.heads.parameters()).data.view(-1)[0] += 0.125


def step_of_an_inner_optimizer(model: PatientModel) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(parameters, lr=0.1).step()


@pytest.mark.parametrize(
    "leak",
    [
        leak_into_buffer,
        leak_into_new_buffer,
        leak_into_hidden_buffer,
        leak_into_shape,
        leak_into_frozen,
        leak_into_parameter,
        step_of_an_inner_optimizer,
    ],
)
def test_a_model_that_changes_beside_the_noised_steps_is_not_released(
    leak: Callable[[PatientModel], None],
) -> None:
    study = study_of(model={"frozen": ["labs"]})
    model = PatientModel(study)
    model.register_buffer("numbers", torch.zeros(2))
    remaining = [leak]

    def once() -> None:
        if remaining:
            remaining.pop()(model)

    patients = watched(patients_of(study, 40), once)
    source = NoiseSource.seeded(1)
    with pytest.raises(Refusal, match="beside them") as caught:
        train_privately(model, patients, study, plan_with(), source=source, seed=1)
    assert caught.value.refusal_code is RefusalCode.EGRESS_BLOCKED
    assert "3.5" not in str(caught.value)


def test_a_buffer_of_nan_is_no_leak_and_a_gradient_from_before_is_forgotten() -> None:
    study = study_of()
    models = [PatientModel(study), PatientModel(study)]
    for parameter in models[1].parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    for model in models:
        model.register_buffer("unknown", torch.tensor([math.nan, -0.0]))
        source = NoiseSource.seeded(1)
        train_privately(model, patients_of(study, 40), study, plan_with(), source=source, seed=1)
    assert np.array_equal(values_of(models[0]), values_of(models[1]))
