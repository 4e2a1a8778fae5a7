"""Tables from files, chunk by chunk: CSV, gzipped CSV and Parquet in one form, as text.

Every cell is read as text and converted by whoever asked, so that what is wrong is counted by
column and no value ever reaches a message of a parser.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from client.findings import Finding, error
from client.sources.csv_tables import csv_chunks, csv_header
from client.sources.parquet_tables import parquet_chunks, parquet_names
from client.sources.table_cells import Chunk

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def read_table_chunks(path: Path, columns: Collection[str] | None = None) -> Iterator[Chunk]:
    """The rows of a table in order, some `CHUNK_ROWS` at a time, each chunk with findings.

    Guarantees:
        - Cells are text without blanks around it, and NA where `MISSING_CELLS` says so.
        - The three forms of a file hold the same table: chunks of equal content.
        - After a finding that is an error there is no further chunk; no exception is raised for
          what stands in a file.
        - No chunk has more than `CHUNK_ROWS` rows, however long the table is; of a CSV file with
          many columns, so many fewer that no more than `MAX_CHUNK_CELLS` cells are held at once.
        - A .csv.gz that unpacks to more than `line_files.unpacked_limit` is one error.

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
    chunks = parquet_chunks(path, columns) if _is_parquet(path) else csv_chunks(path, columns)
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
        return parquet_names(path)
    return csv_header(path)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"
