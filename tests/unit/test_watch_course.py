"""Results that are kept up to date while a journal grows."""

import json
from collections.abc import Callable
from math import inf

import pytest

from common.errors import RunError
from server.journal import Event
from server.report.results import results_of
from server.watch.course import Course
from tests.unit.report_journals import (
    GROUPED,
    OWN,
    event_of,
    plain_journal,
    private_journal,
    site_private_journal,
    start_of,
)

JOURNALS: dict[str, Callable[[], list[Event]]] = {
    "plain": plain_journal,
    "with models of their own": lambda: plain_journal(OWN),
    "with subgroups": lambda: plain_journal(GROUPED),
    "audited": lambda: [*plain_journal(), event_of("privacy_audited", verdict="passed")],
    "private": private_journal,
    "private for sites": site_private_journal,
}


def lines_of(journal: list[Event]) -> list[bytes]:
    return [json.dumps(event).encode() for event in journal]


@pytest.mark.parametrize("name", JOURNALS)
def test_results_are_those_of_the_whole_journal_at_every_moment(name: str) -> None:
    journal, course = JOURNALS[name](), Course()
    for number, line in enumerate(lines_of(journal), start=1):
        course.take([line])
        # Looked at now and then, as readers do: what was not looked at must not be lost.
        if number % 3 == 0 or number == len(journal):
            assert course.results() == results_of(journal[:number])


def test_a_round_asked_again_counts_as_last_answered() -> None:
    journal = plain_journal()
    resumed = [start_of(OWN) | {"event": "run_resumed", "round": 1}]
    again = [e for e in journal if e["event"] == "reply" and e["kind"] == "evaluate"][:1]
    again[0] = again[0] | {"metrics": {}}
    course = Course()
    course.take(lines_of(journal))
    course.results()
    course.take(lines_of([*resumed, *again]))
    assert course.results() == results_of([*journal, *resumed, *again])


def test_a_line_that_is_not_an_event_is_passed_over_and_counted() -> None:
    journal, course = plain_journal(), Course()
    damaged = [b"{", b"\xff", b"[]", b"3", b'{"event": "reply", "at": ""}', b"[" * 100_000]
    damaged.append(json.dumps(event_of("aggregated", round=[])).encode())
    damaged.append(json.dumps(event_of("aggregated", round=inf)).encode())
    damaged.append(
        json.dumps(event_of("reply", kind="train", round=1, metrics=[], site="a")).encode()
    )
    course.take([*lines_of(journal), *damaged])
    assert course.num_damaged == len(damaged)
    assert course.results() == results_of(journal)


def test_a_journal_without_a_beginning_has_no_results() -> None:
    course = Course()
    course.take(lines_of([event_of("checkpoint", round=0, seconds=0.1)]))
    assert not course.has_begun
    with pytest.raises(RunError, match="run_started"):
        course.results()
