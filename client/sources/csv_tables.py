"""Tables from CSV and gzipped CSV files, chunk by chunk.

What is asked of the memory is bounded before the parser is: how much a packed file unpacks to, how
long a line is, how many columns there are, and how many cells are held at once.
"""

import csv
import gzip
import zlib
from collections.abc import Collection, Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path

import pandas as pd

from client.findings import Finding, error, warning
from client.sources import table_cells
from client.sources.line_files import BombError, LongLineError, bomb, opened
from client.sources.table_cells import FAULTS, Chunk, cleaned, header_findings

MAX_ROW_BYTES = 1 << 24  # of text: MAX_COLUMNS of 80 bytes each
MAX_CHUNK_CELLS = 1 << 24  # a cell is 8 bytes and more, whatever is in it


def csv_header(path: Path) -> tuple[list[str], list[Finding]]:
    """The names in the header of a CSV file; none with the error that says why."""
    where = path.name
    try:
        num_commas = _num_commas(path)
        if num_commas >= table_cells.MAX_COLUMNS:  # told before a parser makes as many columns
            return [], header_findings([""] * (num_commas + 1), where)
        # The header is read as a row like any other: pandas would rename a repeated column, and
        # take surplus cells as an index, which shifts every column by one, both silently.
        with _opened_csv(path) as file:
            rows = pd.read_csv(
                file, header=None, dtype=str, keep_default_na=False, skipinitialspace=True, nrows=1
            )
    except FAULTS as fault:
        return [], [_csv_fault(fault, where)]
    names = rows.iloc[0].fillna("").str.strip().tolist()
    findings = header_findings(names, where)
    return ([] if findings else names), findings


def _num_commas(path: Path) -> int:
    """The commas of the first row that is not blank, in quotes or not."""
    with TextIOWrapper(_opened_csv(path), encoding="latin-1") as file:  # any line end, any bytes
        line = file.readline()
        while line and not line.strip():
            line = file.readline()
        num_commas, is_quoted = 0, False
        while line:
            num_commas += line.count(",")
            is_quoted ^= line.count('"') % 2 == 1
            if not is_quoted or num_commas >= table_cells.MAX_COLUMNS:
                break
            line = file.readline()
        return num_commas


def _opened_csv(path: Path) -> BufferedReader:
    is_gzip = path.suffix.lower() == ".gz"
    return opened(path, is_gzip=is_gzip, max_line_bytes=MAX_ROW_BYTES)


def csv_chunks(path: Path, columns: Collection[str] | None) -> Iterator[Chunk]:
    """The rows of a CSV file in order, see `read_table_chunks`."""
    where = path.name
    names, findings = csv_header(path)
    if findings:
        yield None, findings
        return
    chosen = [i for i, name in enumerate(names) if columns is None or name in columns]
    num_header_rows = 1
    try:
        for cells in _csv_cells(path, num_columns=len(names)):
            chunk = cleaned(cells.iloc[num_header_rows:, chosen])
            num_header_rows = 0
            chunk = chunk.set_axis([names[i] for i in chosen], axis=1)
            if len(chunk):
                yield chunk, []
    except FAULTS as fault:
        yield None, [_csv_fault(fault, where)]
        return
    num_short = _num_short_rows(path, num_columns=len(names))
    if num_short:
        found = f"{num_short} rows with fewer cells than the header"
        action = "The rest counts as missing; check that the export is whole."
        yield chunk.iloc[:0], [warning(where, "rows of equal length", found, action)]


def _csv_cells(path: Path, *, num_columns: int) -> Iterator[pd.DataFrame]:
    """The header and the rows as they stand, chunk by chunk."""
    with (
        _opened_csv(path) as file,
        pd.read_csv(
            file,
            header=None,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            chunksize=min(table_cells.CHUNK_ROWS, 1 + MAX_CHUNK_CELLS // num_columns),
        ) as rows,
    ):
        yield from rows


def _csv_fault(fault: Exception, where: str) -> Finding:
    if isinstance(fault, pd.errors.EmptyDataError):
        return error(where, "a header and rows", "an empty file", "Export it again.")
    if isinstance(fault, UnicodeDecodeError):
        return error(where, "UTF-8 text", "another encoding", "Save it as UTF-8.")
    if isinstance(fault, (gzip.BadGzipFile, EOFError, zlib.error)):
        return error(where, "a whole gzip file", "a damaged one", "Export it again.")
    if isinstance(fault, BombError):
        return bomb(where)
    if isinstance(fault, LongLineError):
        found = "a longer one"
        return error(where, f"lines of at most {MAX_ROW_BYTES} bytes", found, "Export it again.")
    if isinstance(fault, MemoryError):
        action = "Export the columns and rows of the study alone, or as Parquet."
        return error(where, "a table that fits into memory", "one that does not", action)
    found = f"what the CSV parser refuses ({type(fault).__name__})"
    return error(where, "rows of equal length", found, "Export it again as CSV.")


def _num_short_rows(path: Path, *, num_columns: int) -> int:
    """Rows with fewer cells than the header: pandas fills them up without a word."""
    try:
        with TextIOWrapper(_opened_csv(path), encoding="utf-8-sig", newline="") as file:
            return sum(0 < len(row) < num_columns for row in csv.reader(file))
    except (csv.Error, *FAULTS):  # what pandas has read in its more lenient way
        return 0
