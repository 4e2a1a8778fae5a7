"""What a site keeps for itself: the law of the store, local blocks, fine-tuning and Ditto."""

import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from client.personal import (
    Personal,
    PersonalStore,
    load_personal,
    named_parameters_of,
    personal_folder,
)
from client.training import Patients, train
from common.models.patient_model import (
    PatientModel,
    parameters_of,
    state_manifest,
    trainable_manifest,
)
from common.plan import Personal as PersonalSection
from common.seeds import seed_of
from common.study import Study

Named = dict[str, NDArray[np.float32]]


def study_of(*, training: dict[str, object] | None = None, **personal: object) -> Study:
    number = {"kind": "numeric", "unit": "years", "range": [-5, 5]}
    return Study.model_validate(
        {
            "study": {"name": "small"},
            "outcomes": {"event": {"kind": "binary", "column": "event", "classes": ["no", "yes"]}},
            "granularities": {
                "labs": {"kind": "tabular", "hidden": [3], "features": {"x": number, "y": number}}
            },
            "model": {"width": 4, "fusion": "concat", "dropout": 0.1},
            "training": {
                "rounds": 3,
                "local_steps": 6,
                "batch_size": 16,
                "learning_rate": 0.1,
                **(training or {}),
            },
            "personal": personal,
        }
    )


def patients_of(num_patients: int = 48, seed: int = 0) -> Patients:
    generator = torch.Generator().manual_seed(seed)
    numeric_BF = torch.randn(num_patients, 2, generator=generator)
    label_B = (numeric_BF[:, 0] + 0.5 * torch.randn(num_patients, generator=generator) > 0).long()
    present_B = torch.ones(num_patients, dtype=torch.bool)
    labs = {
        "present_B": present_B,
        "numeric_BF": numeric_BF,
        "observed_BF": torch.ones_like(numeric_BF, dtype=torch.bool),
        "codes_BK": torch.zeros(num_patients, 0, dtype=torch.long),
    }
    return Patients(
        inputs={"labs": labs},
        outcomes={"event": {"known_B": present_B, "label_B": label_B}},
        device=torch.device("cpu"),
        num_patients=num_patients,
    )


def personal_of(study: Study, folder: Path) -> Personal:
    return Personal(study, PersonalStore(folder), site="alpha")


def a_round(personal: Personal, study: Study, patients: Patients, number: int) -> PatientModel:
    """One round as a site does it, the shared model starting anew; returns what is left of it."""
    model = PatientModel(study)
    personal.put_local(model, number)
    start = named_parameters_of(model)
    seed = seed_of(study.training.seed, "alpha", number)
    train(model, patients, study, seed=seed)
    personal.after_training(model, start, patients, number)
    return model


def distance(one: Named, other: Named) -> float:
    return float(sum(np.square(one[name] - other[name]).sum() for name in one)) ** 0.5


def own_of(folder: Path, round_number: int) -> Named:
    """The site's own model in the store."""
    named = PersonalStore(folder).load(round_number)
    return {k.removeprefix("own."): v for k, v in named.items() if k.startswith("own.")}


def values_of(number: int) -> Named:
    return {"own.weight": np.full((2, 3), number, np.float32), "local.b": np.float32([number, -1])}


def assert_equal(one: Named, other: Named) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == np.float32
        assert value.tobytes() == other[name].tobytes()


def test_before_anything_was_saved_there_is_nothing(tmp_path: Path) -> None:
    assert PersonalStore(tmp_path / "none").load(5) == {}


@given(
    first=st.integers(0, 20),
    answered=st.lists(st.booleans(), min_size=1, max_size=12),
    again=st.integers(0, 1),
)
def test_a_round_asked_again_starts_from_what_it_started_from(
    tmp_path_factory: pytest.TempPathFactory, first: int, answered: list[bool], again: int
) -> None:
    # A server resumes at either of its last two checkpoints: the round that was asked last, or the
    # one before. Sites may have been absent from any round.
    store = PersonalStore(tmp_path_factory.mktemp("store"))
    started_from: list[Named] = []
    for number, is_there in enumerate(answered, start=first):
        started_from.append(store.load(number))
        if is_there:
            store.save(number + 1, values_of(number + 1))
    for number in range(first, first + len(answered)):
        if number >= first + len(answered) - 1 - again:
            assert_equal(store.load(number), started_from[number - first])


def test_what_was_saved_for_a_round_is_loaded_whatever_was_saved_for_later_ones(
    tmp_path: Path,
) -> None:
    store = PersonalStore(tmp_path)
    store.save(7, values_of(7))
    store.save(8, values_of(8))
    assert_equal(store.load(7), values_of(7))
    store.save(8, values_of(80))  # the round was asked again
    assert_equal(store.load(7), values_of(7))
    assert_equal(store.load(8), values_of(80))
    assert_equal(store.load(100), values_of(80))
    assert store.load(6) == {}


def test_only_the_latest_values_are_kept(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    for number in range(1, 12):
        store.save(number, values_of(number))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        f"round-{number:06d}.safetensors" for number in (9, 10, 11)
    ]


def test_the_values_survive_the_process_in_the_folder_of_the_run(tmp_path: Path) -> None:
    PersonalStore(personal_folder(tmp_path, "run-1")).save(2, values_of(2))
    assert_equal(PersonalStore(personal_folder(tmp_path, "run-1")).load(2), values_of(2))
    assert PersonalStore(personal_folder(tmp_path, "run-2")).load(2) == {}
    assert personal_folder(tmp_path, "run-1").is_relative_to(tmp_path / "personal")


def test_a_round_that_is_asked_again_after_later_ones_keeps_what_it_saves(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    for number in (8, 9, 10):
        store.save(number, values_of(number))
    for number in (5, 6, 7):  # the server went back further than it ever should
        store.save(number, values_of(10 * number))
        assert_equal(store.load(number), values_of(10 * number))
    assert_equal(store.load(6), values_of(60))


@pytest.mark.parametrize("content", [b"", b"torn", b"\xff" * 64])
def test_a_file_that_cannot_be_read_counts_as_never_saved(tmp_path: Path, content: bytes) -> None:
    store = PersonalStore(tmp_path)
    store.save(3, values_of(3))
    store.save(4, values_of(4))
    whole = (tmp_path / "round-000004.safetensors").read_bytes()
    for torn in (content, whole[: len(whole) // 2]):
        (tmp_path / "round-000004.safetensors").write_bytes(torn)
        assert_equal(store.load(4), values_of(3))
    (tmp_path / "round-000003.safetensors").write_bytes(content)
    assert store.load(4) == {}


def test_the_files_are_their_owners_alone(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    store.save(3, values_of(3))
    store.save_intercepts(3, {"event": np.array([0.0, 1.0])}, model="")
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600, 0o600]


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "../x", "/etc", "a b", "a\n", "a" * 65])
def test_a_run_id_that_is_no_word_names_no_folder(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ValueError, match="run id"):
        personal_folder(tmp_path, run_id)


def test_intercepts_are_kept_by_model_and_round_in_full_precision(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    shared, own = np.array([0.0, 0.1]), np.array([0.0, -1 / 3])
    store.save_intercepts(3, {"event": shared}, model="")
    store.save_intercepts(3, {"event": own}, model="personal")
    assert store.load_intercepts(3, model="")["event"].tolist() == shared.tolist()
    assert store.load_intercepts(3, model="personal")["event"].tolist() == own.tolist()
    assert store.load_intercepts(2, model="") == {}
    assert store.load(3) == {}
    (tmp_path / "intercepts-000003.safetensors").write_bytes(b"torn")
    assert store.load_intercepts(3, model="") == {}


def test_values_in_any_memory_order_are_kept_as_they_read(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path)
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    store.save(0, {"own.weight": transposed})
    np.testing.assert_array_equal(store.load(0)["own.weight"], transposed)


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
