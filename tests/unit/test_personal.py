"""What a site keeps for itself: local blocks, fine-tuning and Ditto."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from client.personal import PersonalStore, load_personal, named_parameters_of
from client.training import train
from common.models.patient_model import (
    PatientModel,
    parameters_of,
    state_manifest,
    trainable_manifest,
)
from common.plan import Personal as PersonalSection
from common.seeds import seed_of
from common.study import Study
from tests.unit.personal_cases import (
    a_round,
    assert_equal,
    distance,
    own_of,
    patients_of,
    personal_of,
    study_of,
)

LOCAL = ("heads.*", "encoders.labs.*")


def test_local_blocks_are_in_no_update_and_all_others_are() -> None:
    model = PatientModel(study_of(local_blocks=["heads.*"]))
    everything = [name for name, _ in model.named_parameters()]
    shared = [block.name for block in trainable_manifest(model)]
    assert model.local_blocks == {name for name in everything if name.startswith("heads.")}
    assert shared == [name for name in everything if name not in model.local_blocks]
    assert parameters_of(model).manifest == trainable_manifest(model)
    # The model that travels to the sites has a place for everything.
    assert {block.name for block in state_manifest(model)} >= set(everything)


def test_local_blocks_go_on_from_round_to_round(tmp_path: Path) -> None:
    study = study_of(local_blocks=list(LOCAL))
    patients, personal = patients_of(), personal_of(study, tmp_path)
    after_first = named_parameters_of(a_round(personal, study, patients, 0))
    model = PatientModel(study)
    before = named_parameters_of(model)
    personal.put_local(model, 1)
    found = named_parameters_of(model)
    assert model.local_blocks
    for name in found:
        expected = after_first if name in model.local_blocks else before
        assert found[name].tobytes() == expected[name].tobytes(), name
        assert (name in model.local_blocks) == (found[name].tobytes() != before[name].tobytes())


def test_without_anything_personal_nothing_is_written(tmp_path: Path) -> None:
    study = study_of()
    a_round(personal_of(study, tmp_path), study, patients_of(), 0)
    assert list(tmp_path.iterdir()) == []


def test_the_own_model_is_trained_from_the_round_s_shared_model_when_there_is_none_yet(
    tmp_path: Path,
) -> None:
    study = study_of(ditto_lambda=1e-9)
    a_round(personal_of(study, tmp_path), study, patients_of(), 0)
    # With hardly any pull: local training with the site's personal seed, and nothing else.
    alone = PatientModel(study)
    train(alone, patients_of(), study, seed=seed_of(study.training.seed, "alpha", 0, "personal"))
    expected = named_parameters_of(alone)
    found = own_of(tmp_path, 1)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    assert distance(found, named_parameters_of(PatientModel(study))) > 0.03


def test_a_stronger_pull_keeps_the_own_model_nearer_to_the_shared_one(tmp_path: Path) -> None:
    shared = named_parameters_of(PatientModel(study_of()))
    distances = []
    for strength in (1e-3, 1.0, 10.0, 1e3, 1e5):
        # Small steps: a step beyond 2 / λ would overshoot.
        training = {"learning_rate": min(0.1, 0.5 / strength), "local_steps": 40}
        study = study_of(ditto_lambda=strength, training=training)
        a_round(personal_of(study, tmp_path / str(strength)), study, patients_of(), 0)
        distances.append(distance(own_of(tmp_path / str(strength), 1), shared))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.1
    assert distances[-1] < 1e-4


def test_one_step_of_ditto_worked_from_its_gradient(tmp_path: Path) -> None:
    # Algorithm 1, line 7: v ← v - η (∇F(v) + λ (v - w)), from a saved v, towards another w.
    study = study_of(
        ditto_lambda=0.7, training={"local_steps": 1, "batch_size": 48, "learning_rate": 0.2}
    )
    study = Study.model_validate(
        study.model_dump() | {"model": study.model.model_dump() | {"dropout": 0.0}}
    )
    model = PatientModel(study)
    start = named_parameters_of(model)
    saved = {name: value + np.float32(0.3) for name, value in start.items()}
    PersonalStore(tmp_path).save(0, {f"own.{name}": value for name, value in saved.items()})
    personal_of(study, tmp_path).after_training(model, start, patients_of(), 0)

    other = PatientModel(study)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(torch.from_numpy(saved[name]))
    patients = patients_of()
    other.loss_per_patient(other(patients.inputs), patients.outcomes).mean().backward()
    found = own_of(tmp_path, 1)
    for name, parameter in other.named_parameters():
        assert parameter.grad is not None
        expected = saved[name] - 0.2 * (parameter.grad.numpy() + 0.7 * (saved[name] - start[name]))
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "plan",
    [{"ditto_lambda": 0.5}, {"ditto_lambda": 0.5, "local_blocks": LOCAL}, {"local_blocks": LOCAL}],
)
def test_a_round_asked_again_gives_the_same_personal_values_bit_for_bit(
    tmp_path: Path, plan: dict[str, object]
) -> None:
    study, patients = study_of(**plan), patients_of()
    for folder, rounds in (("once", (0, 1, 2)), ("again", (0, 1, 1, 2, 1, 2))):
        # A new `Personal` for each: nothing is remembered in memory.
        for number in rounds:
            a_round(personal_of(study, tmp_path / folder), study, patients, number)
    assert_equal(*(PersonalStore(tmp_path / folder).load(3) for folder in ("once", "again")))


def test_what_is_kept_with_ditto_and_local_blocks_is_both(tmp_path: Path) -> None:
    study = study_of(ditto_lambda=0.5, local_blocks=["heads.*"])
    shared = a_round(personal_of(study, tmp_path / "a"), study, patients_of(), 0)
    names = [name for name, _ in shared.named_parameters()]
    kept = PersonalStore(tmp_path / "a").load(1)
    assert kept.keys() == {f"own.{name}" for name in names} | {
        f"local.{name}" for name in shared.local_blocks
    }
    # The local blocks are those of the shared training: Ditto does not change them.
    plain = study_of(local_blocks=["heads.*"])
    a_round(personal_of(plain, tmp_path / "b"), plain, patients_of(), 0)
    for name, value in PersonalStore(tmp_path / "b").load(1).items():
        assert kept[name].tobytes() == value.tobytes()


@pytest.mark.parametrize("num_steps", [1, 7])
def test_fine_tuning_takes_the_planned_steps_from_the_shared_model(
    tmp_path: Path, num_steps: int
) -> None:
    study, patients = study_of(fine_tune_steps=num_steps), patients_of()
    model = PatientModel(study)
    personal_of(study, tmp_path).make_own(model, patients, 3)
    expected = PatientModel(study)
    seed = seed_of(study.training.seed, "alpha", 3, "personal")
    assert train(expected, patients, study, seed=seed, num_steps=num_steps) == num_steps
    assert_equal(named_parameters_of(model), named_parameters_of(expected))
    assert_equal(own_of(tmp_path, 3), named_parameters_of(expected))


def test_fine_tuning_again_starts_from_the_shared_model_again(tmp_path: Path) -> None:
    study = study_of(fine_tune_steps=5, local_blocks=["heads.*"])
    patients, personal = patients_of(), personal_of(study, tmp_path)
    a_round(personal, study, patients, 2)
    results = []
    for _ in range(2):
        model = PatientModel(study)
        personal.put_local(model, 3)
        personal.make_own(model, patients, 3)
        results.append(named_parameters_of(model))
    assert_equal(*results)
    # What stays at home is as the shared training left it, for whoever asks for this round again.
    local = {k: v for k, v in PersonalStore(tmp_path).load(3).items() if k.startswith("local.")}
    other = study_of(local_blocks=["heads.*"])
    a_round(personal_of(other, tmp_path / "other"), other, patients, 2)
    assert_equal(local, PersonalStore(tmp_path / "other").load(3))


def test_with_ditto_the_own_model_is_the_one_that_was_trained(tmp_path: Path) -> None:
    study, patients = study_of(ditto_lambda=0.5), patients_of()
    personal = personal_of(study, tmp_path)
    a_round(personal, study, patients, 2)
    model = PatientModel(study)
    personal.make_own(model, patients, 3)
    assert_equal(named_parameters_of(model), own_of(tmp_path, 3))


def test_a_site_that_was_never_trained_has_the_shared_model_for_its_own(tmp_path: Path) -> None:
    study = study_of(ditto_lambda=0.5)
    model = PatientModel(study)
    before = named_parameters_of(model)
    personal_of(study, tmp_path).make_own(model, patients_of(), 3)
    assert_equal(named_parameters_of(model), before)


def test_without_training_patients_the_own_model_stays_as_it_was(tmp_path: Path) -> None:
    study = study_of(ditto_lambda=0.5)
    a_round(personal_of(study, tmp_path), study, patients_of(0), 0)
    assert_equal(own_of(tmp_path, 1), named_parameters_of(PatientModel(study)))


@pytest.mark.parametrize(
    "plan", [{"fine_tune_steps": 5}, {"ditto_lambda": 0.5}, {"local_blocks": ["heads.*"]}]
)
def test_a_prediction_uses_what_the_last_round_left(
    tmp_path: Path, plan: dict[str, object]
) -> None:
    study, patients = study_of(**plan), patients_of()
    personal = personal_of(study, tmp_path)
    last = PatientModel(study)
    a_round(personal, study, patients, 2)
    personal.put_local(last, 3)
    if study.personal.has_model:
        personal.make_own(last, patients, 3)
    model = PatientModel(study)
    assert load_personal(model, PersonalStore(tmp_path), 3)
    assert_equal(named_parameters_of(model), named_parameters_of(last))


def test_without_personal_values_a_prediction_uses_the_shared_model(tmp_path: Path) -> None:
    model = PatientModel(study_of())
    before = named_parameters_of(model)
    assert not load_personal(model, PersonalStore(tmp_path), 3)
    assert_equal(named_parameters_of(model), before)


def test_frozen_encoders_are_not_personal(tmp_path: Path) -> None:
    study = study_of(ditto_lambda=0.5)
    study = Study.model_validate(
        study.model_dump() | {"model": study.model.model_dump() | {"frozen": ["labs"]}}
    )
    a_round(personal_of(study, tmp_path), study, patients_of(), 0)
    assert own_of(tmp_path, 1)
    assert not [name for name in own_of(tmp_path, 1) if name.startswith("encoders.")]


def test_copies_of_parameters_do_not_follow_the_model() -> None:
    study = study_of()
    model = PatientModel(study)
    copied = named_parameters_of(model)
    train(model, patients_of(), study, seed=0)
    assert_equal(copied, named_parameters_of(PatientModel(study)))


def test_a_study_has_at_most_one_kind_of_own_model() -> None:
    with pytest.raises(ValidationError, match="at most one"):
        PersonalSection(fine_tune_steps=1, ditto_lambda=0.1)
    assert not PersonalSection(local_blocks=("heads.*",)).has_model
    assert PersonalSection(fine_tune_steps=1).has_model
    assert PersonalSection(ditto_lambda=0.1).has_model
