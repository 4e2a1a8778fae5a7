"""What was taken: a task is answered once, and a nonce is on the disk before its answer."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from client import trust
from client.config import load_site_config
from client.trust import Joined, Taken
from common.errors import Refusal, RefusalCode
from common.messages import Task, TaskKind
from tests.unit.consortium import join, signed


def code_of(taken: Taken, nonce: str, run_id: str = "run") -> RefusalCode | None:
    try:
        taken.take(run_id, nonce)
    except Refusal as refusal:
        return refusal.refusal_code
    return None


@pytest.fixture
def taken(tmp_path: Path) -> Taken:
    return Taken(tmp_path / "state" / "tasks", most=5)


def file_of(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tasks" / "run.nonces"


def test_the_newest_nonce_is_taken_again_and_no_older_one(taken: Taken, tmp_path: Path) -> None:
    told = [code_of(taken, nonce) for nonce in ("a", "a", "b", "b", "a", "b", "c", "b")]
    replayed = RefusalCode.TASK_REPLAYED
    assert told == [None, None, None, None, replayed, None, None, replayed]
    assert file_of(tmp_path).read_bytes() == b"a\nb\nc\n"


@pytest.mark.threat("S1-5", "N-1")
def test_the_newest_nonce_comes_again_within_a_day_and_not_later(tmp_path: Path) -> None:
    day_s = 24 * 3600
    taken_at = [0.0, day_s - 60, day_s + 60]
    told = []
    for age_s in taken_at:
        folder = tmp_path / "state" / "tasks"
        told.append(code_of(Taken(folder, most=5, clock=lambda age=age_s: time.time() + age), "a"))
    assert told == [None, None, RefusalCode.TASK_REPLAYED]
    assert code_of(Taken(folder, most=5), "b") is None  # a new one is welcome at any time


def test_runs_do_not_know_of_one_another(taken: Taken) -> None:
    assert [code_of(taken, n, run) for n, run in (("a", "r"), ("b", "r"), ("a", "s"))] == [None] * 3


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_torn_line_was_never_taken_and_harms_no_other(
    taken: Taken, tmp_path: Path, cut: int
) -> None:
    for nonce in ("aaa", "bbb"):
        taken.take("run", nonce)
    path = file_of(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    assert code_of(taken, "aaa") is None  # it is the newest again
    assert code_of(taken, "bbb") is None
    assert path.read_bytes() == b"aaa\nbbb\n"
    assert code_of(taken, "aaa") is RefusalCode.TASK_REPLAYED


def test_a_file_of_a_torn_line_alone_is_as_good_as_none(taken: Taken, tmp_path: Path) -> None:
    taken.take("run", "aaa")
    file_of(tmp_path).write_bytes(b"a")
    assert code_of(taken, "bbb") is None
    assert file_of(tmp_path).read_bytes() == b"bbb\n"


@pytest.mark.threat("S1-5", "N-3")
def test_a_run_cannot_fill_the_disk(taken: Taken, tmp_path: Path) -> None:
    told = [code_of(taken, f"n{i}") for i in range(8)]
    assert told == [None] * 5 + [RefusalCode.ROUND_LIMIT] * 3
    assert code_of(taken, "n4") is None
    assert len(file_of(tmp_path).read_bytes().splitlines()) == 5


def test_a_site_takes_enough_tasks_for_its_last_round(new_site) -> None:
    folder = new_site(policy={"max_rounds": 3})
    join(folder)
    site = Joined.of(load_site_config(folder))
    for i in range(16):
        site.check(signed(_bare(nonce=f"n{i}")))
    with pytest.raises(Refusal) as refusal:
        site.check(signed(_bare(nonce="more")))
    assert refusal.value.refusal_code is RefusalCode.ROUND_LIMIT


@pytest.mark.threat("S1-4")
@pytest.mark.parametrize("word", ["", "../run", "a/b", "a" * 65, "a\n", "a\nb", "ä", ".", "\x00"])
@pytest.mark.parametrize("field", ["run_id", "nonce"])
def test_a_run_or_a_nonce_that_is_no_word_names_no_file(
    new_site, field: str, word: str, tmp_path: Path
) -> None:
    folder = new_site()
    join(folder)
    site = Joined.of(load_site_config(folder))
    with pytest.raises(Refusal) as refusal:
        site.check(signed(_bare(**{field: word})))
    assert refusal.value.refusal_code is RefusalCode.MESSAGE_MALFORMED
    assert not (load_site_config(folder).state_dir / "tasks").exists()


def test_what_was_taken_can_be_read_by_its_owner_alone(taken: Taken, tmp_path: Path) -> None:
    taken.take("run", "a")
    file = file_of(tmp_path)
    assert [path.stat().st_mode & 0o777 for path in (file, file.parent)] == [0o600, 0o700]


def test_a_folder_that_was_not_on_the_disk_is_waited_for_when_the_task_comes_again(
    taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who took it was killed in between: a power cut after the answer would lose the file."""
    synced: list[Path] = []

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trust, "sync_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        taken.take("run", "a")
    monkeypatch.setattr(trust, "sync_folder", synced.append)
    taken.take("run", "a")
    assert [folder.name for folder in synced] == ["tasks", "state"]


def test_nothing_is_taken_before_the_disk_has_it(
    taken: Taken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []

    def fsync(descriptor: int) -> None:
        synced.append(file_of(tmp_path).read_bytes())

    monkeypatch.setattr(trust.os, "fsync", fsync)
    taken.take("run", "a")
    taken.take("run", "b")
    taken.take("run", "b")  # whoever wrote it may have died before the disk had it
    assert [content for content in synced if content] == [b"a\n"] * 3 + [b"a\nb\n"] * 4


def _bare(**fields: Any) -> Task:
    honest = {"run_id": "run", "round": 0, "nonce": "n", "study_hash": "0" * 64, "code": "c"}
    return Task(kind=TaskKind.ENROL, **(honest | fields))
