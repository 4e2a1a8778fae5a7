"""A round that some hospitals have answered and others not is in no figure of any report."""

import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from rich.console import Console

from common.page.document import Figures
from server.journal import Event
from server.progress import results_tables
from server.report.html.facts import facts_of
from server.report.markdown import report_of
from server.report.privacy import released
from server.report.results import results_of
from server.report.rounds import whole_rounds
from server.watch.course import Course
from server.watch.sections import sections_of, sentence_of
from server.watch.states import state_of
from tests.unit.report_journals import (
    GROUPED,
    OWN,
    event_of,
    page_of,
    plain_journal,
    private_journal,
)

FAILED = event_of("run_failed", reason="cohort")


def cut(journal: list[Event], round_number: int, num_answers: int) -> list[Event]:
    """The journal up to so many answers of a round."""
    places = [
        n
        for n, e in enumerate(journal)
        if e["event"] == "reply" and e["kind"] != "query" and e["round"] == round_number
    ]
    return journal[: places[num_answers - 1] + 1]


def without_answers(journal: list[Event], round_number: int) -> list[Event]:
    """The journal as if nobody had answered that round."""
    return [
        e
        for e in journal
        if not (e["event"] == "reply" and e["kind"] != "query" and e["round"] == round_number)
    ]


def text_of(markup: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", markup)))


def live_of(journal: list[Event]) -> tuple[str, list[Any]]:
    """What the live page says: its sentence, and the sections that do not tell of the exchange."""
    results, state = results_of(journal), state_of(journal)
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    sections = sections_of(results, state, journal, now=now)
    return sentence_of(results, state), sections[1:]


@pytest.mark.parametrize("end", [[], [FAILED]])
@pytest.mark.parametrize("make", [plain_journal, lambda: plain_journal(OWN)])
@pytest.mark.parametrize("round_number", [1, 2])
def test_figures_are_those_of_the_last_round_that_everybody_had_answered(
    make: Callable[[], list[Event]], round_number: int, end: list[Event]
) -> None:
    journal = [*cut(make(), round_number, 2), *end]
    nobody = without_answers(journal, round_number)
    cut_short, before = results_of(journal), results_of(nobody)
    assert cut_short["unfinished_round"] == {"round": round_number, "answered": ["north", "south"]}
    assert before["unfinished_round"] is None
    assert cut_short["rounds"] == before["rounds"]
    assert cut_short["rounds"][-1]["round"] == round_number - 1
    for part in ("totals", "by_site", "groups"):
        found, expected = (getattr(facts_of(e), part) for e in (journal, nobody))
        assert found.keys() == expected.keys()
    said = (
        f"The exchange after round {round_number} is not complete: 2 of 3 hospitals have answered, "
        "and what they tell of the model is left out."
    )
    assert said in report_of(cut_short)
    assert said in text_of(page_of(journal))
    for text in (report_of(cut_short), text_of(page_of(journal)), live_of(journal)[0]):
        assert re.search(rf"fter round {round_number}\b(?! is not)", text) is None
    assert [s.key for s in live_of(journal)[1]] == [s.key for s in live_of(nobody)[1]]


def test_groups_and_attributions_of_an_evaluation_that_is_not_complete_are_not_told() -> None:
    results = results_of(cut(plain_journal(GROUPED), 2, 2))
    assert results["subgroups"] == {"round": None, "groups": []}
    assert results["attributions"] == {"round": None, "outcomes": {}}
    assert "Observed and predicted" not in page_of(cut(plain_journal(GROUPED), 0, 2))


def test_a_run_that_ended_within_its_first_round_says_that_nothing_is_known() -> None:
    journal = cut(plain_journal(), 0, 1)
    assert "No round is complete yet." in report_of(results_of(journal))
    text = text_of(page_of(journal))
    assert "No round is complete, so nothing is known of how well the model does." in text
    assert "1 of 3 hospitals have answered" in text
    assert list(results_tables(results_of(journal))) == []


def test_rounds_are_counted_by_what_was_aggregated() -> None:
    assert "was trained across 3 hospitals in 1 round of" in text_of(
        page_of(cut(plain_journal(), 1, 2))
    )


def test_a_round_that_was_aggregated_is_whole_whoever_was_absent() -> None:
    journal = [e for e in plain_journal() if (e.get("site"), e.get("round")) != ("west", 1)]
    assert whole_rounds(journal) == {0, 1, 2}


def test_any_other_round_is_whole_once_every_enrolled_hospital_has_answered() -> None:
    journal = plain_journal()
    assert whole_rounds(cut(journal, 1, 2)) == {0}
    assert whole_rounds(cut(journal, 1, 3)) == {0, 1}


def test_pooled_figures_name_the_hospitals_that_they_are_of_where_those_are_not_all() -> None:
    def is_west(event: Event) -> bool:
        return event["event"] == "reply" and (event["site"], event["round"]) == ("west", 2)

    journal = [e for e in plain_journal() if not is_west(e)]
    results = results_of(journal)
    assert "| **2 of 3 hospitals, pooled** |" in report_of(results)
    text = text_of(page_of(journal))
    assert "held-out patients of 2 of 3 hospitals together, after round 2." in text
    assert "all hospitals together, after" not in text
    out = io.StringIO()
    for table in results_tables(results):
        Console(file=out, width=120).print(table)
    assert "2 of 3 hospitals, pooled" in out.getvalue()
    now = sections_of(results, state_of(journal), journal, now=datetime(2026, 3, 1, tzinfo=UTC))[0]
    (figures,) = [block for block in now.blocks if isinstance(block, Figures)]
    assert "2 of 3 hospitals, pooled, round 2" in [figure.more for figure in figures.figures]


def test_where_all_sent_figures_they_are_said_to_be_of_all() -> None:
    assert "| **all, pooled** |" in report_of(results_of(plain_journal()))
    assert "held-out patients of all hospitals together" in text_of(page_of(plain_journal()))


def test_a_private_run_says_what_some_have_released_though_no_figure_is_made_of_it() -> None:
    journal = cut(private_journal(), 2, 2)
    results = results_of(journal)
    assert "There is no complete evaluation yet." in report_of(results)
    assert "There is no complete evaluation yet." in text_of(page_of(journal))
    assert "by some, one evaluation on held-out patients, as noised sums" in released(results)
    assert results["privacy"]["sites"]["north"]["epsilon"] == 2.5
    first = results_of(cut(private_journal(), 0, 1))
    assert released(first).startswith("in each round one noised update")


def test_what_was_answered_of_models_that_were_given_up_is_in_no_figure() -> None:
    journal = plain_journal()
    resumed = journal[0] | {"event": "run_resumed", "round": 0}
    again = [resumed, *cut(journal, 1, 1)[1:]]
    results = results_of([*journal[:-1], *again])
    assert [entry["round"] for entry in results["rounds"]] == [0]
    assert results["unfinished_round"] == {"round": 1, "answered": ["north"]}
    course = Course()
    course.take([json.dumps(event).encode() for event in [*journal[:-1], *again]])
    assert course.results() == results
    # Nor once others have answered what is made anew, of whoever is absent then.
    without_west = [e for e in journal if (e.get("site"), e.get("round")) != ("west", 1)]
    results = results_of([*journal[:-1], resumed, *without_west[1:]])
    assert sorted(results["rounds"][1]["sites"]) == ["north", "south"]
