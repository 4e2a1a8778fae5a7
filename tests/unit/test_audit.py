"""The audit log: one line an answer, appended, on disk before anything leaves."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.audit import AuditLog, utc_now


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
    path.write_text('{"whole": 1}\n{"torn')
    AuditLog(path).append(status="ok")
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"whole": 1}', '{"torn']
    assert json.loads(lines[2])["status"] == "ok"
