"""Marker files for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Record = tuple[str, str, str, str, str, str, Sequence[str]]

_META = (
    '##fileformat=VCFv4.2\n##contig=<ID=1>\n##FORMAT=<ID=GT,Number=1,Type=String,Description="">\n'
)
_FIXED = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT"


def vcf_text(samples: Sequence[str], records: Sequence[Record]) -> str:
    """A VCF file; a record is (CHROM, POS, ID, REF, ALT, FORMAT, the samples' cells)."""
    lines = ["\t".join([_FIXED, *samples])]
    for *variant, form, cells in records:
        lines.append("\t".join([*variant, ".", "PASS", ".", form, *cells]))
    return _META + "\n".join(lines) + "\n"


def plink_files(
    path: Path, samples: Sequence[str], variants: Sequence[str], count_SV: NDArray[np.float64]
) -> None:
    """A .bed with .bim and .fam; the count of A1, NaN where missing; variants "CHR ID 0 POS A1 A2".

    Packed by hand, after the format's definition: two bits a sample, the first one lowest: 00 is
    two of A1, 10 one, 11 none, 01 missing.
    """
    code = {2.0: 0b00, 1.0: 0b10, 0.0: 0b11}
    content = bytearray(b"\x6c\x1b\x01")
    for count_S in count_SV.T:
        codes = [code.get(float(count), 0b01) for count in count_S]
        codes += [0] * (-len(codes) % 4)
        for a, b, c, d in zip(*[iter(codes)] * 4, strict=True):
            content.append(a | b << 2 | c << 4 | d << 6)
    path.write_bytes(bytes(content))
    path.with_suffix(".bim").write_text("".join(f"{v}\n" for v in variants))
    path.with_suffix(".fam").write_text("".join(f"F {s} 0 0 0 -9\n" for s in samples))
