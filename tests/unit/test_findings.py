"""Findings: one sentence each; errors are raised together, warnings never."""

import pytest

from client.findings import error, raise_errors, warning
from common.errors import DataError


def test_a_finding_says_what_was_expected_found_where_and_what_to_do() -> None:
    finding = error("vitals.csv, column hr", "numbers", "3 cells of text", "Fix the column.")
    sentence = "Expected numbers, found 3 cells of text (vitals.csv, column hr). Fix the column."
    assert finding.sentence() == sentence


def test_all_errors_are_raised_in_one_text_and_warnings_are_not_in_it() -> None:
    findings = [
        error("a.csv", "rows", "none", "Export it."),
        warning("b.csv", "more", "less", "Nothing to do."),
        error("c.csv", "ids", "none", "Add them."),
    ]
    with pytest.raises(DataError) as caught:
        raise_errors(findings)
    assert str(caught.value).splitlines() == [findings[0].sentence(), findings[2].sentence()]


def test_warnings_alone_stop_nothing() -> None:
    raise_errors([warning("b.csv", "more", "less", "Nothing to do.")])
    raise_errors([])
