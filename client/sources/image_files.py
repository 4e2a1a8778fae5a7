"""Pictures out of PNG, JPEG, DICOM and NIfTI files; which it is, the first bytes tell.

The libraries are called directly, not through MONAI: its LoadImage reads every header into memory,
and de-identification forbids to read of a DICOM header what is not needed.

Letters of shapes: H height, W width.
"""

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from client.sources.dicom import FrameDecoder, dicom_frames
from client.sources.frames import (
    MAX_PIXELS,
    Frame,
    ImageRefusedError,
    check_size,
    finite,
    gray,
    quiet,
)
from client.sources.line_files import PIECE_BYTES, unpacked_limit

_PNG, _JPEG, _GZIP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x1f\x8b"
_DICOM, _DICOM_AT = b"DICM", 128
_NIFTI_SIZES = {348: 1, 540: 2}  # the size of the header, which it begins with: the version
_MAX_VOLUME_BYTES = 1 << 32
_MAX_NIFTI_HEADER_BYTES = 1 << 24
# Deflate packs to a 1,032th at best (zlib's "Maximum Compression Factor"); a pixel has a bit or
# more. Pillow takes data that end early for black pixels where they end as a whole stream does.
_MAX_PIXELS_PER_BYTE = 8 * 1032
# Progressive pictures have some ten scans. Each costs what its pixels cost, however short it is.
_JPEG_SCAN = b"\xff\xda"
_MAX_SCANNED_PIXELS = 16 * MAX_PIXELS


def read_frames(path: Path, limit: int, decoder: FrameDecoder) -> Iterator[Frame]:
    """At most `limit` pictures of a file, one by one: a film's first, a volume's middle ones.

    Guarantees:
        - Whatever the file holds, nothing but the two errors below is raised, nothing is printed,
          warned of or logged, and no more is allocated than MAX_PIXELS allow.

    Raises:
        ImageRefusedError: the file is damaged, too large, or of a kind that is not read.
        ImportError: the library that reads such files is not installed.
    """
    with quiet():
        try:
            yield from _frames(path, limit, decoder)
        except (ImageRefusedError, ImportError):
            raise
        except Exception:  # noqa: BLE001 (the libraries raise anything for a damaged file)
            raise ImageRefusedError("unreadable") from None


def _frames(path: Path, limit: int, decoder: FrameDecoder) -> Iterator[Frame]:
    with path.open("rb") as file:
        start = file.read(_DICOM_AT + len(_DICOM))
    if start.startswith((_PNG, _JPEG)):
        return _picture(path)
    if start[_DICOM_AT:] == _DICOM:
        return dicom_frames(path, limit, decoder)
    if start.startswith(_GZIP):
        with gzip.open(path) as unpacked:
            start = unpacked.read(4)
        if _nifti_version(start):
            return _nifti_slices(path, limit, is_gzip=True)
    elif _nifti_version(start):
        return _nifti_slices(path, limit, is_gzip=False)
    raise ImageRefusedError("unsupported")


def _picture(path: Path) -> Iterator[Frame]:
    """The picture of a PNG or JPEG file, as stored: its metadata are not looked at."""
    from PIL import Image  # optional

    try:
        picture = Image.open(path, formats=("PNG", "JPEG"))  # reads the header alone
    except Image.DecompressionBombError:
        raise ImageRefusedError("too large") from None
    with picture:
        check_size(picture.height, picture.width)
        num_pixels = picture.height * picture.width
        if num_pixels > _MAX_PIXELS_PER_BYTE * path.stat().st_size:
            raise ImageRefusedError("unreadable")
        if num_pixels * _num_scans(path) > _MAX_SCANNED_PIXELS:
            raise ImageRefusedError("too large")
        if picture.mode.startswith("I"):  # 16 bits
            pixels_HW, high = gray(np.asarray(picture)), 65535.0
        else:
            pixels_HW, high = gray(np.asarray(picture.convert("L"))), 255.0
    yield Frame(pixels_HW=pixels_HW, low=0.0, high=high)


def _num_scans(path: Path) -> int:
    """The scans of a JPEG file, for which its marker stands; 1 of a PNG file, which has none."""
    num_scans, last = 0, b""
    with path.open("rb") as file:
        if file.read(len(_JPEG)) != _JPEG:
            return 1
        while piece := file.read(PIECE_BYTES):
            num_scans += (last + piece).count(_JPEG_SCAN)
            last = piece[-1:]
    return num_scans


def _nifti_version(start: bytes) -> int | None:
    sizes = (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    return next((_NIFTI_SIZES[size] for size in sizes if size in _NIFTI_SIZES), None)


def _nifti_slices(path: Path, limit: int, *, is_gzip: bool) -> Iterator[Frame]:
    """The middle slices along the last axis; the first axis is an image's rows, as stored."""
    import nibabel  # optional

    with gzip.open(path) if is_gzip else path.open("rb") as file:
        version = _nifti_version(file.read(4))
        file.seek(0)
        kind: Any = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
        # Not `from_stream`: it also reads all extensions of the header, of any size they say.
        header = kind.header_class(file.read(kind.header_class.template_dtype.itemsize))
        image = kind(kind.ImageArrayProxy(file, header.copy(), mmap=False), None, header)
        shape = _checked_shape(image)
        if is_gzip and _end(image) > unpacked_limit(path.stat().st_size):
            raise ImageRefusedError("too large")
        if len(shape) == 2:
            yield _slice(image, ())
            return
        count = min(limit, shape[2])
        first = (shape[2] - count) // 2
        for index in range(first, first + count):
            yield _slice(image, (index,))


def _checked_shape(image: Any) -> tuple[int, ...]:
    shape = tuple(int(length) for length in image.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = image.get_data_dtype()
    if len(shape) not in {2, 3} or dtype.kind not in "iuf":
        raise ImageRefusedError("unsupported")
    check_size(shape[0], shape[1])
    if _end(image) > _MAX_VOLUME_BYTES or image.dataobj.offset > _MAX_NIFTI_HEADER_BYTES:
        raise ImageRefusedError("too large")
    return shape


def _end(image: Any) -> int:
    """Where the last voxel ends, in bytes from the start of the unpacked file."""
    num_bytes: int = math.prod(image.shape) * image.get_data_dtype().itemsize
    return num_bytes + int(image.dataobj.offset)


def _slice(image: Any, index: tuple[int, ...]) -> Frame:
    """One slice, in cal_min to cal_max where the header says so, else in the range of its values.

    Eight bits, unsigned and not rescaled, are in 0 to 255, as in other formats.
    """
    padding = (0,) * (len(image.shape) - 2 - len(index))
    pixels_HW = finite(
        np.asarray(image.dataobj[(slice(None), slice(None), *index, *padding)], "f4")
    )
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        is_plain = image.dataobj.slope == 1 and image.dataobj.inter == 0
        if image.get_data_dtype() == np.uint8 and is_plain:
            low, high = 0.0, 255.0
        else:
            low, high = float(pixels_HW.min()), float(pixels_HW.max())
    return Frame(pixels_HW=pixels_HW, low=low, high=high)
