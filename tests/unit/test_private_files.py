"""Private files: whole or absent, never written over, on disk, for their owner alone."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from common.errors import ProvisionError
from common.private_files import create_private, one_at_a_time, read_private


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    create_private(tmp_path / "a.key", b"first", ProvisionError)
    with pytest.raises(ProvisionError, match="never written over"):
        create_private(tmp_path / "a.key", b"second", ProvisionError)
    assert read_private(tmp_path / "a.key", ProvisionError) == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


def test_a_file_that_the_disk_did_not_take_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        create_private(tmp_path / "a.key", b"key", ProvisionError)
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_its_name_are_on_disk_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, bool]] = []
    real = os.fsync

    def recorded(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, (tmp_path / "a.key").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    create_private(tmp_path / "a.key", b"key", ProvisionError)
    # The content before the file has its name, the name after.
    assert synced == [(False, False), (True, True)]


@pytest.mark.threat("K-1")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o666])
def test_a_file_that_others_may_use_is_not_read(tmp_path: Path, mode: int) -> None:
    create_private(tmp_path / "a.key", b"CANARY", ProvisionError)
    (tmp_path / "a.key").chmod(mode)
    with pytest.raises(ProvisionError, match=f"found mode {mode:04o}") as caught:
        read_private(tmp_path / "a.key", ProvisionError)
    assert "CANARY" not in str(caught.value)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match=r"found none.*wardround site keys"):
        read_private(tmp_path / "a.key", ProvisionError)


def test_a_lock_is_held_by_one_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with one_at_a_time(path), path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
