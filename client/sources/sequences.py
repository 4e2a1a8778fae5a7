"""The reader of nucleotide sequences: a FASTA file of the patients, as overlapping k-mers.

A record's header is ">patient_id", and anything after the first blank is not looked at. The file is
read as a stream: of each patient no more letters are kept than their tokens need.

Letters of shapes: B patients, T tokens.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from client.sources.line_files import BrokenFileError, absent_file, broken_file, pieces_of
from client.sources.source import GranularityArrays, Reader, Source, stranger_findings
from common.granularities import SequencesGranularity

UNKNOWN = 1
FIRST_CODE = 2

_BLANKS = b" \t\r\n\v\f"
_SYMBOLS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ*-."  # the IUPAC letters, stops and gaps
_NO_DIGIT = -1
_DIGITS = np.full(256, _NO_DIGIT, dtype=np.int64)
_DIGITS[list(b"ACGT")] = np.arange(4)


def tokens_of(letters: bytes, k: int, stride: int) -> NDArray[np.int64]:
    """The code of each k-mer: 2 + its number in base 4 (A, C, G, T = 0…3), or 1 with other letters.

    >>> tokens_of(b"ACGTN", k=2, stride=1).tolist()  # AC = 01, CG = 12, GT = 23 in base 4
    [3, 8, 13, 1]

    Args:
        letters: of one record, upper case.

    Returns:
        int64, one for each k-mer that starts at 0, stride, 2·stride, … and lies within the letters.
    """
    digits = _DIGITS[np.frombuffer(letters, dtype=np.uint8)]
    if len(digits) < k:
        return np.zeros(0, dtype=np.int64)
    kmers = np.lib.stride_tricks.sliding_window_view(digits, k)[::stride]
    codes = FIRST_CODE + kmers @ (4 ** np.arange(k - 1, -1, -1))
    return np.where((kmers == _NO_DIGIT).any(axis=1), UNKNOWN, codes).astype(np.int64)


def read_sequences(
    source: Source, granularity: SequencesGranularity
) -> tuple[GranularityArrays, list[Finding]]:
    """The tokens of each patient, and what is wrong with the file.

    Guarantees:
        - The records of a patient are joined in the order of the file, one unknown token between.
        - The first max_tokens are kept; the places behind the last token are padding, 0.
        - A patient without a token is not "present_B".
        - How a sequence is broken into lines, and upper or lower case, change nothing.

    Returns:
        "tokens_BT" int64, "present_B" bool; and the findings.
    """
    where = source.path.name
    reading = _Reading.start(source, granularity)
    if not source.path.is_file():
        return reading.arrays(), [absent_file(where)]
    try:
        for piece in pieces_of(source.path):
            reading.take(piece)
    except BrokenFileError as fault:
        return reading.arrays(), [broken_file(where, "a whole FASTA file", fault)]
    reading.finish_record()
    return reading.arrays(), reading.findings(where)


def absent_sequences(granularity: SequencesGranularity, num_patients: int) -> GranularityArrays:
    """Nothing but padding, for a site without sequences."""
    return {
        "tokens_BT": np.zeros((num_patients, granularity.max_tokens), dtype=np.int64),
        "present_B": np.zeros(num_patients, dtype=np.bool_),
    }


@dataclass(kw_only=True)
class _Reading:
    """A FASTA file on the way through: the tokens so far, the open record, and the counts."""

    granularity: SequencesGranularity
    place_of: dict[bytes, int]
    tokens_BT: NDArray[np.int64]
    filled_B: NDArray[np.int64]
    place: int | None = None  # of the open record's patient; -1 of nobody, None before the first
    letters: bytearray = field(default_factory=bytearray)
    is_clean: bool = True
    in_header: bool = False
    at_line_start: bool = True
    num_records: int = 0
    num_strange: int = 0
    num_unclean: int = 0
    num_before: int = 0
    num_tokens: int = 0
    num_unknown: int = 0
    named: set[int] = field(default_factory=set)

    @classmethod
    def start(cls, source: Source, granularity: SequencesGranularity) -> "_Reading":
        num_patients = len(source.ids)
        return cls(
            granularity=granularity,
            place_of={str(name).encode(): place for place, name in enumerate(source.ids)},
            tokens_BT=absent_sequences(granularity, num_patients)["tokens_BT"],
            filled_B=np.zeros(num_patients, dtype=np.int64),
        )

    def take(self, piece: bytes) -> None:
        """Goes on with a line, or with a part of a very long one."""
        if self.at_line_start:
            self.in_header = piece.startswith(b">")
            if self.in_header:
                self._start_record(piece)
        self.at_line_start = piece.endswith(b"\n")
        if self.in_header:
            return
        letters = piece.upper().translate(None, _BLANKS)
        if self.place is None:
            self.num_before += bool(letters)
        elif self.place >= 0:
            self.is_clean &= not letters.translate(None, _SYMBOLS)
            self.letters += letters[: max(0, self._num_needed(self.place) - len(self.letters))]

    def finish_record(self) -> None:
        """The open record's letters become tokens."""
        if self.place is None or self.place < 0:
            return
        self.num_unclean += not self.is_clean
        tokens = tokens_of(bytes(self.letters), self.granularity.k, self.granularity.stride)
        self.num_tokens += len(tokens)
        self.num_unknown += int((tokens == UNKNOWN).sum())
        first = int(self.filled_B[self.place])
        if first and len(tokens):
            tokens = np.concatenate([[UNKNOWN], tokens])
        last = min(first + len(tokens), self.granularity.max_tokens)
        self.tokens_BT[self.place, first:last] = tokens[: last - first]
        self.filled_B[self.place] = last

    def arrays(self) -> GranularityArrays:
        return {"tokens_BT": self.tokens_BT, "present_B": self.filled_B > 0}

    def findings(self, where: str) -> list[Finding]:
        if self.num_before or not self.num_records:
            found = f"{self.num_before} lines before the first header, {self.num_records} records"
            return [error(where, "records with a header >patient_id", found, "Export it again.")]
        findings: list[Finding] = []
        findings += stranger_findings(self.num_strange, self.num_records, where, noun="records")
        if self.num_unclean:
            found = f"{self.num_unclean} records with other characters"
            findings.append(error(where, "letters of sequences", found, "Export it again."))
        num_empty = sum(not self.filled_B[place] for place in self.named)
        if num_empty:
            found = f"{num_empty} patients with records too short for one"
            action = "They count as having no sequence."
            findings.append(warning(where, f"{self.granularity.k} letters or more", found, action))
        return findings + self._unknown(where)

    def _start_record(self, header: bytes) -> None:
        self.finish_record()
        name = header[1:].split(maxsplit=1)
        self.place = self.place_of.get(name[0], -1) if name else -1
        self.letters, self.is_clean = bytearray(), True
        self.num_records += 1
        self.num_strange += self.place < 0
        if self.place >= 0:
            self.named.add(self.place)

    def _num_needed(self, place: int) -> int:
        """The letters of the open record that can still become tokens."""
        num_left = self.granularity.max_tokens - int(self.filled_B[place])
        return (num_left - 1) * self.granularity.stride + self.granularity.k if num_left else 0

    def _unknown(self, where: str) -> list[Finding]:
        if not self.num_unknown:
            return []
        expected = "k-mers of the letters A, C, G, T"
        found = f"{self.num_unknown} of {self.num_tokens} with another letter"
        if self.num_unknown > self.granularity.max_unusable_fraction * self.num_tokens:
            action = "Check that these are nucleotides, or raise max_unusable_fraction."
            return [error(where, expected, found, action)]
        return [warning(where, expected, found, "They are read as unknown.")]


SEQUENCES: Reader[SequencesGranularity] = Reader(
    suffixes=(".fasta", ".fa", ".fasta.gz", ".fa.gz"),
    read=read_sequences,
    absent=absent_sequences,
)
