"""From a picture to the model's input: contrast, denoising, size. Options of the study, in order.

Nothing here is learned from patients: each image is treated by itself.

Letters of shapes: H height, W width.
"""

import numpy as np
from numpy.typing import NDArray

from client.sources.frames import Frame
from common.granularities import ImagesGranularity

Floats = NDArray[np.float32]

_STRETCHED_PERCENT = (1.0, 99.0)
_NUM_LEVELS = 1 << 16  # of the histogram that is flattened: exact up to 16 bits
_WINDOW = (3, 3)


def model_image(frame: Frame, granularity: ImagesGranularity) -> NDArray[np.uint8]:
    """The image of the study's size, 0 black and 255 white.

    Guarantees:
        - Contrast "stretch" and "equalise" give the same image for a·x + b as for x, a > 0.
        - "opening" never brightens a pixel, "closing" never darkens one.
        - The aspect is kept; what the image does not fill is black, on both sides alike.
        - An image of one value only is black, unless its header says what that value is.
    """
    unit_HW = with_contrast(frame, granularity.contrast)
    unit_HW = denoised(unit_HW, granularity.denoise)
    fitted_HW = fitted(unit_HW, granularity.size)
    image_HW: NDArray[np.uint8] = np.rint(255.0 * np.clip(fitted_HW, 0.0, 1.0)).astype(np.uint8)
    return image_HW


def with_contrast(frame: Frame, contrast: str) -> Floats:
    """The picture's values from 0 to 1."""
    pixels_HW = frame.pixels_HW
    if contrast == "equalise":
        return _equalised(pixels_HW)
    low, high = frame.low, frame.high
    if contrast == "stretch":
        low, high = (float(p) for p in np.percentile(pixels_HW, _STRETCHED_PERCENT))
        if low >= high:  # all but a few pixels are alike
            low, high = float(pixels_HW.min()), float(pixels_HW.max())
    if low >= high:
        return np.zeros_like(pixels_HW)
    unit_HW = (pixels_HW.astype(np.float64) - low) / (high - low)
    return np.clip(unit_HW, 0.0, 1.0).astype(np.float32)


def denoised(unit_HW: Floats, denoise: str) -> Floats:
    """The picture after the study's filter over 3 × 3 pixels."""
    from scipy import ndimage  # optional, and slow to import

    if denoise == "opening":
        return np.asarray(ndimage.grey_opening(unit_HW, size=_WINDOW), dtype=np.float32)
    if denoise == "closing":
        return np.asarray(ndimage.grey_closing(unit_HW, size=_WINDOW), dtype=np.float32)
    if denoise == "median":
        return np.asarray(ndimage.median_filter(unit_HW, size=_WINDOW), dtype=np.float32)
    return unit_HW


def fitted(unit_HW: Floats, size: tuple[int, int]) -> Floats:
    """The picture scaled into the middle of `size` (height, width), black around.

    Pillow's bilinear filter widens with the scale, so that a smaller picture is an average and not
    a sample; it never leaves the range of the values.
    """
    from PIL import Image  # optional

    height, width = unit_HW.shape
    scale = min(size[0] / height, size[1] / width)
    inner_height = min(size[0], max(1, round(height * scale)))
    inner_width = min(size[1], max(1, round(width * scale)))
    picture = Image.fromarray(unit_HW)
    resized = picture.resize((inner_width, inner_height), Image.Resampling.BILINEAR)
    fitted_HW = np.zeros(size, dtype=np.float32)
    top, left = (size[0] - inner_height) // 2, (size[1] - inner_width) // 2
    fitted_HW[top : top + inner_height, left : left + inner_width] = np.asarray(resized)
    return fitted_HW


def _equalised(pixels_HW: Floats) -> Floats:
    """The part of the other pixels that are no brighter: (cdf(x) - cdf(min)) / (1 - cdf(min))."""
    low, high = float(pixels_HW.min()), float(pixels_HW.max())
    if low >= high:
        return np.zeros_like(pixels_HW)
    step = (high - low) / (_NUM_LEVELS - 1)
    levels_HW = ((pixels_HW.astype(np.float64) - low) / step).round().astype(np.int64)
    cumulated = np.bincount(levels_HW.ravel(), minlength=_NUM_LEVELS).cumsum()
    darkest, num_pixels = int(cumulated[0]), pixels_HW.size
    flat = (cumulated - darkest) / (num_pixels - darkest)
    return np.asarray(flat[levels_HW], dtype=np.float32)
