"""A disk without room: refused before any work, on both sides, and never a torn file.

The site and the coordinator are asked with an injected figure, and once with a real small disk
where this user may mount one.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import client.work
from client.audit import audit_path
from client.config import load_site_config
from client.disk import Room
from client.site import Site
from common.arrays import Arrays
from common.disk import MARGIN_BYTES, free_bytes
from common.errors import Refusal, RefusalCode, RunError
from common.messages import TaskKind
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from common.tail_average import Tail
from server.checkpoint import Checkpoint, CheckpointFolder
from server.optimizer import OptimizerState
from tests.unit.builders import HASH, task_of
from tests.unit.private_site_cases import BUDGET, answer, kinds


def filled(site: Site, found_bytes: int) -> None:
    """The site, whose disk has so much room from now on."""
    books: Any = site._charging
    books._room = replace(books._room, free_bytes=lambda _: found_bytes)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was worked on."""
    seen: list[str] = []
    for name in ("train", "train_privately", "evaluate"):
        inner = getattr(client.work, name)

        def watched(*args: Any, name: str = name, inner: Any = inner, **kwargs: Any) -> Any:
            seen.append(name)
            return inner(*args, **kwargs)

        monkeypatch.setattr(client.work, name, watched)
    return seen


def test_a_private_task_on_a_full_disk_is_refused_and_costs_nothing(
    open_real, private: Study, trained: list[str]
) -> None:
    site = open_real(private)
    filled(site, MARGIN_BYTES)
    reply = answer(site, private)
    assert (reply.status, reply.arrays) == ("disk_full", None)
    assert trained == []
    assert kinds(site) == ["opened"]  # nothing is added to a ledger that may have no room
    state = load_site_config(site.folder).state_dir
    assert b'"disk_full"' in audit_path(state).read_bytes()
    filled(site, 1 << 40)
    assert answer(site, private, nonce="again").status == "ok"
    assert kinds(site) == ["opened", "reserved", "sealed", "sent"]


@pytest.mark.parametrize("kind", [TaskKind.TRAIN, TaskKind.EVALUATE])
def test_a_task_without_privacy_is_refused_before_any_work_as_well(
    open_real, tiny_study: Study, trained: list[str], kind: TaskKind
) -> None:
    site = open_real(tiny_study)
    filled(site, MARGIN_BYTES)
    assert answer(site, tiny_study, kind).status == "disk_full"
    assert trained == []


def test_a_real_site_looks_at_the_disk_of_its_state(open_real, private: Study) -> None:
    site = open_real(private)
    room = site._charging._room
    assert room == Room(state_dir=load_site_config(site.folder).state_dir)
    assert room.free_bytes is free_bytes


def test_a_task_needs_room_for_two_models_and_a_margin(tiny_study: Study) -> None:
    model_bytes = state_of(PatientModel(tiny_study)).flat.nbytes
    needed = 2 * model_bytes + MARGIN_BYTES
    task = task_of(tiny_study)
    Room(state_dir=Path(), free_bytes=lambda _: needed).check(task)
    with pytest.raises(Refusal, match="free disk") as refused:
        Room(state_dir=Path(), free_bytes=lambda _: needed - 1).check(task)
    assert refused.value.refusal_code is RefusalCode.DISK_FULL
    enrolment = task_of(tiny_study, TaskKind.ENROL)
    Room(state_dir=Path(), free_bytes=lambda _: MARGIN_BYTES).check(enrolment)


def test_room_is_that_of_the_disk_below_even_before_the_folder_is_there(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    found = free_bytes(tmp_path / "not" / "yet")
    # Other processes write to the same disk.
    assert abs(found - disk.f_bavail * disk.f_frsize) < 1 << 32


# The coordinator.


def checkpoint(round_number: int) -> Checkpoint:
    weight = np.full((1000, 1000), round_number, dtype=np.float32)
    moment = np.zeros(4)
    return Checkpoint(
        run_id="run",
        study_hash=HASH,
        round=round_number,
        model=Arrays.pack({"heads.event.linear.weight": weight}),
        optimizer=OptimizerState(first_P=moment, second_P=moment),
        tail=Tail(num_models=0, sum_P=moment),
    )


def test_a_checkpoint_without_room_is_an_error_and_leaves_the_one_before(tmp_path: Path) -> None:
    found = [1 << 40]
    folder = CheckpointFolder(tmp_path, durable=False, free_bytes=lambda _: found[0])
    folder.save(checkpoint(1))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    found[0] = MARGIN_BYTES + 1_000_000
    with pytest.raises(RunError, match=r"this checkpoint.*--resume"):
        folder.save(checkpoint(2))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert folder.load(HASH).round == 1


def test_a_round_whose_checkpoint_would_have_no_room_does_not_begin(tmp_path: Path) -> None:
    looks = [1 << 40, MARGIN_BYTES]  # before this checkpoint is written, and after
    folder = CheckpointFolder(tmp_path, durable=False, free_bytes=lambda _: looks.pop(0))
    with pytest.raises(RunError, match="the next checkpoint"):
        folder.save(checkpoint(1))
    assert folder.load(HASH).round == 1


# A real disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a disk")
    yield folder
    # The site's ledger may be open still: the disk goes when that is closed.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_on_a_real_small_disk_a_run_stops_with_a_sentence_and_a_whole_checkpoint(
    small_disk: Path,
) -> None:
    folder = CheckpointFolder(small_disk / "run")
    folder.save(checkpoint(1))  # 4 MB of 24 MiB, and 16 MiB of margin
    (small_disk / "others").write_bytes(bytes(2 << 20))
    with pytest.raises(RunError, match="this checkpoint"):
        folder.save(checkpoint(2))
    assert folder.load(HASH).round == 1


def test_on_a_real_small_disk_a_site_refuses_and_goes_on_when_there_is_room(
    open_real, new_site, private: Study, small_disk: Path, trained: list[str]
) -> None:
    policy = {**BUDGET, "accepted_studies": [private.hash]}
    folder = new_site(policy=policy, site={"state_dir": str(small_disk / "state")})
    site = open_real(private, folder=folder)
    others = small_disk / "others"
    others.write_bytes(bytes(12 << 20))
    assert answer(site, private).status == "disk_full"
    assert trained == []
    others.unlink()
    assert answer(site, private, nonce="again").status == "ok"
