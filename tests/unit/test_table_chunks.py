"""Tables from files: the same text of cells from every form, in chunks, and never an exception."""

import gzip
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.sources import table_cells
from client.sources.table_cells import CHUNK_ROWS
from client.sources.table_chunks import TABLE_SUFFIXES, column_names, read_table_chunks
from client.sources.tables import read_table


def write_parquet(path: Path, query: str) -> Path:
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


MIXED = """
    SELECT * FROM (VALUES
        ('007', 1.5::DOUBLE, 3::INTEGER, TRUE, ' x '), ('008', 'inf', NULL, FALSE, 'NA'),
        ('009', 'nan', 4, NULL, '')
    ) AS t(patient_id, number, whole, flag, word)
"""


def test_a_parquet_file_reads_as_the_text_of_its_cells(tmp_path: Path) -> None:
    table, findings = read_table(write_parquet(tmp_path / "a.parquet", MIXED))
    assert findings == []
    assert table is not None
    assert table.fillna("-").to_dict("list") == {
        "patient_id": ["007", "008", "009"],
        "number": ["1.5", "inf", "-"],
        "whole": ["3", "-", "4"],
        "flag": ["true", "false", "-"],
        "word": ["x", "-", "-"],
    }


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.text("ab1.-, \"'\n\u00e9", max_size=6)] * 3), min_size=1, max_size=6
    )
)
def test_a_table_is_the_same_as_csv_as_gzipped_csv_and_as_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list
) -> None:
    folder = tmp_path_factory.getbasetemp()
    frame = pd.DataFrame(rows, columns=["patient_id", "a", "b"], dtype="object")
    frame.to_csv(folder / "same.csv", index=False, quoting=1)
    frame.to_csv(folder / "same.csv.gz", index=False, quoting=1)
    with duckdb.connect(":memory:") as connection:
        connection.register("frame", frame)
        connection.execute(f"COPY frame TO '{folder / 'same.parquet'}' (FORMAT parquet)")
    tables = []
    for name in ("same.csv", "same.csv.gz", "same.parquet"):
        table, findings = read_table(folder / name)
        assert findings == []
        assert table is not None
        tables.append(table.fillna("-missing-").to_dict("list"))
    assert tables[0] == tables[1] == tables[2]


def test_a_parquet_file_below_a_folder_that_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    folder = tmp_path / "k=v [ab]*?"
    folder.mkdir()
    plain = write_parquet(tmp_path / "a.parquet", MIXED)
    (folder / "a.parquet").write_bytes(plain.read_bytes())
    table, findings = read_table(folder / "a.parquet")
    assert findings == []
    assert table is not None
    assert list(table.columns) == ["patient_id", "number", "whole", "flag", "word"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"patient_id,a\n1,2\n", b"PAR1" * 20])
def test_what_is_no_parquet_file_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    table, findings = read_table(path)
    assert table is None
    assert [(f.severity, f.expected) for f in findings] == [("error", "a whole Parquet file")]


def test_a_parquet_file_without_rows_is_an_error(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", "SELECT 1 AS a WHERE 1 > 2")
    assert [f.found for f in read_table(path)[1]] == ["0 rows"]


def test_columns_that_differ_in_blanks_alone_repeat_one_another(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", 'SELECT 1 AS a, 2 AS " a"')
    assert [f.found for f in read_table(path)[1]] == ["1 names that repeat another"]


def test_a_damaged_gzip_file_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    whole = gzip.compress(b"patient_id,a\n" + b"".join(b"%d,%d\n" % (i, i) for i in range(999)))
    for content in (whole[:-20], b"patient_id,a\n1,2\n", whole[:40] + b"\0" * 9 + whole[49:]):
        path.write_bytes(content)
        table, findings = read_table(path)
        assert table is None
        assert [(f.severity, f.expected) for f in findings] == [("error", "a whole gzip file")]


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_chunks_are_the_table_in_order_and_none_is_longer_than_agreed(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"long{suffix}"
    num_rows = 2 * CHUNK_ROWS + 5
    query = f"SELECT i AS patient_id, i * 2 AS a, 'x' AS b FROM range({num_rows}) t(i)"  # noqa: S608
    if suffix == ".parquet":
        write_parquet(path, query)
    else:
        lines = "".join(f"{i},{i * 2},x\n" for i in range(num_rows))
        content = f"patient_id,a,b\n{lines}".encode()
        path.write_bytes(gzip.compress(content, 1) if suffix == ".csv.gz" else content)
    chunks = list(read_table_chunks(path, ["b", "patient_id"]))
    assert all(found == [] for _, found in chunks)
    tables = [chunk for chunk, _ in chunks if chunk is not None]
    assert all(list(table.columns) == ["patient_id", "b"] for table in tables)
    assert len(tables) >= 3
    assert max(map(len, tables)) <= CHUNK_ROWS
    ids = np.concatenate([table["patient_id"].to_numpy(dtype=str) for table in tables])
    assert (ids == np.arange(num_rows).astype(str)).all()


def test_the_header_is_told_without_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffpatient_id , a,\n1,2,\n", encoding="utf-8")
    assert column_names(tmp_path / "a.csv") == (["patient_id", "a", ""], [])
    path = write_parquet(tmp_path / "a.parquet", MIXED)
    assert column_names(path) == (["patient_id", "number", "whole", "flag", "word"], [])
    names, findings = column_names(tmp_path / "none.csv")
    assert names == []
    assert [f.found for f in findings] == ["no file"]


def test_parquet_is_loaded_by_whoever_has_a_parquet_file_alone() -> None:
    code = "import sys, client.sources.tables; sys.exit('duckdb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_too_many_columns_are_one_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_cells, "MAX_COLUMNS", 3)
    path = tmp_path / "wide.csv"
    path.write_text("a,b,c,d\n1,2,3,4\n", encoding="utf-8")
    ((chunk, findings),) = read_table_chunks(path)
    assert chunk is None
    assert [f.found for f in findings] == ["4"]
    assert [f.found for f in column_names(path)[1]] == ["4"]


def test_a_table_that_does_not_fit_into_memory_has_a_finding_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    path = tmp_path / "long.csv"
    path.write_text("a\n1\n", encoding="utf-8")
    monkeypatch.setattr("pandas.read_csv", full)
    ((_, findings),) = read_table_chunks(path)
    assert [f.expected for f in findings] == ["a table that fits into memory"]
