"""Gradient inversion: a patient's image from the gradient of the image encoder.

A search for the image whose gradient is the one that was sent. It needs no label and nothing else
of the patient: the gradient of the encoder's last bias is the gradient of the image's token, and
that is all that the encoder's gradient depends on beside the image. The search is Gauss and
Newton's with damping, from the mean image of patients whom the attacker knows, and weighs what the
gradient says against how images vary, as the known noise demands.

Strength: of a step of one patient it gives the image to the last grey level where the encoder's
last stage sees few places, with or without clipping: the gradient has many more numbers than the
image, and far fewer of them are needed.

Limits: one image of one patient, one step of plain gradient descent. Where the encoder ends in many
places, of which it takes the maximum, the search ends in wrong images: which place was the maximum
is a choice that no derivative leads through. The cost grows with the third power of the pixels.

Source: Zhu et al. 2019, Deep leakage from gradients, algorithm 1, arXiv:1906.08935; Zhao et al.
2020, iDLG, arXiv:2001.02610; Geiping et al. 2020, Inverting gradients, arXiv:2003.14053.
Differs from the source in: squared distance by Levenberg and Marquardt's method (Nocedal and Wright
    2006, section 10.3) instead of first-order descent, which needs thousands of steps and comes
    less near; a normal prior of pixels instead of total variation; the token's gradient is read,
    not searched for.

Letters of shapes: N images, H height, W width, P parameters of the encoder, X pixels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, jacfwd

from common.contract import validate
from common.errors import StudyError
from common.granularities import ImagesGranularity
from common.models.images import ImagesEncoder
from common.models.patient_model import PatientModel
from common.study import Study

LIMITS = (
    "Searches for one image of one patient in one step of plain gradient descent. A batch of many, "
    "or an encoder that takes the maximum over many places, leaves it in wrong images."
)
# A found image must be this good, and better by this much than the mean image of other patients.
ENOUGH_DB, MORE_THAN_MEAN_DB = 20.0, 6.0
# What rounding to 32 bits leaves of a gradient, as a part of its root mean square.
_ROUNDING = 1e-5
_FIRST_DAMPING, _MOST_DAMPING = 1e-2, 1e8
# A step that gains less than this part of what is left is the last.
_WORTHWHILE = 1e-2
_MOST_STEPS = 30
# Of all searches for an image together.
_MOST_PIXELS = 12 * 256
# Square of the residual, over how many it has, at which a search has found what there is.
_NEAR_ENOUGH = 4.0


@dataclass(frozen=True, kw_only=True)
class Album:
    """Images of patients whom the attacker knows: how images look.

    Attributes:
        mean_HW: grey values from 0 to 1.
        sd: of a pixel.
        starts: images to start a search from, the mean first.
    """

    mean_HW: NDArray[np.float64]
    sd: float
    starts: tuple[NDArray[np.float64], ...]

    @classmethod
    def of(cls, images_NHW: NDArray[np.uint8]) -> "Album":
        """That of one image or more."""
        grey_NHW = images_NHW / 255.0
        mean_HW = grey_NHW.mean(axis=0)
        sd = max(float(np.std(grey_NHW - mean_HW)), 1e-2)
        return cls(mean_HW=mean_HW, sd=sd, starts=(mean_HW, *grey_NHW))


def images_granularity(study: Study) -> str | None:
    """The name of the first granularity of images; None where there is none."""
    kinds = study.granularities.items()
    return next((n for n, g in kinds if isinstance(g, ImagesGranularity)), None)


def with_telling_encoder(study: Study, name: str) -> Study:
    """The study with images of 16 × 16 pixels and an encoder whose last stage sees one place.

    A study that a coordinator may propose, and a hospital accept.
    """
    table = study.model_dump(mode="json", exclude_none=True)
    table["granularities"][name] |= {
        "size": [16, 16],
        "channels": [8, 16, 32, 32],
        "encoder": "cnn",
        "max_images": 1,
        "contrast": "none",
        "denoise": "none",
    }
    return validate(table, Study, StudyError, where=f"study '{study.name}' as it is attacked")


def invert(
    gradients: Mapping[str, NDArray[np.float64]],
    study: Study,
    name: str,
    album: Album,
    *,
    noise_sd: float = 0.0,
) -> NDArray[np.float64]:
    """The image (H, W), from 0 to 1, whose gradient comes nearest to the one that was sent.

    Guarantees:
        - Of a step of one patient, clipped or not, it is the patient's image where the last stage
          of the encoder sees one place.
        - Where the noise is large it stays with the mean image.

    Args:
        gradients: of one patient, by block of the model that the study starts with.
        name: of the granularity of images.
        noise_sd: of each number of the gradient, which the attacker knows from the study.
    """
    place = f"encoders.{name}."
    own = {n.removeprefix(place): torch.from_numpy(v) for n, v in gradients.items() if place in n}
    token_D = own.pop("project.bias")
    encoder = PatientModel(study).encoders[name].double()
    if not isinstance(encoder, ImagesEncoder):
        raise ValueError(f"expected a granularity of images, found '{name}'")
    wanted_P = torch.cat([value.reshape(-1) for value in own.values()])
    rms = float(wanted_P.square().mean().sqrt())
    noise_sd = math.hypot(noise_sd, _ROUNDING * max(rms, 1e-30))
    gradient = _gradient_of(encoder, token_D, list(own))
    mean_X = torch.from_numpy(album.mean_HW).reshape(-1)
    shape = album.mean_HW.shape

    def residual(pixels_X: Tensor) -> Tensor:
        told_P = (gradient(pixels_X.view(shape)) - wanted_P) / noise_sd
        return torch.cat([told_P, (pixels_X - mean_X) / album.sd])

    nearest, least = mean_X, math.inf
    # Of several searches the one that ends nearest counts; one as near as noise allows is the last.
    num_starts = max(1, _MOST_PIXELS // len(mean_X))
    for start_HW in album.starts[:num_starts]:
        found_X, far = _least_squares(residual, torch.from_numpy(start_HW).reshape(-1))
        if far < least:
            nearest, least = found_X, far
        if least <= _NEAR_ENOUGH * (len(wanted_P) + len(mean_X)):
            break
    image_HW: NDArray[np.float64] = nearest.view(shape).numpy()
    return image_HW


def _gradient_of(
    encoder: ImagesEncoder, token_D: Tensor, names: list[str]
) -> Callable[[Tensor], Tensor]:
    """The encoder's gradient as a function of an image, where the token's gradient is given."""
    parameters = {name: p.detach() for name, p in encoder.named_parameters()}
    present = torch.ones(1, dtype=torch.bool)

    def told(parameters: dict[str, Tensor], image_HW: Tensor) -> Tensor:
        batch = {
            "images_BNHW": 255 * image_HW[None, None],
            "observed_BN": present[None],
            "present_B": present,
        }
        token_11D: Tensor = functional_call(encoder, parameters, (batch,))
        return token_11D[0, 0] @ token_D

    def gradient(image_HW: Tensor) -> Tensor:
        by_name = grad(told)(parameters, image_HW)
        return torch.cat([by_name[name].reshape(-1) for name in names])

    return gradient


def _least_squares(residual: Callable[[Tensor], Tensor], start_X: Tensor) -> tuple[Tensor, float]:
    """The pixels from 0 to 1 whose residual is small, downhill from `start_X`; and its square."""
    jacobian = jacfwd(residual)
    pixels_X, damping = start_X.clone(), _FIRST_DAMPING
    residual_R = residual(pixels_X)
    far = float(residual_R @ residual_R)
    for _ in range(_MOST_STEPS):
        slope_RX = jacobian(pixels_X)
        square_XX, down_X = slope_RX.T @ slope_RX, slope_RX.T @ residual_R
        before = far
        while damping <= _MOST_DAMPING:
            damped_XX = square_XX + damping * torch.diag(square_XX.diagonal())
            step_X = torch.linalg.solve(damped_XX, -down_X)
            tried_X = (pixels_X + step_X).clamp(0.0, 1.0)
            tried_R = residual(tried_X)
            far = float(tried_R @ tried_R)
            if far < before:
                break
            damping *= 4
        else:
            return pixels_X, before
        pixels_X, residual_R, damping = tried_X, tried_R, damping / 5
        if before - far < _WORTHWHILE * before:
            break
    return pixels_X, far


def is_recovered(found_db: float, mean_db: float) -> bool:
    """Whether an image is good, and clearly better than the mean image of other patients."""
    return found_db > max(ENOUGH_DB, mean_db + MORE_THAN_MEAN_DB)


def psnr_db(image_HW: NDArray[np.float64], truth_HW: NDArray[np.float64]) -> float:
    """The peak signal-to-noise ratio of grey values from 0 to 1, at most 99 dB.

    >>> round(psnr_db(np.zeros((2, 2)), np.full((2, 2), 0.1)), 6)
    20.0
    """
    error = float(np.mean((image_HW - truth_HW) ** 2))
    return 99.0 if error == 0 else min(99.0, -10 * math.log10(error))
