"""Genotypes of the wanted markers out of a VCF file, read line by line.

Our own parser, of the few columns that matter (CHROM, POS, ID, REF, ALT, FORMAT and the samples):
htslib, on which cyvcf2 and pysam stand, writes lines of the file to stderr when something is wrong
with them, sample names among them, and a hospital's log is no place for these.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path

import numpy as np

from client.sources.genotypes import Genotypes, no_genotypes
from client.sources.line_files import BrokenFileError, lines_of

_FIXED = (b"#CHROM", b"POS", b"ID", b"REF", b"ALT", b"QUAL", b"FILTER", b"INFO", b"FORMAT")
_MALFORMED = None


def read_vcf(path: Path, markers: Sequence[str], patients: Collection[str]) -> Genotypes:
    """The genotypes of the patients at `markers`.

    A marker is a record's ALT allele, by CHROM:POS:REF:ALT, or the ID of a record that has one ALT.
    The dosage is the count of that allele in GT, phased or not, in as many copies as are written;
    where GT is missing, also in part, it is DS.

    Guarantees:
        - Lines are read one by one, and of a record that is not wanted only the first nine columns.

    Raises:
        BrokenFileError: the file cannot be read to its end, or has no header of a VCF with samples.
    """
    lines = lines_of(path)
    genotypes = no_genotypes(_samples(lines), patients, markers)
    wanted = {marker.encode(): place for place, marker in enumerate(markers)}
    for line in lines:
        fields = line.split(b"\t", 9)
        if len(fields) < 10:
            genotypes.num_malformed_records += bool(line)
            continue
        alleles = list(_wanted_alleles(fields, wanted, genotypes))
        if not alleles:
            continue
        cells = fields[9].split(b"\t")
        if len(cells) != len(genotypes.samples):
            genotypes.num_malformed_records += 1
            continue
        for place, allele in alleles:
            genotypes.find(place)
            _fill(genotypes, place, allele, fields, cells)
    return genotypes


def _samples(lines: Iterator[bytes]) -> tuple[str, ...]:
    for line in lines:
        if line.startswith(b"##"):
            continue
        columns = line.split(b"\t")
        if tuple(columns[:9]) != _FIXED or len(columns) < 10:
            break
        return tuple(name.decode(errors="replace") for name in columns[9:])
    raise BrokenFileError("no header")


def _wanted_alleles(
    fields: Sequence[bytes], wanted: Mapping[bytes, int], genotypes: Genotypes
) -> Iterator[tuple[int, int]]:
    """The place of each marker that is wanted of this record, and the number of its allele."""
    chrom, pos, ids, ref, alts = fields[:5]
    keys = [b":".join((chrom, pos, ref, alt)) for alt in alts.split(b",")]
    for number, key in enumerate(keys, start=1):
        if key in wanted:
            yield wanted[key], number
    for name in set(ids.split(b";")).difference(keys) & wanted.keys():
        if len(keys) == 1:
            yield wanted[name], 1
        else:
            genotypes.ambiguous_W[wanted[name]] = True


def _fill(
    genotypes: Genotypes,
    place: int,
    allele: int,
    fields: Sequence[bytes],
    cells: Sequence[bytes],
) -> None:
    """The dosage of each patient; cells that are alike are parsed once."""
    keys = fields[8].split(b":")
    places = tuple(keys.index(key) if key in keys else None for key in (b"GT", b"DS"))
    num_alleles = 1 + len(fields[4].split(b","))
    known: dict[bytes, float | None] = {}
    for row, cell in enumerate(compress(cells, genotypes.is_patient_S)):
        if cell not in known:
            values = cell.split(b":")  # whose trailing fields may be left out
            pair = [values[p] if p is not None and p < len(values) else b"." for p in places]
            known[cell] = _dosage(pair[0], pair[1], allele, num_alleles)
        dosage = known[cell]
        genotypes.num_malformed_cells += dosage is _MALFORMED
        genotypes.dosage_PW[row, place] = np.nan if dosage is _MALFORMED else dosage


def _dosage(genotype: bytes, estimate: bytes, allele: int, num_alleles: int) -> float | None:
    """The dosage of one sample, NaN where it is missing, None where it is malformed."""
    counted = _count(genotype, allele, num_alleles)
    if counted is _MALFORMED or not np.isnan(counted):
        return counted
    if estimate in {b".", b""}:
        return float("nan")
    by_allele = estimate.split(b",")
    if len(by_allele) != num_alleles - 1:
        return _MALFORMED
    if by_allele[allele - 1] == b".":
        return float("nan")
    try:
        dosage = float(by_allele[allele - 1])
    except ValueError:
        return _MALFORMED
    return dosage if np.isfinite(dosage) else _MALFORMED


def _count(genotype: bytes, allele: int, num_alleles: int) -> float | None:
    """The copies of an allele in a genotype, NaN where one is missing, None where malformed."""
    # Since VCF 4.5 the phase may also be said of the first allele: "|0|1".
    copies = genotype.replace(b"|", b"/").removeprefix(b"/").split(b"/")
    if not all(copy == b"." or (copy.isdigit() and len(copy) < 4) for copy in copies):
        return _MALFORMED
    if b"." in copies:
        return float("nan")
    numbers = [int(copy) for copy in copies]
    return float(numbers.count(allele)) if max(numbers) < num_alleles else _MALFORMED
