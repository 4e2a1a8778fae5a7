"""Memory that runs out: fewer patients at a time, of the same patients, to the same result."""

import logging
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from client import dp_training
from client.dp_training import train_privately
from client.evaluation import predict
from client.physical_batch import PhysicalBatch
from client.training import Patients, train
from common.models.patient_model import PatientModel
from common.privacy.mechanisms import NoiseSource
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, patients_of, study_of
from tests.unit.private_builders import (
    CPU,
    Watched,
    difference,
    in_float64,
    plan_with,
    values_of,
    watched,
)


class Scarce(Watched):
    """Patients on a device that holds `room` of them at a time; `seen` are those that fitted."""

    room = 5

    def batch(self, index_B: torch.Tensor) -> Any:
        if len(index_B) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().batch(index_B)


def scarce(patients: Patients) -> Scarce:
    return Scarce(**vars(watched(patients)))


# The rule.


def test_what_does_not_fit_is_halved_and_everybody_is_in_one_piece() -> None:
    batch = PhysicalBatch(64, CPU)
    tried: list[int] = []

    def work(place: slice) -> list[int]:
        tried.append(len(range(100)[place]))
        if tried[-1] > 10:
            raise torch.OutOfMemoryError
        return list(range(100)[place])

    assert list(chain(*batch.pieces(100, work))) == list(range(100))
    assert tried[:4] == [64, 32, 16, 8]
    assert max(tried[4:]) == batch.size == 8


def test_memory_for_nobody_is_an_end_and_not_a_loop() -> None:
    tried: list[int] = []

    def work(size: int) -> None:
        tried.append(size)
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        PhysicalBatch(256, CPU).fitting(6, work)
    assert tried == [256, 3, 1]


def test_another_fault_is_not_tried_again() -> None:
    tried: list[int] = []

    def work(size: int) -> None:
        tried.append(size)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        PhysicalBatch(8, CPU).fitting(8, work)
    assert tried == [8]


def test_what_a_failed_attempt_held_is_free_before_the_next() -> None:
    class Held:
        alive = 0

        def __init__(self) -> None:
            Held.alive += 1
            self.itself = self  # a cycle, as autograd's hooks make them

        def __del__(self) -> None:
            Held.alive -= 1

    def work(size: int) -> int:
        alive = Held.alive
        held = Held()
        if size > 2:
            raise torch.OutOfMemoryError
        del held
        return alive

    assert PhysicalBatch(8, CPU).fitting(8, work) == 0


def test_work_is_done_again_from_the_random_state_in_which_it_began() -> None:
    def work(size: int) -> float:
        drawn = float(torch.rand(()))
        if size > 2:
            raise torch.OutOfMemoryError
        return drawn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        expected = float(torch.rand(()))
        torch.manual_seed(1)
        assert PhysicalBatch(8, CPU).fitting(8, work) == expected


# Private training.


def privately(study: Study, patients: Patients, **options: Any) -> PatientModel:
    model = PatientModel(study)
    plan = plan_with(sample_rate=0.8, noise_multiplier=1e-3)
    train_privately(model, patients, study, plan, source=NoiseSource.seeded(1), seed=1, **options)
    return model


@pytest.mark.parametrize("room", [1, 5, 33])
def test_scarce_memory_changes_no_sample_no_noise_and_no_sum(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scarce, "room", room)
    study = study_of(outcomes=MORE_OUTCOMES)
    plenty, little = watched(patients_of(study, 60)), scarce(patients_of(study, 60))
    assert difference(privately(study, little), privately(study, plenty)) < 1e-5
    # Of each step, every patient of the sample once, in its order.
    assert list(chain(*little.seen)) == list(chain(*plenty.seen))
    assert len(plenty.seen) == 3 < len(little.seen)
    assert max(map(len, little.seen)) <= room


def test_a_pass_that_fails_after_its_draws_is_as_one_that_was_never_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Bit for bit what half of the physical batch gives from the start, with dropout.
    study = study_of(model={"dropout": 0.5, "granularity_dropout": 0.3})
    patients = patients_of(study, 40)
    plan = plan_with(sample_rate=1.0, expected_batch_size=40.0)

    def trained(physical_batch: int) -> np.ndarray:
        model = PatientModel(study)
        source = NoiseSource.seeded(1)
        train_privately(
            model, patients, study, plan, source=source, seed=1, physical_batch=physical_batch
        )
        return values_of(model)

    halves_P = trained(20)
    real = dp_training.clipped_gradient_sum

    def fails_late(model: Any, inputs: Any, outcomes: Any, **options: Any) -> Any:
        sums = real(model, inputs, outcomes, **options)
        if len(inputs["labs"]["present_B"]) > 20:
            raise torch.OutOfMemoryError
        return sums

    monkeypatch.setattr(dp_training, "clipped_gradient_sum", fails_late)
    assert trained(40).tobytes() == halves_P.tobytes()


def test_the_log_of_scarce_memory_holds_no_number_of_patients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = study_of()
    with caplog.at_level(logging.DEBUG):
        privately(study, scarce(patients_of(study, 60)))
    assert "out of memory" in caplog.text
    assert not any(c.isdigit() for record in caplog.records for c in record.getMessage())


def test_no_room_for_one_patient_ends_private_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scarce, "room", 0)
    study = study_of()
    with pytest.raises(torch.OutOfMemoryError):
        privately(study, scarce(patients_of(study, 60)))


# Training without privacy.

PLAIN: dict[str, dict[str, Any]] = {
    "sgd": {"training": {"batch_size": 24}},
    "adamw": {"training": {"batch_size": 24, "optimizer": "adamw", "weight_decay": 0.1}},
    "every kind of outcome": {"training": {"batch_size": 24}, "outcomes": MORE_OUTCOMES},
    "fedprox": {
        "training": {"batch_size": 24},
        "strategy": {"name": "fedprox", "proximal_mu": 0.1},
    },
}


def plainly(study: Study, patients: Patients) -> PatientModel:
    model = PatientModel(study).double()
    train(model, patients, study, seed=1)
    return model


@pytest.mark.parametrize("sections", PLAIN.values(), ids=PLAIN.keys())
@pytest.mark.parametrize("room", [1, 5, 13])
def test_a_step_of_halves_is_the_step_of_the_whole_batch(
    room: int, sections: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 60 patients in batches of 24, 24 and 12, some of unknown outcome: no piece is as the others.
    monkeypatch.setattr(Scarce, "room", room)
    study = study_of(**sections)
    patients = in_float64(patients_of(study, 60))
    # Adam blows rounding up where a gradient is near zero: in float32 the bound would be its own.
    assert difference(plainly(study, scarce(patients)), plainly(study, patients)) < 1e-10


def test_in_single_precision_a_step_of_halves_is_off_by_rounding_alone() -> None:
    study = study_of(training={"batch_size": 24}, outcomes=MORE_OUTCOMES)
    patients = patients_of(study, 60)
    models = [PatientModel(study), PatientModel(study)]
    for model, some in zip(models, (scarce(patients), patients), strict=True):
        train(model, some, study, seed=1)
    assert difference(*models) < 1e-5


def test_a_backward_pass_that_failed_half_way_leaves_nothing_in_the_gradient() -> None:
    study = study_of(training={"batch_size": 24})
    patients = in_float64(patients_of(study, 60))
    expected = plainly(study, patients)
    model = PatientModel(study).double()
    size = 0

    def note(_: object, inputs: Any, __: object) -> None:
        nonlocal size
        size = len(inputs[0]["labs"]["present_B"])

    def fails(_: object) -> None:
        if size > 12:
            raise torch.OutOfMemoryError

    model.register_forward_hook(note)
    first = next(model.encoders.parameters())  # reached last: other gradients are there already
    first.register_hook(fails)
    train(model, patients, study, seed=1)
    assert difference(model, expected) < 1e-10


def test_losses_that_depend_on_one_another_are_not_cut_in_halves() -> None:
    cox = {**MORE_OUTCOMES["death"], "loss": "cox"}
    study = study_of(outcomes={"death": cox}, training={"batch_size": 24})
    patients = scarce(in_float64(patients_of(study, 60)))
    with pytest.raises(torch.OutOfMemoryError):
        plainly(study, patients)
    assert patients.seen == []


# Evaluation.


def test_predictions_of_scarce_memory_are_those_of_plenty() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    model, patients = PatientModel(study), scarce(patients_of(study, 60))
    found, expected = predict(model, patients), predict(model, patients_of(study, 60))
    assert list(chain(*patients.seen)) == list(range(60))
    for name, value_BP in expected.items():
        assert np.allclose(found[name], value_BP, rtol=1e-5, atol=1e-7)
