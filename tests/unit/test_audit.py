"""The audit log: one line an answer, chained, appended, on disk before anything leaves."""

import hashlib
import json
import multiprocessing
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.audit import AuditLog, utc_now
from client.chained_lines import Lines, read_lines
from common.errors import SiteConfigError
from common.signing import Purpose, SigningKey


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_answer_is_one_line_with_its_time(tmp_path: Path) -> None:
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    log = AuditLog(tmp_path / "deep" / "state" / "audit.jsonl", clock=lambda: noon)
    log.append(round=1, status="ok", run_id='two\nlines " and a quote \u2028')
    log.append(round=2, status="internal_error")
    first, second = lines_of(tmp_path / "deep" / "state" / "audit.jsonl")
    assert first["at"] == "2026-01-02T12:00:00.000+00:00"
    assert (first["round"], second["round"]) == (1, 2)
    assert first["run_id"].startswith("two\nlines")


def test_lines_are_added_and_none_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path).append(round=1)
    before = path.read_bytes()
    AuditLog(path).append(round=2)
    assert path.read_bytes().startswith(before)
    assert len(lines_of(path)) == 2


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(OSError):  # noqa: PT011  # which of its classes is the system's business
        AuditLog(tmp_path / "audit.jsonl").append(round=1)


@pytest.mark.parametrize(("durable", "num_syncs"), [(True, 2), (False, 0)])
def test_a_durable_line_is_on_disk_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, num_syncs: int
) -> None:
    path, seen = tmp_path / "audit.jsonl", []

    def synced(descriptor: int) -> None:
        seen.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", synced)
    AuditLog(path, durable=durable).append(round=1)
    # The line, and that the folder holds the file.
    assert len(seen) == num_syncs
    assert all(content.endswith(b"\n") for content in seen)


def test_the_present_time_has_a_zone() -> None:
    assert utc_now().tzinfo is UTC


def test_a_torn_line_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path).append(status="first")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"at":"2026", "st')
    AuditLog(path).append(status="ok")
    assert path.read_bytes().startswith(whole + b'{"at":"2026", "st\n')
    assert json.loads(path.read_bytes().splitlines()[2])["status"] == "ok"


# The chain.


def read(path: Path, key: SigningKey | None = None) -> Lines:
    public_key = None if key is None else key.public_key
    return read_lines(path.read_bytes(), purpose=Purpose.AUDIT_LINE, public_key=public_key)


def test_a_line_worked_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    AuditLog(path, clock=lambda: noon).append(round=1)
    content = f'{{"at":"2026-01-02T12:00:00.000+00:00","previous":"{"0" * 64}","round":1,"seq":0}}'
    digest = hashlib.sha256(b"wardround/audit-line\n" + content.encode()).hexdigest()
    first = f'{content[:-1]},"digest":"{digest}"}}'
    assert path.read_text() == first + "\n"
    AuditLog(path).append(round=2)
    second = json.loads(path.read_text().splitlines()[1])
    assert second["seq"] == 1
    assert second["previous"] == hashlib.sha256(first.encode()).hexdigest()


def test_with_a_key_each_line_is_signed_by_it(tmp_path: Path) -> None:
    key, path = SigningKey.generate(), tmp_path / "audit.jsonl"
    log = AuditLog(path, key=key, durable=False)
    for number in range(3):
        log.append(round=number)
    lines = read(path, key).lines
    assert all(line.is_signed(key.public_key, Purpose.AUDIT_LINE) for line in lines)
    assert not any(line.is_signed(key.public_key, Purpose.ACCEPTANCE) for line in lines)
    assert read(path, SigningKey.generate()).faults


@pytest.mark.parametrize("name", ["seq", "previous", "torn", "digest", "signature"])
def test_a_field_cannot_take_the_place_of_one_of_the_chain(tmp_path: Path, name: str) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    with pytest.raises(ValueError, match="other names"):
        log.append(**{name: 1})


def test_what_has_no_form_in_json_is_not_written_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, durable=False)
    log.append(norm=1.0)
    with pytest.raises(ValueError, match="JSON"):
        log.append(norm=float("inf"))
    log.append(norm=2.0)
    assert [line.fields["norm"] for line in read(path).lines] == [1.0, 2.0]


def test_the_file_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    AuditLog(tmp_path / "audit.jsonl").append(round=1)
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o077 == 0


# Torn ends.


def test_wherever_the_last_line_is_torn_the_log_goes_on_and_tells_of_it(tmp_path: Path) -> None:
    key, path = SigningKey.generate(), tmp_path / "audit.jsonl"
    for number in range(2):
        AuditLog(path, key=key, durable=False).append(round=number, counts={"a": 1}, withheld=[])
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for stop in range(start + 1, len(whole)):
        path.write_bytes(whole[:stop])
        assert read(path, key).torn == whole[start:stop]
        AuditLog(path, key=key, durable=False).append(round=9)
        found = read(path, key)
        # Of a line that lacks its newline alone, nothing is lost.
        rounds, repairs = ([0, 9], 1) if stop < len(whole) - 1 else ([0, 1, 9], 0)
        assert (found.faults, found.torn, found.num_repairs) == ((), b"", repairs)
        assert [line.fields["round"] for line in found.lines] == rounds
        assert path.read_bytes().startswith(whole[:stop] + b"\n")


def test_a_line_torn_while_it_told_of_a_torn_one_is_told_of_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path, durable=False).append(round=0)
    for end in (b'{"at":"20', b'\n{"at":"2026","previous":"'):
        path.write_bytes(path.read_bytes() + end)
    AuditLog(path, durable=False).append(round=1)
    found = read(path)
    assert (found.faults, found.num_repairs) == ((), 1)


def test_the_very_first_line_may_be_torn(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"at":')
    AuditLog(path, durable=False).append(round=0)
    assert (read(path).faults, len(read(path).lines)) == ((), 1)


def test_a_torn_line_that_was_edited_later_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path, durable=False).append(round=0)
    path.write_bytes(path.read_bytes() + b'{"torn')
    AuditLog(path, durable=False).append(round=1)
    content = path.read_bytes()
    for edited in (b'{"toru', b"", b'{"torn"'):
        path.write_bytes(content.replace(b'{"torn\n', edited + b"\n" * bool(edited)))
        assert read(path).faults


def test_a_full_disk_costs_one_answer_and_not_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, durable=False)
    log.append(round=0)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:50]))
        with pytest.raises(OSError, match="part of a line"):
            log.append(round=1)
    log.append(round=2)
    found = read(path)
    assert (found.faults, found.num_repairs) == ((), 1)
    assert [line.fields["round"] for line in found.lines] == [0, 2]


def test_after_a_failed_sync_nothing_more_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append(round=0)

    def failing(descriptor: int) -> None:
        raise OSError("no")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="no"):
            log.append(round=1)
    with pytest.raises(SiteConfigError, match="was lost"):
        log.append(round=2)


# What is not added to.


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.replace(b'"round":2', b'"round":3'),
        lambda c: c[:-1] + b" \n",
        lambda c: c + b"\n",
        lambda c: c + b"{}\n",
        lambda c: b"{}\n" + b'{"whole":1}\n',
    ],
)
def test_a_log_with_a_damaged_last_line_is_not_added_to(tmp_path: Path, edit) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(3):
        AuditLog(path, durable=False).append(round=number)
    path.write_bytes(edit(path.read_bytes()))
    before = path.read_bytes()
    log = AuditLog(path, durable=False)
    for refused in (log.check_end, lambda: log.append(round=3)):
        with pytest.raises(SiteConfigError, match="as this site left it"):
            refused()
    assert path.read_bytes() == before


def test_a_log_that_another_key_or_none_has_signed_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for key in (None, SigningKey.generate()):
        path.unlink(missing_ok=True)
        AuditLog(path, durable=False, key=key).append(round=0)
        with pytest.raises(SiteConfigError, match="has not signed"):
            AuditLog(path, durable=False, key=SigningKey.generate()).append(round=1)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def _replaced(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.write_bytes(path.with_suffix(".old").read_bytes())


def _grown_by_a_forger(path: Path) -> None:
    other = path.with_name("other.jsonl")
    for number in range(9):
        AuditLog(other, durable=False).append(round=number)
    path.write_bytes(path.read_bytes() + other.read_bytes().splitlines(keepends=True)[8])


def _rewritten_and_grown(path: Path) -> None:
    other = path.with_name("other.jsonl")
    for number in range(9):
        AuditLog(other, durable=False).append(round=100 + number)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("change", [_cut, _replaced, _grown_by_a_forger, _rewritten_and_grown])
def test_a_log_that_was_changed_while_in_use_is_not_added_to(tmp_path: Path, change) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, durable=False)
    for number in range(3):
        log.append(round=number)
    change(path)
    before = path.read_bytes()
    with pytest.raises(SiteConfigError, match="as this site left it"):
        log.append(round=3)
    assert path.read_bytes() == before


def test_checking_the_end_of_a_log_that_is_not_there_makes_none(tmp_path: Path) -> None:
    AuditLog(tmp_path / "audit.jsonl").check_end()
    assert not (tmp_path / "audit.jsonl").exists()


def test_a_last_line_of_any_length_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number, length in enumerate((10, 65_300, 65_536, 700_000)):
        AuditLog(path, durable=False).append(round=number, statistics=["x" * length])
        AuditLog(path, durable=False).append(round=number)
    found = read(path)
    assert (found.faults, len(found.lines)) == ((), 8)


# Several writers.


def test_two_logs_of_one_file_make_one_chain(tmp_path: Path) -> None:
    key, path = SigningKey.generate(), tmp_path / "audit.jsonl"
    one, other = (AuditLog(path, durable=False, key=key) for _ in range(2))
    for number, log in enumerate([one, other, other, one, one, other]):
        log.append(round=number, pair=(1, 2))
    found = read(path, key)
    assert found.faults == ()
    assert [line.fields["round"] for line in found.lines] == list(range(6))


def _append_many(path: Path, key_path: Path, name: str, barrier) -> None:
    log = AuditLog(path, durable=False, key=SigningKey.load(key_path))
    barrier.wait(timeout=30)
    for number in range(100):
        log.append(name=name, round=number)


def test_two_processes_at_once_make_one_chain_with_every_line(tmp_path: Path) -> None:
    path, key_path = tmp_path / "audit.jsonl", tmp_path / "site.pem"
    key, context = SigningKey.create(key_path), multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    writers = [
        context.Process(target=_append_many, args=(path, key_path, name, barrier)) for name in "ab"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = read(path, key)
    assert (found.faults, len(found.lines)) == ((), 200)
    for name in "ab":
        rounds = [x.fields["round"] for x in found.lines if x.fields["name"] == name]
        assert rounds == list(range(100))
