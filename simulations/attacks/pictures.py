"""Pictures that were recovered, beside the originals, for a page. Of simulated patients alone."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.page.document import Picture, Pictures
from simulations.attacks.gradient_inversion import psnr_db
from simulations.attacks.reconstruction import Gallery


def pictures_of(gallery: Gallery, *, seed: int) -> Pictures:
    """The original, the mean image of other patients, and what was found under each protection."""
    title = f"Simulated patient {seed}"
    shown = {"the original": gallery.original, "mean of other patients": gallery.mean}
    found = {f"found, {name}": image for name, image in gallery.found.items()}
    return Pictures(
        caption=title,
        pictures=[
            _picture(name, image, gallery.original, title)
            for name, image in (shown | found).items()
        ],
    )


def _picture(
    name: str, image: NDArray[np.float64], original: NDArray[np.float64], whose: str
) -> Picture:
    height, width = image.shape
    is_original = image is original
    likeness = "" if is_original else f" ({psnr_db(image, original):.1f} dB)"
    return Picture(
        title=f"{name}{likeness}",
        source=png_uri(image),
        alt=f"{whose}: {name}{likeness}",
        size=(width, height),
    )


def png_uri(grey_HW: NDArray[np.float64]) -> str:
    """A PNG of grey values from 0 to 1 as a data URI; equal values give equal texts."""
    pixels = np.clip(np.round(255 * grey_HW), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=False)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
