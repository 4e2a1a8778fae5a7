"""Tables from Parquet files, chunk by chunk, read by DuckDB.

Nothing is written, not even for a while: a table that does not fit into memory is refused, not
spilled onto a disk.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from client.findings import Finding, error, warning
from client.sources import table_cells
from client.sources.line_files import MAX_UNPACKED_RATIO, unpacked_limit
from client.sources.table_cells import FAULTS, Chunk, cleaned, header_findings, repeats

if TYPE_CHECKING:
    import duckdb

_VECTOR_ROWS = 2048  # DuckDB gives rows in vectors of so many
_CELL_BYTES = 4  # at the least, of a cell as text; a cell that Parquet repeats costs it nothing
# Types with as much text in a cell as one likes; those of lists and structures.
_TEXT = re.compile(r"VARCHAR|BLOB|BIT|JSON|ENUM|GEOMETRY|VARIANT")
_NESTED = re.compile(r".*\]$|STRUCT|MAP|UNION")


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
    """The rows of a Parquet file in order, see `read_table_chunks`.

    Guarantees:
        - A file that unpacks to more than `unpacked_limit` is one error, before a row is given.
        - A cell of a list or structure counts as missing; such columns are counted in a warning.
    """
    import duckdb

    where = path.name
    with closing(_connection()) as connection:
        names, findings = _header(connection, path)
        if findings:
            yield None, findings
            return
        chosen = [name for name in names if columns is None or name.strip() in columns]
        try:
            # Without a column of interest, one is read all the same: the rows are counted.
            types = _types(connection, path, chosen or names[:1])
            if _unpacked_bytes(connection, path, types) > unpacked_limit(path.stat().st_size):
                yield None, [_bomb(where)]
                return
            cells = ", ".join(
                "NULL::VARCHAR" if _NESTED.match(kind) else f"CAST({name} AS VARCHAR)"
                for name, kind in types.items()
            )
            query = f"SELECT {cells} FROM read_parquet(?, hive_partitioning = false)"  # noqa: S608
            connection.execute(query, [_pattern(path)])
            vectors = max(1, table_cells.CHUNK_ROWS // _VECTOR_ROWS)
            findings = _nested_findings(types, where)
            while len(rows := connection.fetch_df_chunk(vectors)):
                text = rows.iloc[:, : len(chosen)].astype("str")
                yield cleaned(text).set_axis([name.strip() for name in chosen], axis=1), findings
                findings = []
        except (duckdb.Error, *FAULTS) as fault:
            yield None, [_parquet_fault(fault, where)]


def _types(
    connection: "duckdb.DuckDBPyConnection", path: Path, names: Collection[str]
) -> dict[str, str]:
    """The type of each of these columns, by its name in quotes."""
    described = connection.execute(
        "SELECT column_name, column_type FROM "
        "(DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning = false))",
        [_pattern(path)],
    ).fetchall()
    return {'"' + name.replace('"', '""') + '"': kind for name, kind in described if name in names}


def _unpacked_bytes(
    connection: "duckdb.DuckDBPyConnection", path: Path, types: Mapping[str, str]
) -> int:
    """What the rows are as text, roughly: of numbers and times, the least that they may be.

    A word that stands once in the file, and in every row, is not written out for this.
    """
    lengths = [
        f"coalesce(sum(strlen({n}::VARCHAR)), 0)" for n, k in types.items() if _TEXT.match(k)
    ]
    total = " + ".join([f"count(*) * {_CELL_BYTES * len(types)}", *lengths])
    query = f"SELECT {total} FROM read_parquet(?, hive_partitioning = false)"  # noqa: S608
    (num_bytes,) = connection.execute(query, [_pattern(path)]).fetchall()[0]
    return int(num_bytes)


def _bomb(where: str) -> Finding:
    return error(
        where,
        f"a Parquet file that unpacks to at most {MAX_UNPACKED_RATIO} times its size",
        "one that goes on beyond",
        "Export it again; if it is right as it is, as CSV: plain files may have any size.",
    )


def _nested_findings(types: Mapping[str, str], where: str) -> list[Finding]:
    num_nested = sum(bool(_NESTED.match(kind)) for kind in types.values())
    if not num_nested:
        return []
    found = f"{num_nested} columns of lists or structures"
    return [warning(where, "one value in each cell", found, "They count as missing; flatten them.")]


def _parquet_fault(fault: Exception, where: str) -> Finding:
    found = f"what the Parquet reader refuses ({type(fault).__name__})"
    return error(where, "a whole Parquet file", found, "Export it again.")
