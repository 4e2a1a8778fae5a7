"""Damaged files of markers and sequences: errors and counts, and nothing told of anybody."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from client.findings import Finding
from client.sources.markers import MARKERS
from client.sources.sequences import SEQUENCES
from client.sources.source import Source
from common.granularities import MarkersGranularity, SequencesGranularity
from tests.unit.marker_builders import Record, plink_files, vcf_text
from tests.unit.mutation import CANARY, assert_discreet, mutants

IDS = tuple(f"{CANARY}{number}" for number in range(6))
NUM_VARIANTS = 12
MARKER_NAMES = tuple(f"rs{i}" for i in range(NUM_VARIANTS))
_MARKERS = MarkersGranularity.model_validate({"kind": "markers", "markers": MARKER_NAMES})
_SEQUENCES = SequencesGranularity.model_validate({"kind": "sequences", "max_tokens": 32})


def _counts() -> np.ndarray:
    return np.arange(len(IDS) * NUM_VARIANTS).reshape(len(IDS), -1) % 3 * 1.0


def _vcf() -> bytes:
    genotype = {0.0: "0/0:0.1", 1.0: "0|1:1.0", 2.0: "./.:1.9"}
    records: list[Record] = [
        ("1", str(i), f"rs{i}", "A", "G", "GT:DS", [genotype[c] for c in _counts()[:, i]])
        for i in range(NUM_VARIANTS)
    ]
    return vcf_text(IDS, records).encode()


def _table() -> bytes:
    table = pd.DataFrame(_counts(), columns=list(MARKER_NAMES))
    table.insert(0, "patient_id", list(IDS))
    return table.to_csv(index=False).encode()


def _fasta() -> bytes:
    return "".join(f">{name} {CANARY}\n{'ACGTTN' * 9}\nacg\n" for name in IDS).encode()


def _read_markers(path: Path) -> list[Finding]:
    arrays, findings = MARKERS.read(
        Source(granularity="genomics", path=path, ids=pd.Index(IDS)), _MARKERS
    )
    assert np.isfinite(arrays["numeric_BF"]).all()
    assert not arrays["numeric_BF"][~arrays["observed_BF"]].any()
    return findings


def _read_sequences(path: Path) -> list[Finding]:
    arrays, findings = SEQUENCES.read(
        Source(granularity="dna", path=path, ids=pd.Index(IDS)), _SEQUENCES
    )
    assert arrays["tokens_BT"].min() >= 0
    assert arrays["tokens_BT"].max() < _SEQUENCES.num_codes
    return findings


Read = Callable[[Path], list[Finding]]


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("genomics.vcf", _vcf(), _read_markers),
        ("genomics.vcf.gz", gzip.compress(_vcf(), mtime=0), _read_markers),
        ("genomics.csv", _table(), _read_markers),
        ("genomics.csv.gz", gzip.compress(_table(), mtime=0), _read_markers),
        # What is under the wrong name.
        ("genomics.vcf", _table(), _read_markers),
        ("genomics.csv", _vcf(), _read_markers),
        ("dna.fasta", _fasta(), _read_sequences),
        ("dna.fa.gz", gzip.compress(_fasta(), mtime=0), _read_sequences),
        ("dna.fasta", _vcf(), _read_sequences),
    ],
    ids=[
        "vcf",
        "gzipped vcf",
        "table",
        "gzipped table",
        "table as vcf",
        "vcf as table",
        "fasta",
        "gzipped fasta",
        "vcf as fasta",
    ],
)
def test_damaged_files_are_counted_and_nothing_is_told_of_them(
    name: str,
    content: bytes,
    read: Read,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / name
    num_faulty = 0
    for mutant in mutants(content):
        path.write_bytes(mutant)
        findings = read(path)
        assert_discreet(findings, capfd, caplog)
        num_faulty += bool(findings)
    assert num_faulty >= 80


@pytest.mark.parametrize("suffix", [".bed", ".bim", ".fam"])
def test_damaged_plink_files_are_counted_and_nothing_is_told_of_them(
    suffix: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "genomics.bed"
    variants = [f"1 rs{i} 0 {i} G A" for i in range(NUM_VARIANTS)]
    plink_files(path, IDS, variants, _counts())
    damaged = path.with_suffix(suffix)
    for mutant in mutants(damaged.read_bytes(), header=4):
        damaged.write_bytes(mutant)
        assert_discreet(_read_markers(path), capfd, caplog)
