"""One picture on its way from a file to the model: its values and the range they are shown in.

Letters of shapes: H height, W width.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 1 << 26  # of one picture: 8192 × 8192, twice the largest X-ray detector

Reason = Literal["unreadable", "unsupported", "too large"]

_LOGGERS = ("PIL", "pydicom", "nibabel")
_LUMA = (np.float32(0.299), np.float32(0.587), np.float32(0.114))  # ITU-R BT.601, as Pillow's


class ImageRefusedError(Exception):
    """An image file that is not used. Its text is one of the reasons, and nothing of the file."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A grayscale picture, larger values brighter.

    Attributes:
        pixels_HW: finite values in the file's own unit, float32.
        low, high: what is shown as black and as white, from the header or the type of the values.
    """

    pixels_HW: NDArray[np.float32]
    low: float
    high: float


def check_size(height: int, width: int) -> None:
    """Nothing, for a picture that can be held in memory.

    Raises:
        ImageRefusedError: it has no pixel, or more than MAX_PIXELS.
    """
    if height < 1 or width < 1:
        raise ImageRefusedError("unreadable")
    if height * width > MAX_PIXELS:
        raise ImageRefusedError("too large")


def gray(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """The luminance of red, green and blue on the last axis, or a grayscale array as it is."""
    if pixels.ndim == 2:
        return pixels.astype(np.float32)
    luminance_HW = np.zeros(pixels.shape[:2], dtype=np.float32)
    for channel, weight in enumerate(_LUMA):
        luminance_HW += weight * pixels[..., channel].astype(np.float32)
    return luminance_HW


def finite(pixels_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values with the lowest one where there is none.

    Raises:
        ImageRefusedError: no value is finite.
    """
    is_finite_HW = np.isfinite(pixels_HW)
    if is_finite_HW.all():
        return pixels_HW
    if not is_finite_HW.any():
        raise ImageRefusedError("unreadable")
    return np.where(is_finite_HW, pixels_HW, pixels_HW[is_finite_HW].min())


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, the imaging libraries neither warn nor log: their words quote headers.

    Within another it costs nothing: setting a level clears the caches of all loggers.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    if all(level > logging.CRITICAL for level in levels):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
