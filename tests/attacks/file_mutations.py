"""Damage that keeps a file's frame: right checksums and lengths around absurd content.

What `tests.unit.mutation` does to bytes mostly ends at a checksum or at the first magic number.
These get further. All of it is seeded: a mutant is made again from its number.
"""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from tests.unit.mutation import mutants

_PNG_MAGIC, _IHDR_BYTES = 8, 13
_ABSURD = (0, 1, 2, 7, 8, 16, 255, 256, 32767, 65535, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)

_ABSURD_CELLS = (
    *("", ".", "1e999", "-1", "NaN", "9" * 5000, "\x00", "\ufeff", "A" * 70_000, "0/0/" * 900),
    *(",", ";", ":", "/", "|", "99/99", "0|.", "\r", "#CHROM", ">", "é", "\u2028", "0x1F"),
)

DICOM_TAGS: dict[str, tuple[object, ...]] = {
    "Rows": (0, 1, 11, 4096, 65535),
    "Columns": (0, 1, 17, 4096, 65535),
    "NumberOfFrames": ("0", "-1", "2", "99999", "2147483647"),
    "SamplesPerPixel": (0, 2, 3, 4, 65535),
    "PhotometricInterpretation": ("RGB", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME1", ""),
    "PlanarConfiguration": (0, 1, 2),
    "BitsAllocated": (0, 1, 8, 12, 16, 32, 64, 65535),
    "BitsStored": (0, 1, 17, 64, 65535),
    "PixelRepresentation": (0, 1, 2),
    "RescaleSlope": ("0", "1e38", "-1e-38", "nan", "inf"),
    "RescaleIntercept": ("1e38", "-1e308", "nan"),
    "WindowCenter": ("1e38", ["40", "80"], "inf"),
    "WindowWidth": ("0", "-5", "1e-30", "1e38"),
    "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", "OTHER"),
}
NIFTI_FIELDS: dict[str, tuple[object, ...]] = {
    "datatype": (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 1792, 2048, 2304, 99),
    "bitpix": (0, 1, 8, 64, 32767),
    "vox_offset": (0, 1, 347, 352, 353, 1 << 24, 1e18),
    "scl_slope": (0.0, 1e38, -1e38, float("nan"), float("inf")),
    "scl_inter": (1e38, -1e38, float("nan")),
    "cal_min": (1e38, float("nan"), -1.0),
    "cal_max": (-1e38, float("inf"), 200.0),
}


def damaged(content: bytes, source: random.Random, *, header: int = 400) -> bytes:
    """One mutant of bytes, see `tests.unit.mutation`."""
    *_, last = mutants(
        content, header=header, count=1 + source.randrange(10), seed=source.getrandbits(32)
    )
    return last


def damaged_png(content: bytes, source: random.Random) -> bytes:
    """A PNG of whole chunks, each with its checksum, of which one or two are not as they were."""
    chunks = _png_chunks(content)
    for _ in range(source.randint(1, 2)):
        place = source.randrange(len(chunks))
        kind, data = chunks[place]
        match source.randrange(6):
            case 0 if kind == b"IHDR" and len(data) == _IHDR_BYTES:
                chunks[place] = (kind, _damaged_header(data, source))
            case 0 | 1 if data:
                chunks[place] = (kind, damaged(data, source, header=20))
            case 2:
                chunks.insert(source.randrange(len(chunks)), (kind, data))
            case 3 if len(chunks) > 1:
                del chunks[place]
            case 4:
                new = source.choice([b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf", b"iCCP", b"gAMA"])
                chunks.insert(place, (new, source.randbytes(source.choice([0, 4, 26, 300]))))
            case _:
                unpacked = source.randbytes(300)
                chunks[place] = (b"IDAT", zlib.compress(unpacked))
    return content[:_PNG_MAGIC] + b"".join(png_chunk(kind, data) for kind, data in chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def damaged_dicom(data: Dataset, source: random.Random) -> bytes:
    """A DICOM file of whole elements, some with values that make no sense together."""
    for _ in range(source.randint(1, 3)):
        name = source.choice(list(DICOM_TAGS))
        setattr(data, name, source.choice(DICOM_TAGS[name]))
    if source.randrange(4) == 0:
        data.PixelData = data.PixelData[: source.randrange(len(data.PixelData))]
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def damaged_nifti_fields(source: random.Random, *, version: int) -> dict[str, object]:
    """Fields of a NIfTI header that make no sense together."""
    fields: dict[str, object] = {}
    for name in source.sample(list(NIFTI_FIELDS), source.randint(0, 2)):
        fields[name] = source.choice(NIFTI_FIELDS[name])
    if not fields or source.randrange(2):
        lengths = [0, -1, 1, 3, 5, 9, 10, 8192, 32767]
        lengths += [(1 << 40) + 1, -(1 << 62)] if version == 2 else []
        dim = [source.randrange(-1, 9), *(source.choice(lengths) for _ in range(7))]
        fields["dim"] = np.array(dim, dtype="i2" if version == 1 else "i8")
    if "vox_offset" in fields and version == 2:
        fields["vox_offset"] = int(float(str(fields["vox_offset"])))
    return fields


def damaged_fields(text: str, source: random.Random, separator: str) -> str:
    """Lines of which some cells are absurd, gone, swapped or too many."""
    lines = [line.split(separator) for line in text.split("\n")]
    for _ in range(source.randint(1, 6)):
        cells = source.choice(lines)
        place = source.randrange(len(cells))
        match source.randrange(5):
            case 0:
                cells[place] = _absurd_cell(source)
            case 1:
                del cells[place + 1 :]
            case 2:
                cells.insert(place, source.choice(cells))
            case 3:
                cells[place] += _absurd_cell(source)
            case _:
                other = source.choice(lines)
                cells[:], other[:] = list(other), list(cells)
    return "\n".join(separator.join(cells) for cells in lines)


def damaged_toml(text: str, source: random.Random) -> bytes:
    """A TOML file with another value, or another kind of value, on some lines."""
    if source.randrange(3) == 0:
        return damaged(text.encode(), source)
    lines = text.split("\n")
    for _ in range(source.randint(1, 3)):
        place = source.randrange(len(lines))
        key, equals, _ = lines[place].partition("=")
        match source.randrange(4):
            case 0 if equals:
                lines[place] = f"{key}= {_toml_value(source)}"
            case 1:
                lines.insert(place, source.choice(lines))
            case 2:
                del lines[place]
                lines.append("")
            case _:
                lines.insert(place, source.choice(["[site]", "[[policy]]", "[a.b.c]", "x = 1"]))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _toml_value(source: random.Random) -> str:
    deep = source.choice([1, 50, 3000])
    return source.choice(
        [
            "1e999",
            "nan",
            "-inf",
            "9" * source.choice([20, 400, 5000]),
            "[" * deep + "]" * deep,
            "{a=" * deep + "1" + "}" * deep,
            "0001-01-01T00:00:00Z",
            "true",
            '""',
            '"\\uD800"',
            "'" + "../" * 40 + "etc'",
            '"\\u0000"',
            '"' + "x" * 5000 + '"',
            "{}",
            "[1, 'a', {b = 2}]",
        ]
    )


def _absurd_cell(source: random.Random) -> str:
    return source.choice(_ABSURD_CELLS)


def _damaged_header(data: bytes, source: random.Random) -> bytes:
    """IHDR with other sizes, depths and kinds of color."""
    width, height, *rest = struct.unpack(">IIBBBBB", data)
    place = source.randrange(7)
    fields: list[Any] = [width, height, *rest]
    fields[place] = source.choice(_ABSURD) if place < 2 else source.choice([0, 1, 2, 3, 4, 6, 16])
    return struct.pack(">IIBBBBB", *fields)


def _png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], _PNG_MAGIC
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks
