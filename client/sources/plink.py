"""Genotypes of the wanted markers out of PLINK 1 files: .bed beside .bim and .fam.

PLINK counts allele A1, which it chooses by frequency *within the file*: two hospitals' files may
count different alleles of one marker. A marker named CHROM:POS:REF:ALT is counted by its ALT
wherever that stands, as A1 or A2; one named by its ID is the count of A1, as it is.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.sources.genotypes import Genotypes, no_genotypes
from client.sources.line_files import BrokenFileError, lines_of

_MAGIC = b"\x6c\x1b\x01"  # the last byte: variant by variant, the only order in use
_MAX_LINE_BYTES = 1 << 20
_COPIES = 2.0


@dataclass(frozen=True, kw_only=True)
class _Column:
    """The variant that a wanted marker is; `is_flipped` where its allele is A2."""

    variant: int
    place: int
    is_flipped: bool


def companions(path: Path) -> tuple[Path, Path]:
    """The .bim and .fam files of a .bed file."""
    return path.with_suffix(".bim"), path.with_suffix(".fam")


def read_plink(path: Path, markers: Sequence[str], patients: Collection[str]) -> Genotypes:
    """The genotypes of the patients at `markers`.

    Raises:
        BrokenFileError: a file is damaged, or the three do not fit one another.
        ImportError: bed-reader is not installed.
    """
    from bed_reader import open_bed  # optional

    bim, fam = companions(path)
    samples = tuple(row[1].decode(errors="replace") for row in _rows(fam))
    genotypes = no_genotypes(samples, patients, markers)
    wanted = {marker.encode(): place for place, marker in enumerate(markers)}
    columns, num_variants = _wanted_columns(bim, wanted)
    _check_bed(path, len(samples), num_variants)
    rows = np.flatnonzero(genotypes.is_patient_S)
    # With both counts given, bed-reader opens neither .bim nor .fam.
    bed = open_bed(path, iid_count=len(samples), sid_count=num_variants, num_threads=1)
    with bed:
        variants = np.array([column.variant for column in columns], dtype=np.int64)
        count_PV = bed.read((rows, variants), dtype="float32")
    for count_P, column in zip(count_PV.T, columns, strict=True):
        genotypes.find(column.place)
        genotypes.dosage_PW[:, column.place] = _COPIES - count_P if column.is_flipped else count_P
    return genotypes


def _rows(path: Path) -> Iterator[list[bytes]]:
    for line in lines_of(path, _MAX_LINE_BYTES):
        row = line.split()
        if len(row) == 6:
            yield row
        elif row:
            raise BrokenFileError("a row without six columns")


def _wanted_columns(bim: Path, wanted: Mapping[bytes, int]) -> tuple[list[_Column], int]:
    """The variants that are wanted, and the number of all."""
    columns: list[_Column] = []
    variant = -1
    for variant, (chrom, name, _, pos, a1, a2) in enumerate(_rows(bim)):
        # What a marker's name says of the alleles comes before an ID that reads alike.
        flipped = {
            name: False,
            b":".join((chrom, pos, a2, a1)): False,
            b":".join((chrom, pos, a1, a2)): True,
        }
        columns += [
            _Column(variant=variant, place=wanted[key], is_flipped=is_flipped)
            for key, is_flipped in flipped.items()
            if key in wanted
        ]
    return columns, variant + 1


def _check_bed(path: Path, num_samples: int, num_variants: int) -> None:
    expected = len(_MAGIC) + -(-num_samples // 4) * num_variants
    with path.open("rb") as file:
        is_bed = file.read(len(_MAGIC)) == _MAGIC
    if not is_bed or path.stat().st_size != expected or not num_samples or not num_variants:
        raise BrokenFileError("a size that does not fit .bim and .fam")
