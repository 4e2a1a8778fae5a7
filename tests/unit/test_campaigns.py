"""The record of full campaigns: what a test tells is written, and the page is made of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from tests.campaigns import (
    PAGE,
    RECORD,
    Campaign,
    Result,
    is_there,
    merged,
    page,
    read,
    result_of,
    write,
)

RESULT = Result(
    test="tests/a.py::test_b[one]",
    num=2000,
    what="mutants",
    seed=1,
    found={"refused": 1999, "longest_s": 0.25},
    has_held=True,
    took_s=90.0,
    commit="0123456",
    day="2026-11-21",
)


def report_of(outcome: str, tell: Callable[[Campaign], None]) -> pytest.TestReport:
    told: list[tuple[str, object]] = []
    tell(Campaign(lambda name, value: told.append((name, value))))
    return pytest.TestReport(
        nodeid=RESULT.test,
        location=("", 0, ""),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=None,
        when="call",
        duration=90.04,
        user_properties=told,
    )


def result(outcome: str, tell: Callable[[Campaign], None]) -> Result | None:
    return result_of(report_of(outcome, tell), commit="0123456", day=date(2026, 11, 21))


def test_the_page_is_made_of_the_record() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read(RECORD)), "say `python -m tests.campaigns`"


def test_the_record_tells_of_tests_that_are_there() -> None:
    functions = {one.function for one in read(RECORD)}
    assert functions
    assert [function for function in functions if not is_there(function)] == []


def test_what_a_test_has_tried_and_found_is_its_result() -> None:
    def tell(campaign: Campaign) -> None:
        campaign.tries(2000, "mutants", seed=1)
        campaign.found({"refused": 1999, "longest_s": 0.25})

    assert result("passed", tell) == RESULT


def test_a_campaign_that_fails_is_in_the_record_too() -> None:
    failed = result("failed", lambda campaign: campaign.tries(2000, "mutants", seed=1))
    assert failed == replace(RESULT, found={}, has_held=False)
    told = page([failed])
    assert "| **no: 1 of 1 cases** |" in told
    assert "- one: mutants: 2,000, seed 1; **failed**" in told


def test_a_test_that_is_no_campaign_has_no_result() -> None:
    assert result("passed", lambda campaign: None) is None


def test_a_later_run_takes_the_place_of_an_earlier_one_and_leaves_the_others(
    tmp_path: Path,
) -> None:
    other = replace(RESULT, test="tests/a.py::test_a", commit="old")
    again = replace(RESULT, day="2026-12-01", num=3000)
    write(merged([RESULT, other], [again]), tmp_path / "record")
    assert read(tmp_path / "record") == [other, again]


def test_cases_of_one_test_are_one_line_that_tells_the_oldest_day() -> None:
    later = replace(RESULT, test="tests/a.py::test_b[two]", day="2026-12-01", commit="abcdef0")
    lines = page([RESULT, later]).splitlines()
    line = "| `test_b` | mutants: 4,000 | yes | 2026-11-21 to 2026-12-01 | 0123456, abcdef0 | 3.0 |"
    assert line in lines
    assert "- two: mutants: 2,000, seed 1; refused 1,999; longest_s 0.25" in lines
