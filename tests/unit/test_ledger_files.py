"""The files of a ledger: on disk in time, one writer, and no older copy passes for the newest."""

import hashlib
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.ledger.entries import ledger_path, sealed_folder
from client.ledger.verification import countersigned_path, verify
from common.errors import Refusal, RefusalCode, SiteConfigError
from common.signing import SigningKey
from tests.unit.ledger_cases import (
    DATASET,
    countersigned,
    do_round,
    entries_of,
    open_ledger,
    request_of,
    reserve,
    ticking,
    training,
)


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def kinds(state: Path) -> list[str]:
    return [entry["kind"] for entry in entries_of(ledger_path(state, DATASET))]


def test_a_data_set_that_changed_while_the_site_was_closed_is_noticed(
    state: Path, key: SigningKey
) -> None:
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(1))
    with open_ledger(state, key) as ledger:
        ledger.reserve(request_of(2), training(), fingerprint="00" * 32, source_kind="secure")
    assert kinds(state)[-2:] == ["data_changed", "reserved"]


def test_a_ledger_that_is_read_in_several_pieces_is_whole(
    state: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1))
    before = ledger_path(state, DATASET).read_bytes()
    real = os.pread  # which gives 2 GiB at most in one call
    monkeypatch.setattr(os, "pread", lambda file, size, start: real(file, min(size, 100), start))
    with open_ledger(state, key) as ledger:
        assert len(ledger.charges()) == 1
    assert ledger_path(state, DATASET).read_bytes() == before


def test_a_ledger_that_is_not_durable_is_of_a_simulation(state: Path, key: SigningKey) -> None:
    with pytest.raises(ValueError, match="durable"):
        open_ledger(state, key, simulation=False)
    open_ledger(state, key, simulation=False, durable=True).close()


def test_each_step_is_on_disk_before_the_next_one_begins(
    state: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: points.append(_name_of(descriptor)))
    with open_ledger(state, key, durable=True, at=points.append) as ledger:
        points.clear()
        do_round(ledger, request_of(1))
        ledger.accept(countersigned(ledger, SigningKey.generate()))
    book = ledger_path(state, DATASET).name
    written = [f"{step} {{}}" for step in ("before", "wrote")]
    expected = []
    for kind in ("reserved", "sealed", "sent", "acknowledged"):
        if kind == "sealed":
            folder = sealed_folder(state, DATASET)
            (sealed,) = folder.iterdir()
            expected += ["before sealed file", f".{sealed.name}.partial", folder.name]
        expected += [*(step.format(kind) for step in written), book, f"after {kind}"]
    head = countersigned_path(state, DATASET).name
    assert points == [*expected, f".{head}.partial", "ledger"]


def _name_of(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


def test_a_ledger_that_is_not_durable_never_waits_for_the_disk(
    state: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise AssertionError("synced")

    monkeypatch.setattr(os, "fsync", fail)
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1))
        ledger.accept(countersigned(ledger, SigningKey.generate()))


def test_a_full_disk_is_the_end_until_the_ledger_is_opened_again(
    state: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1))
        write = os.pwrite
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda fd, line, at: write(fd, line[:40], at))
            with pytest.raises(OSError, match="part of a line"):
                reserve(ledger, request_of(2))
        with pytest.raises(SiteConfigError, match="Start the site again"):
            reserve(ledger, request_of(2))
        assert ledger.charges() == training()
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(2))
    assert kinds(state)[-2:] == ["repaired", "reserved"]


@pytest.mark.parametrize("change", ["replaced", "appended", "cut", "deleted"])
def test_a_ledger_that_someone_else_changed_while_it_was_open_is_not_appended_to(
    state: Path, key: SigningKey, change: str
) -> None:
    path = ledger_path(state, DATASET)
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(1))
        content = path.read_bytes()
        if change in ("replaced", "deleted"):
            path.unlink()
        if change != "deleted":
            other = {"replaced": content, "appended": content + b"x", "cut": content[:-9]}[change]
            path.write_bytes(other)
        with pytest.raises(SiteConfigError, match="Start the site again"):
            reserve(ledger, request_of(2))


@pytest.mark.parametrize("num_kept", [1, 40, -40, -1])
def test_a_torn_last_line_is_removed_and_this_is_written_down(
    state: Path, key: SigningKey, num_kept: int
) -> None:
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(1))
        reserve(ledger, request_of(2))
    path = ledger_path(state, DATASET)
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[:num_kept])
    assert "torn" in verify(state, dataset_id=DATASET)[0]
    with open_ledger(state, key) as ledger:
        assert len(ledger.charges()) == 1
        reserve(ledger, request_of(2))
    fields = [entry["fields"] for entry in entries_of(path)][-2]
    assert kinds(state) == ["opened", "reserved", "repaired", "reserved"]
    assert fields["dropped_bytes"] == len(last[:num_kept])
    assert fields["dropped_sha256"] == hashlib.sha256(last[:num_kept]).hexdigest()
    assert verify(state, dataset_id=DATASET) == ()


def test_a_power_cut_in_the_first_line_leaves_a_ledger_that_opens(
    state: Path, key: SigningKey
) -> None:
    open_ledger(state, key).close()
    path = ledger_path(state, DATASET)
    path.write_bytes(path.read_bytes()[:50])
    open_ledger(state, key).close()
    assert kinds(state) == ["opened", "repaired"]
    path.write_bytes(b"")
    open_ledger(state, key).close()
    assert kinds(state) == ["opened"]


def test_a_torn_line_that_was_countersigned_is_not_removed(state: Path, key: SigningKey) -> None:
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1))
        ledger.accept(countersigned(ledger, SigningKey.generate()))
    path = ledger_path(state, DATASET)
    *whole, sent, _acknowledged = path.read_bytes().splitlines(keepends=True)
    cut = b"".join(whole) + sent[:-1]
    path.write_bytes(cut)
    with pytest.raises(SiteConfigError, match="entry 3, which both sides signed, is not in"):
        open_ledger(state, key)
    assert path.read_bytes() == cut
    path.write_bytes(b"")
    with pytest.raises(SiteConfigError, match="entry 3, which both sides signed, is not in"):
        open_ledger(state, key)


def test_an_older_copy_beside_newer_sealed_answers_does_not_open(
    state: Path, key: SigningKey
) -> None:
    path = ledger_path(state, DATASET)
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1))
        older = path.read_bytes()
        do_round(ledger, request_of(2))
    path.write_bytes(older)
    assert "under no reservation" in verify(state, dataset_id=DATASET)[0]
    with pytest.raises(SiteConfigError, match="under no reservation"):
        open_ledger(state, key)


@pytest.mark.threat("I-2")
def test_an_older_copy_refuses_the_head_that_both_sides_signed(
    state: Path, key: SigningKey
) -> None:
    path, coordinator = ledger_path(state, DATASET), SigningKey.generate()
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(1))
        older = path.read_bytes()
        reserve(ledger, request_of(2))
        head = countersigned(ledger, coordinator)
    path.write_bytes(older)
    for _ in range(2):  # a ledger that grew again is still another
        with open_ledger(state, key) as ledger:
            with pytest.raises(Refusal) as refused:
                ledger.accept(head)
            assert refused.value.refusal_code is RefusalCode.LEDGER_BEHIND
            reserve(ledger, request_of(2, arrays="others"))
            reserve(ledger, request_of(3))


@pytest.mark.threat("I-2")
def test_a_new_ledger_refuses_the_head_of_a_deleted_one(state: Path, key: SigningKey) -> None:
    with open_ledger(state, key, clock=ticking()) as ledger:
        reserve(ledger, request_of(1))
        head = countersigned(ledger, SigningKey.generate())
    ledger_path(state, DATASET).unlink()
    with open_ledger(state, key) as ledger, pytest.raises(Refusal) as refused:
        ledger.accept(head)
    assert refused.value.refusal_code is RefusalCode.LEDGER_BEHIND


def test_a_head_with_a_false_signature_is_refused(state: Path, key: SigningKey) -> None:
    coordinator = SigningKey.generate()
    with open_ledger(state, key) as ledger:
        head = countersigned(ledger, coordinator)
        for false in (
            replace(head, site_signature="00" * 64),
            replace(head, signature="00" * 64),
            replace(head, key=key.public_key),
            replace(head, seq=1),
        ):
            with pytest.raises(Refusal) as refused:
                ledger.accept(false)
            assert refused.value.refusal_code is RefusalCode.MESSAGE_MALFORMED
        with pytest.raises(Refusal):
            ledger.accept(head, coordinator_key=SigningKey.generate().public_key)
        assert kinds(state) == ["opened"]
        ledger.accept(head, coordinator_key=coordinator.public_key)


def test_a_head_is_acknowledged_once_and_both_signatures_are_kept(
    state: Path, key: SigningKey
) -> None:
    coordinator = SigningKey.generate()
    with open_ledger(state, key) as ledger:
        head = countersigned(ledger, coordinator)
        ledger.accept(head)
        reserve(ledger, request_of(1))
        later = countersigned(ledger, coordinator)
        ledger.accept(later)
    with open_ledger(state, key) as ledger:
        ledger.accept(head)
    assert kinds(state) == ["opened", "acknowledged", "reserved", "acknowledged"]
    fields = [entry["fields"] for entry in entries_of(ledger_path(state, DATASET))]
    assert fields[1]["head"]["site_signature"] == head.site_signature
    assert fields[1]["head"]["signature"] == head.signature
    assert json.loads(countersigned_path(state, DATASET).read_bytes())["seq"] == later.seq


def test_a_kept_head_that_cannot_be_read_stops_the_site(state: Path, key: SigningKey) -> None:
    with open_ledger(state, key) as ledger:
        ledger.accept(countersigned(ledger, SigningKey.generate()))
    countersigned_path(state, DATASET).write_bytes(b'{"seq": 1')
    with pytest.raises(SiteConfigError, match="last countersigned head"):
        open_ledger(state, key)
    assert "last countersigned head" in verify(state, dataset_id=DATASET)[0]


def _open_elsewhere(state: Path, key: SigningKey, answers: Any) -> None:
    try:
        open_ledger(state, key).close()
        answers.send("opened")
    except SiteConfigError as fault:
        answers.send(str(fault))


def _opened_by_another_process(state: Path, key: SigningKey) -> str:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_open_elsewhere, args=(state, key, there))
    process.start()
    answer = str(here.recv())
    process.join()
    return answer


def test_a_second_process_is_told_at_once_that_the_ledger_is_open(
    state: Path, key: SigningKey
) -> None:
    with open_ledger(state, key):
        before = ledger_path(state, DATASET).read_bytes()
        assert "no other process has open" in _opened_by_another_process(state, key)
        with pytest.raises(SiteConfigError, match="no other process has open"):
            open_ledger(state, key)
        assert ledger_path(state, DATASET).read_bytes() == before
    assert _opened_by_another_process(state, key) == "opened"


def test_a_closed_ledger_is_closed_twice_and_not_written(state: Path, key: SigningKey) -> None:
    ledger = open_ledger(state, key)
    ledger.close()
    ledger.close()
    with pytest.raises(SiteConfigError):
        reserve(ledger, request_of(1))


def test_a_ledger_that_cannot_be_opened_gives_its_lock_back(state: Path, key: SigningKey) -> None:
    open_ledger(state, key).close()
    for _ in range(2):
        with pytest.raises(SiteConfigError, match="cohort_size"):
            open_ledger(state, key, cohort_size=1)
    open_ledger(state, key).close()


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / "ledger").write_text("a file in the place of the folder")
    with pytest.raises(SiteConfigError, match=r"Check site\.state_dir"):
        open_ledger(tmp_path, key)


def test_the_books_are_readable_by_their_owner_alone(state: Path, key: SigningKey) -> None:
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1))
        ledger.accept(countersigned(ledger, SigningKey.generate()))
    (sealed,) = sealed_folder(state, DATASET).iterdir()
    for path in (ledger_path(state, DATASET), sealed, countersigned_path(state, DATASET)):
        assert path.stat().st_mode & 0o077 == 0


def _killed(point: str) -> Any:
    """A hook that stops at a point; what comes after does not happen."""

    def at(here: str) -> None:
        if here == point:
            raise KeyboardInterrupt

    return at


@pytest.mark.parametrize("point", ["before repaired", "wrote repaired", "after repaired"])
@pytest.mark.parametrize("num_torn", [3, 5000])
def test_a_repair_that_is_killed_is_written_down_all_the_same(
    state: Path, key: SigningKey, point: str, num_torn: int
) -> None:
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(1))
    path = ledger_path(state, DATASET)
    path.write_bytes(path.read_bytes() + b"x" * num_torn)
    with pytest.raises(KeyboardInterrupt):
        open_ledger(state, key, at=_killed(point))
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(2))
        assert len(ledger.charges()) == 2
    dropped = [e["fields"].get("dropped_bytes", 0) for e in entries_of(path)]
    assert kinds(state).count("repaired") in (1, 2)
    assert max(dropped) == num_torn
    assert verify(state, dataset_id=DATASET) == ()


def test_a_sealed_answer_without_its_entry_is_never_sent(state: Path, key: SigningKey) -> None:
    ledger = open_ledger(state, key, at=_killed("before sealed"))
    reserve(ledger, request_of(1))
    with pytest.raises(KeyboardInterrupt):
        ledger.seal(request_of(1), b"first")
    ledger.close()
    assert len(list(sealed_folder(state, DATASET).iterdir())) == 1
    with open_ledger(state, key) as ledger:
        assert list(sealed_folder(state, DATASET).iterdir()) == []
        assert do_round(ledger, request_of(1), b"second") == b"second"
        assert len(ledger.charges()) == 2
