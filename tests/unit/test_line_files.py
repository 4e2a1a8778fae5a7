"""Text as a stream with bounds: what a packed file may unpack to, and how long a line may be."""

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.findings import Finding
from client.sources import csv_tables, line_files
from client.sources.line_files import (
    MAX_UNPACKED_RATIO,
    SMALLEST_LIMIT_BYTES,
    BombError,
    LongLineError,
    lines_of,
    opened,
    pieces_of,
    unpacked_limit,
)
from client.sources.markers import read_markers
from client.sources.sequences import read_sequences
from client.sources.source import Source
from client.sources.table_chunks import read_table_chunks
from client.sources.tables import read_table
from common.granularities import MarkersGranularity, SequencesGranularity

BOMB = f"a gzip file that unpacks to at most {MAX_UNPACKED_RATIO} times its size"


def _source(path: Path) -> Source:
    return Source(granularity="genomics", path=path, ids=pd.Index(["a"]))


def _table_findings(path: Path) -> list[Finding]:
    table, findings = read_table(path)
    assert table is None
    return findings


def _vcf_findings(path: Path) -> list[Finding]:
    markers = MarkersGranularity.model_validate(
        {"kind": "markers", "markers": ["m1"], "unit": "1", "range": (0, 2), "encoder": "mlp"}
    )
    return read_markers(_source(path), markers)[1]


def _fasta_findings(path: Path) -> list[Finding]:
    sequences = SequencesGranularity.model_validate(
        {"kind": "sequences", "k": 2, "max_tokens": 8, "encoder": "bag"}
    )
    return read_sequences(_source(path), sequences)[1]


FORMATS: dict[str, tuple[bytes, Callable[[Path], list[Finding]]]] = {
    "a.csv.gz": (b"patient_id,a\n", _table_findings),
    "a.vcf.gz": (
        b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\n",
        _vcf_findings,
    ),
    "a.fa.gz": (b">a\n", _fasta_findings),
}
# What parsers like least: cells, one cell without an end, rows.
BOMBS = [
    *((name, b",") for name in FORMATS),
    *((name, b"A") for name in FORMATS),
    ("a.csv.gz", b"1,2\n"),
]


def _bomb(start: bytes, filling: bytes, num_bytes: int) -> bytes:
    return gzip.compress(start + filling * (num_bytes // len(filling)))


@pytest.mark.parametrize("name", FORMATS)
def test_a_packed_file_that_unpacks_to_more_than_the_limit_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start, findings_of = FORMATS[name]
    path = tmp_path / name
    path.write_bytes(_bomb(start, b"1,2\n", 1 << 18))
    monkeypatch.setattr(line_files, "SMALLEST_LIMIT_BYTES", 1000)
    assert unpacked_limit(path.stat().st_size) < (1 << 18)
    errors = [f for f in findings_of(path) if f.severity == "error"]
    assert [f.expected for f in errors] == [BOMB]


@pytest.mark.parametrize(("name", "filling"), BOMBS)
def test_a_bomb_of_some_hundred_kilobytes_does_not_eat_the_memory(
    tmp_path: Path, name: str, filling: bytes
) -> None:
    start, findings_of = FORMATS[name]
    path = tmp_path / name
    path.write_bytes(_bomb(start, filling, 1 << 27))
    assert 100_000 < path.stat().st_size < 300_000
    tracemalloc.start()
    errors = [f for f in findings_of(path) if f.severity == "error"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(errors) == 1
    assert peak < 1 << 27


def test_the_same_rows_unpacked_are_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_files, "SMALLEST_LIMIT_BYTES", 1000)
    path = tmp_path / "a.csv"
    path.write_bytes(b"patient_id,a\n" + b"1,2\n" * 100_000)
    table, findings = read_table(path)
    assert findings == []
    assert table is not None
    assert len(table) == 100_000


def test_a_bomb_behind_good_rows_ends_the_chunks_with_its_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(_bomb(b"patient_id,a\n", b"1,2\n", 1 << 25))
    *rows, (last, findings) = read_table_chunks(path)
    assert rows
    assert last is None
    assert [f.expected for f in findings] == [BOMB]


@settings(max_examples=50, deadline=None)
@given(size=st.integers(0, 10**12))
def test_the_limit_is_the_ratio_and_never_less_than_the_smallest(size: int) -> None:
    assert unpacked_limit(size) == max(SMALLEST_LIMIT_BYTES, MAX_UNPACKED_RATIO * size)


@pytest.mark.parametrize("num_over", [0, 1])
def test_a_file_may_unpack_to_exactly_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_over: int
) -> None:
    monkeypatch.setattr(line_files, "SMALLEST_LIMIT_BYTES", 50_000)
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(bytes(50_000 + num_over)))
    if num_over:
        with pytest.raises(BombError):
            list(pieces_of(path))
    else:
        assert sum(map(len, pieces_of(path))) == 50_000


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("num_over", [0, 1])
def test_a_line_longer_than_the_bound_is_refused_whatever_ends_a_line(
    tmp_path: Path, end: bytes, num_over: int
) -> None:
    bound = 1 << 18
    path = tmp_path / "a"
    path.write_bytes((b"x" * 30 + end) * 20_000 + b"x" * (bound + num_over) + end)
    with opened(path, is_gzip=False, max_line_bytes=bound) as file:
        if num_over:
            with pytest.raises(LongLineError):
                file.read()
        else:
            assert len(file.read()) == path.stat().st_size


def test_a_line_over_two_reads_is_measured_as_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 300_000)
    with opened(path, is_gzip=False, max_line_bytes=299_999) as file, pytest.raises(LongLineError):
        file.read()


def test_a_row_without_an_end_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_tables, "MAX_ROW_BYTES", 1 << 18)
    path = tmp_path / "a.csv"
    path.write_bytes(b"patient_id,a\n1,2\n3," + b"4" * (1 << 19) + b"\n")
    assert [f.expected for f in _table_findings(path)] == ["lines of at most 262144 bytes"]


@pytest.mark.parametrize("start", [b"", b"\n \n", b'"\n"'])
def test_a_header_of_too_many_columns_is_told_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    def parse(*_: object, **__: object) -> None:
        raise AssertionError("the parser was called")

    monkeypatch.setattr("pandas.read_csv", parse)
    path = tmp_path / "a.csv"
    path.write_bytes(start + b"," * 200_000 + b"\n1,2\n")
    assert [f.expected for f in _table_findings(path)] == ["at most 200000 columns"]


def test_a_table_of_many_columns_comes_in_smaller_chunks_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    cells = np.arange(40 * 30).reshape(40, 30).astype(str)
    rows = [",".join(f"c{i}" for i in range(30)), *(",".join(row) for row in cells)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.setattr(csv_tables, "MAX_CHUNK_CELLS", 300)
    chunks = [chunk for chunk, _ in read_table_chunks(path) if chunk is not None]
    assert max(chunk.size for chunk in chunks) <= 330
    assert (np.concatenate([chunk.to_numpy(dtype=str) for chunk in chunks]) == cells).all()


def test_a_vcf_line_without_an_end_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.vcf"
    path.write_bytes(b"x" * 100)
    with pytest.raises(LongLineError):
        list(lines_of(path, 50))
