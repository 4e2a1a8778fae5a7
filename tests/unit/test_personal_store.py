"""The store of what a site keeps: a round asked again starts from what it started from."""

import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.personal import PersonalStore, personal_folder
from tests.unit.personal_cases import Named, assert_equal


def values_of(number: int) -> Named:
    return {"own.weight": np.full((2, 3), number, np.float32), "local.b": np.float32([number, -1])}


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
