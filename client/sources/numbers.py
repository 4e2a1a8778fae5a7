"""Cells of text as numbers of one feature, with what was unusable among them counted.

Counts can be added, so that a table read in chunks is judged as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from common.features import NumericFeature

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NumberCounts:
    """How many cells were what.

    Attributes:
        num_answered: cells that hold a value: not missing, and not a missing code.
        num_outside: of those, finite and outside of the plausible range.
        num_infinite: infinite.
        num_text: no number at all.
    """

    num_answered: int = 0
    num_outside: int = 0
    num_infinite: int = 0
    num_text: int = 0

    def __add__(self, other: "NumberCounts") -> "NumberCounts":
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return NumberCounts(**sums)


def floats_of(cells: "pd.Series[Any]") -> tuple[Floats, int]:
    """The cells as float64, NaN where missing or text, and the number of cells of text."""
    parsed = pd.to_numeric(cells, errors="coerce").astype("float64")
    values: Floats = np.array(parsed.to_numpy(dtype=np.float64, na_value=np.nan))
    return values, int((np.isnan(values) & cells.notna().to_numpy()).sum())


def categories_of(cells: "pd.Series[Any]", names: Sequence[str]) -> NDArray[np.int64]:
    """The place of each cell among the names, -1 where it is missing or none of them.

    A whole number becomes "3.0" in any table that once held a missing cell, and is read as "3"; a
    name of that very spelling comes first.
    """
    place_of = {f"{name}.0": place for place, name in enumerate(names)}
    place_of |= {name: place for place, name in enumerate(names)}
    places: pd.Series[Any] = cells.map(place_of)
    return np.asarray(places.fillna(-1), dtype=np.int64)


def numbers_of(cells: "pd.Series[Any]", feature: NumericFeature) -> tuple[Floats, NumberCounts]:
    """The values in the feature's unit, and the counts.

    Guarantees:
        - Values are clipped to the feature's range, and NaN where missing or unusable.
        - An infinite value is NaN, or the end of the range on its side where the feature says so.
    """
    values, num_text = floats_of(cells)
    is_infinite = np.isinf(values)
    unusable = np.isin(values, feature.missing_codes)
    if feature.infinite == "error":
        unusable |= is_infinite
    values = np.where(unusable, np.nan, values)
    low, high = feature.range
    is_outside = ((values < low) | (values > high)) & ~is_infinite
    counts = NumberCounts(
        num_answered=int((~np.isnan(values)).sum()),
        num_outside=int(is_outside.sum()),
        num_infinite=int(is_infinite.sum()),
        num_text=num_text,
    )
    return np.clip(values, low, high), counts


def number_findings(
    counts: NumberCounts, feature: NumericFeature, *, column: str, where: str, allowed: float
) -> list[Finding]:
    """What the counts of one feature say.

    Args:
        column: how the feature is called.
        where: file and column.
        allowed: the part of the answered values that may lie outside the range.
    """
    findings: list[Finding] = []
    if counts.num_text:
        found = f"{counts.num_text} cells of text"
        findings.append(error(where, f"numbers in {feature.unit}", found, "Fix the column."))
    if counts.num_infinite and feature.infinite == "error":
        found = f"{counts.num_infinite} infinite values"
        findings.append(error(where, "finite numbers", found, "Leave such cells empty."))
    elif counts.num_infinite:
        found = f"{counts.num_infinite} of {counts.num_answered} values infinite"
        action = "They are taken for the nearer end of the range."
        findings.append(warning(where, "finite numbers", found, action))
    low, high = feature.range
    expected = f"{column} in [{low:g}, {high:g}] {feature.unit}"
    action = "Fix the file or widen the range in the study."
    return findings + unusable_findings(
        counts.num_outside,
        counts.num_answered,
        allowed=allowed,
        where=where,
        expected=expected,
        adjective="outside",
        action=action,
        consequence="They are clipped.",
    )


def unusable_findings(
    num_unusable: int,
    num_answered: int,
    *,
    allowed: float,
    where: str,
    expected: str,
    adjective: str,
    action: str,
    consequence: str,
) -> list[Finding]:
    """An error where more than the allowed part of the values is unusable, a warning where any is.

    Args:
        adjective: what the unusable values are.
        action: what to do about the error.
        consequence: what becomes of the values that the warning is about.
    """
    if num_unusable == 0:
        return []
    found = f"{num_unusable} of {num_answered} values {adjective}"
    if num_unusable > allowed * num_answered:
        return [error(where, expected, found, action)]
    return [warning(where, expected, found, consequence)]
