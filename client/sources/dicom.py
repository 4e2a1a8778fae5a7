"""Pictures out of DICOM files, of whose headers only the tags below are read.

Enhanced multi-frame files keep rescale and window in sequences, which are not looked at: their
frames are shown in the full range of their type. Lookup tables are not applied either.

Letters of shapes: H height, W width.
"""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client.sources.frames import Frame, ImageRefusedError, check_size, finite, gray

if TYPE_CHECKING:
    from pydicom import Dataset

# Nothing of these is about the patient; the file's meta information, read besides, is not either.
NEEDED_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
)

_MAX_FRAMES = 100_000
_TIMEOUT_S = 60.0
_DECODER = Path(__file__).with_name("dicom_decoder.py")


class FrameDecoder:
    """Decodes compressed frames in a process of its own, started when one is needed.

    Guarantees:
        - A frame that crashes the decoder, or keeps it busy for more than a minute, is refused, and
          the next one is decoded as usual.
    """

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "FrameDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def decode(self, path: Path, index: int, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """The frame as an array of this shape.

        Raises:
            ImageRefusedError: the frame cannot be decoded, or has another shape.
        """
        process = self._process or self._start()
        timer = threading.Timer(self._timeout_s, process.kill)
        timer.start()
        try:
            return _ask(process, path, index, shape)
        except (OSError, ValueError):  # it is gone, or what it says makes no sense
            self._stop()
            raise ImageRefusedError("unreadable") from None
        finally:
            timer.cancel()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._process = subprocess.Popen(  # noqa: S603 (our own program, and no shell)
            [sys.executable, "-P", str(_DECODER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Threads would each reserve a part of the memory that it may have.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        process.wait()


def dicom_frames(path: Path, limit: int, decoder: FrameDecoder) -> Iterator[Frame]:
    """The first `limit` frames of a DICOM file.

    Guarantees:
        - MONOCHROME1 is inverted, so that larger values are brighter.
        - Values are rescaled, and shown in the header's first window where it has one.
        - Sizes are checked before any pixel is read.

    Raises:
        ImageRefusedError: the file is damaged, too large, or of a kind that is not read.
        ImportError: pydicom, or GDCM for a compressed file, is not installed.
    """
    from pydicom import dcmread, uid
    from pydicom.filereader import read_file_meta_info
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    syntax = read_file_meta_info(path).TransferSyntaxUID
    if syntax not in uid.AllTransferSyntaxes or syntax == uid.DeflatedExplicitVRLittleEndian:
        raise ImageRefusedError("unsupported")  # deflated: it is unpacked before any check
    if syntax.is_compressed and syntax != uid.RLELossless:
        import_module("gdcm")
        try:
            is_available = get_decoder(syntax).is_available
        except NotImplementedError:  # a video
            is_available = False
        if not is_available:
            raise ImageRefusedError("unsupported")
    header = dcmread(path, stop_before_pixels=True, specific_tags=list(NEEDED_TAGS))
    layout = _layout(header)
    for index in range(min(limit, layout.num_frames)):
        if syntax.is_compressed:
            pixels = decoder.decode(path, index, layout.shape)
        else:
            pixels = pixel_array(path, index=index)
        if pixels.shape != layout.shape:
            raise ImageRefusedError("unreadable")
        yield _frame(pixels, header)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    num_frames: int
    shape: tuple[int, ...]


def _layout(header: "Dataset") -> _Layout:
    height, width = int(header.Rows), int(header.Columns)
    num_frames = int(header.get("NumberOfFrames") or 1)
    num_samples = int(header.get("SamplesPerPixel") or 1)
    check_size(height, width)
    if num_frames > _MAX_FRAMES:
        raise ImageRefusedError("too large")
    if num_frames < 1:
        raise ImageRefusedError("unreadable")
    is_palette = header.get("PhotometricInterpretation") == "PALETTE COLOR"
    if num_samples not in {1, 3} or is_palette:
        raise ImageRefusedError("unsupported")
    shape = (height, width) if num_samples == 1 else (height, width, num_samples)
    return _Layout(num_frames=num_frames, shape=shape)


def _frame(pixels: NDArray[np.generic], header: "Dataset") -> Frame:
    slope = _number(header.get("RescaleSlope"), 1.0) or 1.0
    intercept = _number(header.get("RescaleIntercept"), 0.0)
    pixels_HW = finite(gray(pixels) * np.float32(slope) + np.float32(intercept))
    low, high = _window(header) or _type_range(pixels, pixels_HW, header, slope, intercept)
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        return Frame(pixels_HW=-pixels_HW, low=-high, high=-low)
    return Frame(pixels_HW=pixels_HW, low=low, high=high)


def _window(header: "Dataset") -> tuple[float, float] | None:
    """What the header's first window shows as black and white (PS3.3, C.11.2.1.2 and .3)."""
    center = _number(header.get("WindowCenter"), math.nan)
    width = _number(header.get("WindowWidth"), math.nan)
    if not (math.isfinite(center) and width > 0):
        return None
    if header.get("VOILUTFunction") in {"LINEAR_EXACT", "SIGMOID"} or width <= 1:
        return center - width / 2, center + width / 2
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def _type_range(
    pixels: NDArray[np.generic],
    pixels_HW: NDArray[np.float32],
    header: "Dataset",
    slope: float,
    intercept: float,
) -> tuple[float, float]:
    """The range of the stored bits, rescaled; that of the values where they are no integers."""
    if pixels.dtype.kind not in "iu":
        return float(pixels_HW.min()), float(pixels_HW.max())
    bits = int(header.get("BitsStored") or header.BitsAllocated)
    is_signed = bool(header.get("PixelRepresentation"))
    first = -(2 ** (bits - 1)) if is_signed else 0
    ends = [slope * end + intercept for end in (first, first + 2**bits - 1)]
    return min(ends), max(ends)


def _number(value: Any, default: float) -> float:
    """The value, or the first of several."""
    if value is None or value == "":
        return default
    if not isinstance(value, (str, float, int)):
        value = value[0] if len(value) else default
    number = float(value)
    return number if math.isfinite(number) else default


def _ask(
    process: "subprocess.Popen[bytes]", path: Path, index: int, shape: tuple[int, ...]
) -> NDArray[np.generic]:
    if process.stdin is None or process.stdout is None:
        raise OSError("no pipes")
    request = json.dumps({"path": str(path.absolute()), "index": index})
    process.stdin.write(request.encode() + b"\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())  # ValueError where it has died
    if not answer:
        raise ImageRefusedError("unreadable")
    if tuple(answer["shape"]) != shape:
        raise ValueError("expected the shape that the header says")
    dtype = np.dtype(answer["dtype"])
    content = process.stdout.read(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(content, dtype=dtype).reshape(shape)
