"""Images of simulated patients: a bright spot on tissue, seen by the hospital's scanner.

Of the three summaries, one is the brightness of the spot, one its height in the picture (against
tissue that brightens downwards), one the coarseness of the texture.

Letters of shapes: B patients, I images, H rows, W columns, K summaries.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.granularities import ImagesGranularity
from simulations.rendering.scene import Pixels, Rendering, Scene

Floats32 = NDArray[np.float32]

_AT_ONCE = 1 << 22  # pixels that are held as numbers at a time


def render_images(granularity: ImagesGranularity, scene: Scene) -> Rendering:
    """A table of files, patient_id and file, and one to `max_images` 8-bit images of a patient.

    File names are numbers, and not derived from patient ids.
    """
    random = scene.patients()
    num_patients = len(scene.ids)
    num_images_B = random.integers(1, granularity.max_images + 1, size=num_patients)
    patient_I = np.repeat(np.arange(num_patients), num_images_B)
    height, width = granularity.size
    at_once = max(1, _AT_ONCE // (height * width))
    images: dict[str, Pixels] = {}
    for start in range(0, len(patient_I), at_once):
        shown_IK = scene.shown_BK[patient_I[start : start + at_once]].astype(np.float32)
        seen_IHW = _scanned(_tissue(shown_IK, height, width, random), scene, random)
        pixels_IHW = np.clip(np.round(255 * seen_IHW), 0, 255).astype(np.uint8)
        for i, pixels_HW in enumerate(pixels_IHW, start=start + 1):
            images[f"{i:06d}.png"] = pixels_HW
    table = pd.DataFrame(
        {
            "patient_id": np.asarray(scene.ids, dtype=object)[patient_I],
            "file": [f"{scene.name}/{file}" for file in images],
        }
    )
    return Rendering(table=table, images=images, observed_B=np.ones(num_patients, dtype=np.bool_))


def _tissue(shown_IK: Floats32, height: int, width: int, random: np.random.Generator) -> Floats32:
    """Pictures as they are before the scanner, where 0 is black and 1 is white."""

    def nuisance(spread: float) -> Floats32:
        return spread * random.standard_normal((len(shown_IK), 1), dtype=np.float32)

    row_H = ((np.arange(height) + 0.5) / height).astype(np.float32)
    column_W = ((np.arange(width) + 0.5) / width).astype(np.float32)
    middle_I1 = 0.5 + 0.22 * np.tanh(shown_IK[:, 1:2] / 1.5) + nuisance(0.01)
    size_I1 = 0.1 * np.exp(nuisance(0.1))
    rows_IH = np.exp(-(((row_H - middle_I1) / size_I1) ** 2) / 2)
    columns_IW = np.exp(-(((column_W - 0.5 - nuisance(0.06)) / size_I1) ** 2) / 2)
    brightness_I1 = 0.22 + 0.1 * np.clip(shown_IK[:, 0:1], -2.0, 4.0)
    tissue_IH = 0.25 + 0.2 * row_H + nuisance(0.02)
    white_IHW = random.standard_normal((len(shown_IK), height, width), dtype=np.float32)
    fine_IHW = white_IHW - smooth(white_IHW)
    texture_I11 = 0.03 * np.exp(0.5 * shown_IK[:, 2])[:, None, None]
    picture_IHW: Floats32 = (
        tissue_IH[:, :, None]
        + (brightness_I1 * rows_IH)[:, :, None] * columns_IW[:, None, :]
        + texture_I11 * fine_IHW
    )
    return picture_IHW


def _scanned(picture_IHW: Floats32, scene: Scene, random: np.random.Generator) -> Floats32:
    """The pictures as the hospital's scanner shows them: one setting for all of its patients."""
    size = scene.effects.scanner_shift
    settings = scene.instrument().normal(size=4)
    brightness, contrast = 0.3 * size * settings[0], np.exp(0.7 * size * settings[1])
    blur, noise = min(0.8, size * abs(settings[2])), 0.1 * size * abs(settings[3])
    sharp_IHW = (1 - blur) * picture_IHW + blur * smooth(picture_IHW)
    noise_IHW = random.standard_normal(picture_IHW.shape, dtype=np.float32)
    seen_IHW: Floats32 = np.asarray(
        0.4 + contrast * (sharp_IHW - 0.4) + brightness + noise * noise_IHW, dtype=np.float32
    )
    return seen_IHW


def smooth(picture_IHW: Floats32) -> Floats32:
    """The mean of each pixel and its neighbours, 3 × 3; the edge is repeated."""
    padded = np.pad(picture_IHW, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
    mean_IHW = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 3
    return mean_IHW.astype(np.float32, copy=False)
