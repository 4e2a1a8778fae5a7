"""The reader of sequences: k-mers by hand and by a slow oracle, joining, and what is wrong."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.findings import Finding
from client.sources.sequences import SEQUENCES, tokens_of
from client.sources.source import GranularityArrays, Source
from common.granularities import SequencesGranularity


def _granularity(**keys: object) -> SequencesGranularity:
    return SequencesGranularity.model_validate(
        {"kind": "sequences", "k": 2, "max_tokens": 8, "encoder": "bag"} | keys
    )


def _read(
    path: Path, text: str | bytes, ids: tuple[str, ...] = ("a", "b"), **keys: object
) -> tuple[GranularityArrays, list[Finding]]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    source = Source(granularity="dna", path=path, ids=pd.Index(ids))
    return SEQUENCES.read(source, _granularity(**keys))


def _tokens(path: Path, text: str, **keys: object) -> list[list[int]]:
    arrays, _ = _read(path, text, **keys)
    return [[int(t) for t in row if t] for row in arrays["tokens_BT"]]


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return tmp_path / "dna.fasta"


def test_a_kmer_is_two_plus_its_number_in_base_four(fasta: Path) -> None:
    # AC = 0·4+1, CG = 1·4+2, GT = 2·4+3, TT = 15
    assert _tokens(fasta, ">a\nACGTT\n", ids=("a",)) == [[3, 8, 13, 17]]


def test_the_stride_is_counted_in_letters(fasta: Path) -> None:
    assert _tokens(fasta, ">a\nACGTT\n", ids=("a",), stride=2) == [[3, 13]]


def test_a_kmer_with_another_letter_is_unknown(fasta: Path) -> None:
    text = ">a\nACNTT\n"
    assert _tokens(fasta, text, ids=("a",), max_unusable_fraction=0.9) == [[3, 1, 1, 17]]


def _slow_tokens(letters: str, k: int, stride: int) -> list[int]:
    kmers = [letters[i : i + k] for i in range(0, len(letters) - k + 1, stride)]
    digits = str.maketrans("ACGT", "0123")
    return [1 if set(m) - set("ACGT") else 2 + int(m.translate(digits), 4) for m in kmers]


@given(st.text(alphabet="ACGTN", max_size=60), st.integers(1, 8), st.integers(1, 9))
def test_tokens_are_those_of_a_loop_over_strings(letters: str, k: int, stride: int) -> None:
    assert tokens_of(letters.encode(), k, stride).tolist() == _slow_tokens(letters, k, stride)


@given(st.text(alphabet="ACGT", max_size=40), st.data())
def test_line_breaks_and_case_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, letters: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("f") / "dna.fa"
    width = data.draw(st.integers(1, 50))
    ending = data.draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    lines = [letters[i : i + width].lower() for i in range(0, len(letters), width)]
    text = ending.join([">a some words", *lines])
    assert _tokens(path, text, ids=("a",), max_tokens=64) == [_slow_tokens(letters, 2, 1)]


def test_a_line_longer_than_a_piece_is_read_as_one(
    fasta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ">a " + "x" * 40 + "\n" + "ACGT" * 10 + "\n>b\nAC\n"
    whole = _tokens(fasta, text, max_tokens=64)
    monkeypatch.setattr("client.sources.line_files.pieces_of.__defaults__", (7,))
    assert _tokens(fasta, text, max_tokens=64) == whole == [_slow_tokens("ACGT" * 10, 2, 1), [3]]


def test_records_of_a_patient_are_joined_in_order_with_one_unknown_between(fasta: Path) -> None:
    text = ">a 1\nACG\n>b\nTT\n>a 2\nCA\n"
    assert _tokens(fasta, text) == [[3, 8, 1, 6], [17]]


def test_an_empty_record_adds_no_separator(fasta: Path) -> None:
    assert _tokens(fasta, ">a\nAC\n>a\n\n>a\nCA\n", ids=("a",)) == [[3, 1, 6]]


def test_the_first_max_tokens_are_kept(fasta: Path) -> None:
    # Whole: AC CG | CA AC.
    text = ">a\nACG\n>a\nCAC\n"
    whole = [3, 8, 1, 6, 3]
    for length in range(1, 6):
        assert _tokens(fasta, text, ids=("a",), max_tokens=length) == [whole[:length]]


def test_the_arrays_are_padded_and_say_who_is_present(fasta: Path) -> None:
    arrays, findings = _read(fasta, ">b\nACG\n", max_tokens=4)
    assert findings == []
    assert arrays["tokens_BT"].dtype == np.int64
    assert arrays["tokens_BT"].tolist() == [[0] * 4, [3, 8, 0, 0]]
    assert arrays["present_B"].tolist() == [False, True]


def test_gzip_is_told_by_content(tmp_path: Path) -> None:
    packed = gzip.compress(b">a\nAC\n", mtime=0)
    for name in ("dna.fa.gz", "dna.fasta"):
        arrays, findings = _read(tmp_path / name, packed)
        assert (arrays["tokens_BT"][0, 0], findings) == (3, [])


def test_absent_has_the_shape_of_read(fasta: Path) -> None:
    arrays, _ = _read(fasta, ">a\nAC\n")
    absent = SEQUENCES.absent(_granularity(), 2)
    assert {k: (v.shape, v.dtype) for k, v in absent.items()} == {
        k: (v.shape, v.dtype) for k, v in arrays.items()
    }
    assert not any(v.any() for v in absent.values())


@pytest.mark.parametrize(
    ("text", "severity", "found"),
    [
        (b"", "error", "0 lines before the first header, 0 records"),
        (b"ACGT\n>a\nAC\n", "error", "1 lines before the first header, 1 records"),
        (b">a\nAC\n>c\nAC\n", "warning", "1 of 2 records of nobody in the patients' table"),
        (b">\nAC\n>a\nAC\n", "warning", "1 of 2 records of nobody in the patients' table"),
        (b">a\nA\n>b\nAC\n", "warning", "1 patients with records too short for one"),
        (b">a\nAC12\n", "error", "1 records with other characters"),
        (b">a\nACNNN\n", "error", "3 of 4 with another letter"),
        (b">a\n" + b"A" * 30 + b"N\n", "warning", "1 of 30 with another letter"),
        (gzip.compress(b">a\nAC\n", mtime=0)[:-6], "error", "one that ends early or is damaged"),
        (b"\x1f\x8bno gzip", "error", "one that ends early or is damaged"),
    ],
)
def test_what_is_wrong_is_counted(fasta: Path, text: bytes, severity: str, found: str) -> None:
    _, findings = _read(fasta, text, max_tokens=99)
    assert (severity, found) in [(f.severity, f.found) for f in findings]


def test_no_file_is_an_error(tmp_path: Path) -> None:
    source = Source(granularity="dna", path=tmp_path / "dna.fa", ids=pd.Index(["a"]))
    _, findings = SEQUENCES.read(source, _granularity())
    assert [(f.severity, f.found) for f in findings] == [("error", "none")]
