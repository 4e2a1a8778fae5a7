"""Tables from files, chunk by chunk: CSV, gzipped CSV and Parquet in one form, as text.

Every cell is read as text and converted by whoever asked, so that what is wrong is counted by
column and no value ever reaches a message of a parser. Nothing is written, not even for a while: a
table that does not fit into memory is refused, not spilled onto a disk.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from client.findings import Finding, error, warning
from common.fields import MISSING_CELLS

if TYPE_CHECKING:
    import duckdb

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")

# What the parsers raise for what stands in a file. The class is told and never the text, which may
# quote the file.
_FAULTS = (ValueError, OSError, EOFError, zlib.error, MemoryError, OverflowError)
CHUNK_ROWS = 100_000
MAX_COLUMNS = 200_000
_VECTOR_ROWS = 2048  # DuckDB gives rows in vectors of so many
_MISSING = sorted(MISSING_CELLS)

Chunk = tuple[pd.DataFrame | None, list[Finding]]


def read_table_chunks(path: Path, columns: Collection[str] | None = None) -> Iterator[Chunk]:
    """The rows of a table in order, some `CHUNK_ROWS` at a time, each chunk with findings.

    Guarantees:
        - Cells are text without blanks around it, and NA where `MISSING_CELLS` says so.
        - The three forms of a file hold the same table: chunks of equal content.
        - After a finding that is an error there is no further chunk; no exception is raised for
          what stands in a file.
        - No chunk has more than `CHUNK_ROWS` rows, however long the table is.

    Args:
        path: .parquet, .csv.gz, or anything else, which is read as CSV in UTF-8.
        columns: those to give, in the order of the file, where the file has them; none: all.

    Yields:
        The chunk, or None with the error that says why there is none; and findings.
    """
    where = path.name
    if not path.is_file():
        yield None, [error(where, "a table", "no file", "Add it, or name it in site.toml.")]
        return
    chunks = _parquet_chunks(path, columns) if _is_parquet(path) else _csv_chunks(path, columns)
    num_rows = 0
    for chunk, findings in chunks:
        num_rows += 0 if chunk is None else len(chunk)
        yield chunk, findings
        if chunk is None and findings:
            return
    if num_rows == 0:
        yield None, [error(where, "one row or more", "0 rows", "Export it again.")]


def column_names(path: Path) -> tuple[list[str], list[Finding]]:
    """The names in the header of a table, in its order; none with the error that says why."""
    where = path.name
    if not path.is_file():
        return [], [error(where, "a table", "no file", "Add it, or name it in site.toml.")]
    if _is_parquet(path):
        with closing(_connection()) as connection:
            return _parquet_header(connection, path)
    return _csv_header(path)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _header_findings(names: list[str], where: str) -> list[Finding]:
    if len(names) > MAX_COLUMNS:
        action = "Export the columns of the study alone; genomes as VCF or PLINK."
        return [error(where, f"at most {MAX_COLUMNS} columns", str(len(names)), action)]
    named = [name for name in names if name]
    num_repeated = len(named) - len(set(named))
    if num_repeated == 0:
        return []
    # Counted and not named: without a header, these are the values of the first patient.
    return [error(where, "a header of different names", _repeats(num_repeated), "Rename them.")]


def _repeats(num_repeated: int) -> str:
    return f"{num_repeated} names that repeat another"


def _cleaned(cells: pd.DataFrame) -> pd.DataFrame:
    """Text without blanks around it, and NA for every way to write that nothing was recorded."""
    stripped = [cells.iloc[:, i].str.strip() for i in range(cells.shape[1])]
    clean = [column.mask(column.isin(_MISSING), pd.NA) for column in stripped]
    if not clean:
        return cells.reset_index(drop=True)
    return pd.concat(clean, axis=1).reset_index(drop=True)


def _csv_header(path: Path) -> tuple[list[str], list[Finding]]:
    where = path.name
    try:
        # The header is read as a row like any other: pandas would rename a repeated column, and
        # take surplus cells as an index, which shifts every column by one, both silently.
        rows = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, skipinitialspace=True, nrows=1
        )
    except _FAULTS as fault:
        return [], [_csv_fault(fault, where)]
    names = rows.iloc[0].fillna("").str.strip().tolist()
    findings = _header_findings(names, where)
    return ([] if findings else names), findings


def _csv_chunks(path: Path, columns: Collection[str] | None) -> Iterator[Chunk]:
    where = path.name
    names, findings = _csv_header(path)
    if findings:
        yield None, findings
        return
    chosen = [i for i, name in enumerate(names) if columns is None or name in columns]
    is_first = True
    try:
        rows = pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            chunksize=CHUNK_ROWS,
        )
    except _FAULTS as fault:
        yield None, [_csv_fault(fault, where)]
        return
    with rows:
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                break
            except _FAULTS as fault:
                yield None, [_csv_fault(fault, where)]
                return
            chunk = _cleaned((cells.iloc[1:] if is_first else cells).iloc[:, chosen])
            is_first = False
            chunk = chunk.set_axis([names[i] for i in chosen], axis=1)
            if len(chunk):
                yield chunk, []
    num_short = _num_short_rows(path, num_columns=len(names))
    if num_short:
        found = f"{num_short} rows with fewer cells than the header"
        action = "The rest counts as missing; check that the export is whole."
        yield chunk.iloc[:0], [warning(where, "rows of equal length", found, action)]


def _csv_fault(fault: Exception, where: str) -> Finding:
    if isinstance(fault, pd.errors.EmptyDataError):
        return error(where, "a header and rows", "an empty file", "Export it again.")
    if isinstance(fault, UnicodeDecodeError):
        return error(where, "UTF-8 text", "another encoding", "Save it as UTF-8.")
    if isinstance(fault, (gzip.BadGzipFile, EOFError, zlib.error)):
        return error(where, "a whole gzip file", "a damaged one", "Export it again.")
    if isinstance(fault, MemoryError):
        action = "Export the columns and rows of the study alone, or as Parquet."
        return error(where, "a table that fits into memory", "one that does not", action)
    found = f"what the CSV parser refuses ({type(fault).__name__})"
    return error(where, "rows of equal length", found, "Export it again as CSV.")


def _num_short_rows(path: Path, *, num_columns: int) -> int:
    """Rows with fewer cells than the header: pandas fills them up without a word."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            return sum(0 < len(row) < num_columns for row in csv.reader(file))
    except (csv.Error, *_FAULTS):  # what pandas has read in its more lenient way
        return 0


def _connection() -> "duckdb.DuckDBPyConnection":
    """A fresh database in memory, that touches neither the network nor a disk."""
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "threads": 1,
        "memory_limit": "2GB",
        "temp_directory": "",
    }
    return duckdb.connect(":memory:", config=settings)


def _pattern(path: Path) -> str:
    """The path as DuckDB takes it, which reads *, ? and [ as wildcards."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.absolute()))


def _parquet_header(
    connection: "duckdb.DuckDBPyConnection", path: Path
) -> tuple[list[str], list[Finding]]:
    import duckdb

    where = path.name
    try:
        described = connection.execute(
            "SELECT column_name FROM "
            "(DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning = false))",
            [_pattern(path)],
        ).fetchall()
        written = connection.execute(
            "SELECT name FROM parquet_schema(?)", [_pattern(path)]
        ).fetchall()
    except (duckdb.Error, *_FAULTS) as fault:
        return [], [_parquet_fault(fault, where)]
    names = [name for (name,) in described]
    # DuckDB renames a column whose name another has, but for upper and lower case.
    num_renamed = len(set(names) - {name for (name,) in written})
    if num_renamed:
        found = _repeats(num_renamed)
        return [], [error(where, "a header of different names", found, "Rename them.")]
    findings = _header_findings([name.strip() for name in names], where)
    return ([] if findings else names), findings


def _parquet_chunks(path: Path, columns: Collection[str] | None) -> Iterator[Chunk]:
    import duckdb

    where = path.name
    with closing(_connection()) as connection:
        names, findings = _parquet_header(connection, path)
        if findings:
            yield None, findings
            return
        chosen = [name for name in names if columns is None or name.strip() in columns]
        # Without a column of interest, one is read all the same: the rows are counted.
        quoted = ['"' + name.replace('"', '""') + '"' for name in chosen or names[:1]]
        cells = ", ".join(f"CAST({name} AS VARCHAR)" for name in quoted)
        query = f"SELECT {cells} FROM read_parquet(?, hive_partitioning = false)"  # noqa: S608
        try:
            connection.execute(query, [_pattern(path)])
            vectors = max(1, CHUNK_ROWS // _VECTOR_ROWS)
            while len(rows := connection.fetch_df_chunk(vectors)):
                text = rows.iloc[:, : len(chosen)].astype("str")
                yield _cleaned(text).set_axis([name.strip() for name in chosen], axis=1), []
        except (duckdb.Error, *_FAULTS) as fault:
            yield None, [_parquet_fault(fault, where)]


def _parquet_fault(fault: Exception, where: str) -> Finding:
    found = f"what the Parquet reader refuses ({type(fault).__name__})"
    return error(where, "a whole Parquet file", found, "Export it again.")
