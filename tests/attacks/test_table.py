"""The page of threats is what the rows, the docstrings and the marks say now."""

from collections.abc import Mapping

import pytest

from tests.attacks.rows import ROWS
from tests.attacks.table import PAGE, attacks, defences, functions, page

# What is not built can be neither defended nor attacked; the page says so.
NOT_BUILT = {"S1-6"}

ByRow = Mapping[str, list[str]]


@pytest.fixture(scope="module")
def defined() -> Mapping[str, object]:
    return functions()


@pytest.fixture(scope="module")
def by_defence(defined) -> ByRow:
    return defences(defined)


@pytest.fixture(scope="module")
def by_test() -> ByRow:
    return attacks()


def test_the_page_is_what_is_made_of_the_marks_now(by_defence: ByRow, by_test: ByRow) -> None:
    made = page(by_defence, by_test)
    assert PAGE.read_text(encoding="utf-8") == made, "say `python -m tests.attacks.table`"


def test_every_row_has_a_test_and_a_defence_or_says_that_it_is_not_built(
    by_defence: ByRow, by_test: ByRow
) -> None:
    rows = {row.row for row in ROWS}
    assert set(by_test) == set(by_defence) - NOT_BUILT == rows - NOT_BUILT
    assert all(row.missing for row in ROWS if row.row in NOT_BUILT)


def test_every_defence_that_is_named_is_there(
    by_defence: ByRow, defined: Mapping[str, object]
) -> None:
    named = {name for names in by_defence.values() for name in names}
    assert named <= set(defined), named - set(defined)
