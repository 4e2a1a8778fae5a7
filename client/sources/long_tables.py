"""Long tables, many rows of a patient: what the readers of series and of notes do alike."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from client.sources.identifiers import column_findings
from client.sources.source import Source
from client.sources.table_chunks import column_names


def long_columns(
    source: Source, required: Collection[str], optional: Collection[str] = ()
) -> tuple[list[str], list[Finding]]:
    """The columns of the table that are to be read, and what is wrong with its header.

    A required column that is not there is an error.
    """
    file = source.path.name
    names, findings = column_names(source.path)
    if findings:
        return [], findings
    used = [*required, *optional]
    missing = [column for column in required if column not in names]
    if missing:
        found = f"no column {', '.join(missing)}"
        action = "Rename the columns, and check that cells are separated by commas."
        expected = f"the columns {', '.join(required)}"
        findings.append(error(file, expected, found, action))
    findings += column_findings(names, exempt=used, file=file, identifiers=source.identifiers)
    return [column for column in used if column in names], findings


def places_in(cells: "pd.Series[Any]", names: pd.Index) -> NDArray[np.int64]:
    """The place of each cell's text among the names; -1 where it is missing or none of them."""
    known = names.get_indexer(pd.Index(cells.fillna("").astype("str")))
    return np.where(cells.isna(), -1, known).astype(np.int64)


def window_findings(num_inside: int, num_outside: int, window: str, file: str) -> list[Finding]:
    """A warning where rows have a time and not one of them lies in the study's window."""
    if num_inside or not num_outside:
        return []
    found = f"all {num_outside} rows outside"
    action = "Check that minutes are counted from the time that the study says."
    return [warning(f"{file}, column minutes", f"minutes in {window}", found, action)]


def minute_findings(num_text: int, num_infinite: int, file: str) -> list[Finding]:
    """Errors for times that are none."""
    where = f"{file}, column minutes"
    findings = []
    if num_text:
        found = f"{num_text} cells of text"
        findings.append(error(where, "numbers in minutes", found, "Fix the column."))
    if num_infinite:
        found = f"{num_infinite} infinite values"
        findings.append(error(where, "finite numbers", found, "Leave such cells empty."))
    return findings
