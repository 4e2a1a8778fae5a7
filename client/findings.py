"""Findings: what is wrong with a site's data, by file and column, in counts and never in values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing, about one file.

    Attributes:
        severity: an "error" stops the site; a "warning" does not.
        where: file, and column where there is one.
    """

    severity: Literal["error", "warning"]
    where: str
    expected: str
    found: str
    action: str

    def sentence(self) -> str:
        """The finding as `Expected …, found … (where). Action.`."""
        return f"Expected {self.expected}, found {self.found} ({self.where}). {self.action}"


def error(where: str, expected: str, found: str, action: str) -> Finding:
    """A finding that stops the site."""
    return Finding(severity="error", where=where, expected=expected, found=found, action=action)


def warning(where: str, expected: str, found: str, action: str) -> Finding:
    """A finding that is shown and does not stop the site."""
    return Finding(severity="warning", where=where, expected=expected, found=found, action=action)


def raise_errors(findings: Sequence[Finding]) -> None:
    """Nothing, unless there are errors among the findings.

    Raises:
        DataError: with the sentence of every error.
    """
    sentences = [f.sentence() for f in findings if f.severity == "error"]
    if sentences:
        raise DataError("\n".join(sentences))
