"""The journal: every event once, in order, whatever kills the server."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import RunError
from server.journal import Event, Journal, read_journal, utc_now

NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def _write(path: Path, *events: str, durable: bool = False) -> None:
    journal = Journal(path, durable=durable, clock=lambda: NOON)
    for event in events:
        journal.write(event)
    journal.close()


def _kinds(path: Path) -> list[str]:
    return [event["event"] for event in read_journal(path)]


def test_the_present_has_a_zone() -> None:
    assert utc_now().tzinfo is UTC


@pytest.mark.parametrize("durable", [True, False])
def test_events_are_read_as_they_were_written(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "run" / "journal.jsonl"
    journal = Journal(path, durable=durable, clock=lambda: NOON)
    journal.write("reply", site="zürich\n", counts={"patients": 12}, metrics={"a": [0.1]})
    journal.close()
    assert list(read_journal(path)) == [
        {
            "at": "2026-03-01T12:00:00.250+00:00",
            "event": "reply",
            "site": "zürich\n",
            "counts": {"patients": 12},
            "metrics": {"a": [0.1]},
        }
    ]


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_no_text_breaks_a_line(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    _write(path, *texts)
    assert _kinds(path) == texts


def test_an_event_is_in_the_file_before_listeners_hear_of_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    heard: list[tuple[Event, list[Event]]] = []
    journal = Journal(path, listeners=[lambda event: heard.append((event, [*read_journal(path)]))])
    journal.write("asked", round=1)
    journal.write("reply", round=1)
    journal.close()
    assert [event["event"] for event, _ in heard] == ["asked", "reply"]
    assert all(written[-1] == event for event, written in heard)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_hold_is_refused_and_leaves_no_torn_line(
    tmp_path: Path, value: float
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, durable=False)
    with pytest.raises(ValueError, match="JSON"):
        journal.write("oracle", auroc=value)
    journal.write("after")
    journal.close()
    assert _kinds(path) == ["after"]


def test_a_journal_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    _write(path, "run_started", "asked")
    _write(path, "run_resumed")
    assert _kinds(path) == ["run_started", "asked", "run_resumed"]


def test_a_kill_at_any_byte_loses_the_torn_event_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    _write(path, "run_started", "asked", "reply")
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        survivors = ["run_started", "asked", "reply"][: whole[:size].count(b"\n")]
        assert _kinds(path) == survivors
        _write(path, "run_resumed")
        assert _kinds(path) == [*survivors, "run_resumed"]


@pytest.mark.parametrize("damage", [b"{", b"", b"\xff\xfe", b"\0\0\0\0", b"not json"])
def test_a_damaged_line_among_others_is_an_error_that_names_it(
    tmp_path: Path, damage: bytes
) -> None:
    path = tmp_path / "journal.jsonl"
    _write(path, "run_started", "asked")
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, damage, second, b""]))
    with pytest.raises(RunError, match="found a damaged line 2 in"):
        list(read_journal(path))


def test_no_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Expected a journal at .*, found none"):
        list(read_journal(tmp_path / "journal.jsonl"))


def test_an_empty_journal_has_no_events(tmp_path: Path) -> None:
    _write(tmp_path / "journal.jsonl")
    assert _kinds(tmp_path / "journal.jsonl") == []


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, durable=False)
    journal.write("oracle", auroc=0.1 + 0.2)
    journal.close()
    assert json.loads(path.read_text())["auroc"] == 0.1 + 0.2
