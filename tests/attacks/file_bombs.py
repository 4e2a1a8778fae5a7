"""Files of some kilobytes that ask for gigabytes or minutes, by kind and number."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from PIL import Image

from client.findings import Finding
from client.sources.source import Source
from tests.attacks.file_formats import (
    Format,
    Read,
    Trial,
    read_markers_of,
    read_picture,
    read_sequences_of,
)
from tests.attacks.file_mutations import png_chunk
from tests.unit.image_builders import dicom_bytes, jpeg_bytes, nifti_bytes
from tests.unit.test_table_mutations import CASES, IDS

_SIDE = 8192  # the largest picture that is read
_PACKED_BYTES = 1 << 27
_VCF_HEADER = b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT"


def _unpacked(start: bytes, filling: bytes) -> bytes:
    """Gzip of 128 MiB in some 130 kB."""
    return gzip.compress(start + filling * (_PACKED_BYTES // len(filling)), 6, mtime=0)


def _parquet(query: str, folder: Path) -> bytes:
    path = folder / "made.parquet"
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        options = "FORMAT parquet, CODEC zstd, ROW_GROUP_SIZE 2048"
        connection.execute(f"COPY ({query}) TO '{path}' ({options})")
    return path.read_bytes()


def _png(width: int, height: int, idat: bytes, *more: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + png_chunk(b"IDAT", idat)


def _jpeg_of_many_scans() -> bytes:
    """A progressive picture of the largest size, of whose scans the last comes 2,000 times."""
    file = io.BytesIO()
    Image.new("L", (_SIDE, _SIDE)).save(file, "JPEG", progressive=True, quality=10)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    # Of a scan this large, its header and the first bytes are enough: what is missing counts as 0.
    return content[:last] + content[last : last + 40] * 2_000 + b"\xff\xd9"


def _dicom(**tags: object) -> bytes:
    return dicom_bytes(**tags)


def _nifti(lengths: Sequence[int], **fields: object) -> bytes:
    dim = np.array([len(lengths), *lengths, *[1] * (7 - len(lengths))], dtype="i2")
    return nifti_bytes(dim=dim, **fields)


PICTURES: dict[str, Callable[[Path], bytes]] = {
    "png of 2^31 pixels a side": lambda _: _png((1 << 31) - 1, (1 << 31) - 1, zlib.compress(b"")),
    "png one pixel too wide": lambda _: _png(_SIDE + 1, _SIDE, zlib.compress(b"\0" * 99)),
    "png without the rows it says": lambda _: _png(16, 1 << 20, zlib.compress(bytes(300))),
    "png text that unpacks to 128 MiB": lambda _: _png(
        9, 9, b"", png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(_PACKED_BYTES)))
    ),
    "png profile that unpacks to 128 MiB": lambda _: _png(
        9, 9, b"", png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(_PACKED_BYTES)))
    ),
    "jpeg of 65,500 pixels a side": lambda _: _sized_jpeg(65_500),
    "jpeg of 2,000 scans": lambda _: _jpeg_of_many_scans(),
    "dicom of 65,535 pixels a side": lambda _: _dicom(Rows=65_535, Columns=65_535),
    "dicom without the pixels it says": lambda _: _dicom(Rows=8192, Columns=8192),
    "dicom of 2^31 frames": lambda _: _dicom(NumberOfFrames=str((1 << 31) - 1)),
    "nifti of 32,767 voxels a side": lambda _: _nifti([32_767] * 3),
    "nifti without the voxels it says": lambda _: _nifti([8192, 8192, 4], datatype=64, bitpix=64),
    "nifti.gz without the voxels it says": lambda _: gzip.compress(_nifti([8192, 8192, 20])),
    "nifti.gz that unpacks to 512 MiB": lambda _: gzip.compress(
        _nifti([8000, 8000, 8], datatype=2, bitpix=8, cal_max=9) + bytes(1 << 29), 6
    ),
    "nifti.gz of a late first voxel": lambda _: gzip.compress(
        nifti_bytes(vox_offset=1 << 24) + bytes(1 << 25)
    ),
}


def _sized_jpeg(side: int) -> bytes:
    content = bytearray(jpeg_bytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(content)


TABLES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "csv.gz of cells": (".csv.gz", lambda _: _unpacked(b"patient_id,a\n", b",")),
    "csv.gz of rows": (".csv.gz", lambda _: _unpacked(b"patient_id,age_years\n", b"1,2\n")),
    "csv.gz of blank lines": (".csv.gz", lambda _: _unpacked(b"patient_id,a\n", b"\n")),
    "csv.gz of an open quote": (".csv.gz", lambda _: _unpacked(b'patient_id,a\n"', b"x\n")),
    "parquet of 3 million rows": (
        ".parquet",
        partial(_parquet, "SELECT 'a' patient_id, 1 age_years FROM range(3000000)"),
    ),
    "parquet of a word of a megabyte, in every row": (
        ".parquet",
        partial(_parquet, "SELECT repeat('ab', 500000) patient_id, 1 age_years FROM range(300)"),
    ),
    "parquet of long lists": (
        ".parquet",
        partial(_parquet, "SELECT range(20000) patient_id, 1 age_years FROM range(40)"),
    ),
}
TEXTS: dict[str, tuple[str, Callable[[Path], Sequence[Finding]], bytes]] = {
    "vcf.gz of samples": ("a.vcf.gz", read_markers_of, _VCF_HEADER),
    "vcf.gz of cells": ("a.vcf.gz", read_markers_of, _VCF_HEADER + b"\ta\n"),
    "fasta.gz of a letter": ("a.fa.gz", read_sequences_of, b">a\n"),
}
_FILLING = {"vcf.gz of samples": b"\ta", "vcf.gz of cells": b"\t0/1", "fasta.gz of a letter": b"A"}


def _pictures(folder: Path) -> Trial:
    def trial(number: int) -> Read:
        path = folder / "picture"
        path.write_bytes(list(PICTURES.values())[number](folder))
        return partial(read_picture, path)

    return trial


def _tables(folder: Path) -> Trial:
    reader, granularity, _ = CASES["tabular"]()

    def trial(number: int) -> Read:
        suffix, make = list(TABLES.values())[number]
        path = folder / f"table{suffix}"
        path.write_bytes(make(folder))
        source = Source(granularity="tabular", path=path, ids=pd.Index(IDS))
        return lambda: reader.read(source, granularity)[1]

    return trial


def _texts(folder: Path) -> Trial:
    def trial(number: int) -> Read:
        name = list(TEXTS)[number]
        file, read, start = TEXTS[name]
        path = folder / file
        path.write_bytes(_unpacked(start, _FILLING[name]))
        return partial(read, path)

    return trial


# By kind, the reading of the bomb of each number, in the order of the names.
BOMBS: dict[str, Format] = {"pictures": _pictures, "tables": _tables, "texts": _texts}
