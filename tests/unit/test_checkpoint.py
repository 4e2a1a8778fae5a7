"""Checkpoints: whole or not there; a damaged one falls back, and never to a fresh start."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from common.arrays import Arrays
from common.errors import CheckpointError
from common.model_file import write_model
from common.tail_average import Tail
from server.checkpoint import Checkpoint, CheckpointFolder
from server.optimizer import OptimizerState
from tests.unit.builders import HASH, arrays

MODEL = Arrays.pack(
    {
        "heads.event.linear.weight": np.arange(3.0).reshape(1, 3),
        "heads.event.linear.bias": np.ones(()),
    }
)


def _checkpoint(round_number: int, model: Arrays = MODEL, size: int = 4) -> Checkpoint:
    rng = np.random.default_rng(round_number)
    moments = OptimizerState(first_P=rng.normal(size=size), second_P=rng.uniform(size=size))
    return Checkpoint(
        run_id="run",
        study_hash=HASH,
        round=round_number,
        model=model,
        optimizer=moments,
        tail=Tail(num_models=round_number, sum_P=rng.normal(size=size)),
    )


def _equal(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        (one.run_id, one.study_hash, one.round) == (other.run_id, other.study_hash, other.round)
        and one.model == other.model
        and one.optimizer.first_P.tobytes() == other.optimizer.first_P.tobytes()
        and one.optimizer.second_P.tobytes() == other.optimizer.second_P.tobytes()
        and one.tail.num_models == other.tail.num_models
        and one.tail.sum_P.tobytes() == other.tail.sum_P.tobytes()
    )


def _folder(path: Path, *rounds: int) -> CheckpointFolder:
    folder = CheckpointFolder(path, durable=False)
    for round_number in rounds:
        folder.save(_checkpoint(round_number))
    return folder


@given(arrays(dtypes=[np.float32]), st.integers(0, 999_999), st.integers(0, 5))
def test_a_checkpoint_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, model: Arrays, round_number: int, size: int
) -> None:
    folder = CheckpointFolder(tmp_path_factory.mktemp("checkpoints"), durable=False)
    checkpoint = _checkpoint(round_number, model, size)
    folder.save(checkpoint)
    assert _equal(folder.load(HASH), checkpoint)


def test_a_durable_checkpoint_is_the_same(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path).save(_checkpoint(1))
    assert _equal(CheckpointFolder(tmp_path).load(HASH), _checkpoint(1))


def test_the_last_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 8, 9, 10, 11)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *["round-000010.json", "round-000010.safetensors"],
        *["round-000011.json", "round-000011.safetensors"],
    ]
    assert folder.load(HASH).round == 11


@pytest.mark.threat("I-3")
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_any_flipped_bit_falls_back_to_the_checkpoint_before(tmp_path: Path, suffix: str) -> None:
    folder = _folder(tmp_path, 1, 2)
    path = tmp_path / f"round-000002{suffix}"
    whole = path.read_bytes()
    num_harmless = 0
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        )
        loaded = folder.load(HASH)
        # A changed space between two words of JSON says the same as before.
        num_harmless += _equal(loaded, _checkpoint(2))
        assert _equal(loaded, _checkpoint(1)) or _equal(loaded, _checkpoint(2))
    assert num_harmless <= (whole.count(b" ") if suffix == ".json" else 0)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("size", [0, 1, -1])
def test_a_cut_file_falls_back_to_the_checkpoint_before(
    tmp_path: Path, suffix: str, size: int
) -> None:
    folder = _folder(tmp_path, 1, 2)
    path = tmp_path / f"round-000002{suffix}"
    path.write_bytes(path.read_bytes()[:size])
    assert _equal(folder.load(HASH), _checkpoint(1))


@pytest.mark.threat("I-3")
@pytest.mark.parametrize("content", [b"[]", b'"x"', b"7", b"null", b"{}", b"\xff", b"[" * 10_000])
def test_a_header_that_is_something_else_falls_back(tmp_path: Path, content: bytes) -> None:
    folder = _folder(tmp_path, 1, 2)
    (tmp_path / "round-000002.json").write_bytes(content)
    assert _equal(folder.load(HASH), _checkpoint(1))


def test_a_crash_between_the_two_writes_leaves_the_older_one(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 1, 2)
    (tmp_path / "round-000002.json").unlink()
    assert _equal(folder.load(HASH), _checkpoint(1))
    folder.save(_checkpoint(2))
    assert _equal(folder.load(HASH), _checkpoint(2))


def test_the_arrays_of_another_checkpoint_are_not_taken(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 1, 2)
    older = (tmp_path / "round-000001.safetensors").read_bytes()
    (tmp_path / "round-000002.safetensors").write_bytes(older)
    assert _equal(folder.load(HASH), _checkpoint(1))


def test_a_round_is_saved_again_over_a_damaged_one(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 1, 2)
    (tmp_path / "round-000002.safetensors").write_bytes(b"")
    folder.save(_checkpoint(2))
    assert _equal(folder.load(HASH), _checkpoint(2))
    assert len(list(tmp_path.iterdir())) == 4


def test_two_damaged_checkpoints_are_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 1, 2)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="found 2 damaged ones"):
        folder.load(HASH)


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        CheckpointFolder(tmp_path / "nowhere").load(HASH)


def test_a_checkpoint_of_another_study_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 1)
    folder.save(replace(_checkpoint(2), study_hash="f" * 64))
    with pytest.raises(CheckpointError, match=r"of study 000000000000…, found one of ffffffffffff"):
        folder.load(HASH)


def test_a_model_is_written_by_the_names_of_its_parameters(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", MODEL)
    named = load_file(tmp_path / "model.safetensors")
    assert {name: value.tolist() for name, value in named.items()} == {
        "heads.event.linear.weight": [[0.0, 1.0, 2.0]],
        "heads.event.linear.bias": 1.0,
    }
