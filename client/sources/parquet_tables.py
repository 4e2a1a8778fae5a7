"""Tables from Parquet files, chunk by chunk, read by DuckDB.

Nothing is written, not even for a while: a table that does not fit into memory is refused, not
spilled onto a disk.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from client.findings import Finding, error
from client.sources import table_cells
from client.sources.table_cells import FAULTS, Chunk, cleaned, header_findings, repeats

if TYPE_CHECKING:
    import duckdb

_VECTOR_ROWS = 2048  # DuckDB gives rows in vectors of so many


def parquet_names(path: Path) -> tuple[list[str], list[Finding]]:
    """The names in the header of a Parquet file; none with the error that says why."""
    with closing(_connection()) as connection:
        return _header(connection, path)


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


def _header(connection: "duckdb.DuckDBPyConnection", path: Path) -> tuple[list[str], list[Finding]]:
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
    except (duckdb.Error, *FAULTS) as fault:
        return [], [_parquet_fault(fault, where)]
    names = [name for (name,) in described]
    # DuckDB renames a column whose name another has, but for upper and lower case.
    num_renamed = len(set(names) - {name for (name,) in written})
    if num_renamed:
        found = repeats(num_renamed)
        return [], [error(where, "a header of different names", found, "Rename them.")]
    findings = header_findings([name.strip() for name in names], where)
    return ([] if findings else names), findings


def parquet_chunks(path: Path, columns: Collection[str] | None) -> Iterator[Chunk]:
    """The rows of a Parquet file in order, see `read_table_chunks`."""
    import duckdb

    where = path.name
    with closing(_connection()) as connection:
        names, findings = _header(connection, path)
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
            vectors = max(1, table_cells.CHUNK_ROWS // _VECTOR_ROWS)
            while len(rows := connection.fetch_df_chunk(vectors)):
                text = rows.iloc[:, : len(chosen)].astype("str")
                yield cleaned(text).set_axis([name.strip() for name in chosen], axis=1), []
        except (duckdb.Error, *FAULTS) as fault:
            yield None, [_parquet_fault(fault, where)]


def _parquet_fault(fault: Exception, where: str) -> Finding:
    found = f"what the Parquet reader refuses ({type(fault).__name__})"
    return error(where, "a whole Parquet file", found, "Export it again.")
