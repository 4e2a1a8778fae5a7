"""Augmentation: how images and series are varied in training, each patient independently.

It runs within the encoder's forward pass, so that under privacy it is inside the patient's
clipping: the gradient that is clipped is that of the varied patient. Nothing here branches on data,
so that `torch.func.vmap(randomness="different")` maps it over patients.

Letters of shapes: B patients, N images, H height, W width, T steps, F signals.
"""

import torch
from torch import Tensor

from common.augmentation import ImageAugmentation, SeriesAugmentation


def vary_images(images_BNHW: Tensor, plan: ImageAugmentation) -> Tensor:
    """The images of each patient flipped, shifted, changed in contrast and with noise, in [0, 1].

    All images of a patient are flipped, shifted and changed alike. A shift repeats the border.

    Args:
        images_BNHW: floating point, 0 to 1.
    """
    patients = (images_BNHW.shape[0], 1, 1, 1)
    if plan.flip > 0:
        is_flipped = torch.rand(patients, device=images_BNHW.device) < plan.flip
        images_BNHW = torch.where(is_flipped, images_BNHW.flip(-1), images_BNHW)
    if plan.shift > 0:
        images_BNHW = _shift(_shift(images_BNHW, plan.shift, dim=2), plan.shift, dim=3)
    if plan.contrast > 0:
        factor = 1 + plan.contrast * (2 * _uniform(images_BNHW, patients) - 1)
        middle = images_BNHW.mean(dim=(2, 3), keepdim=True)
        images_BNHW = (middle + factor * (images_BNHW - middle)).clamp(0, 1)
    if plan.noise > 0:
        images_BNHW = (images_BNHW + plan.noise * torch.randn_like(images_BNHW)).clamp(0, 1)
    return images_BNHW


def vary_series(
    z_BTF: Tensor, observed_BTF: Tensor, plan: SeriesAugmentation
) -> tuple[Tensor, Tensor]:
    """The series of each patient with noise, and with whole steps hidden; values and mask.

    What was not observed stays so, and stays zero.

    Args:
        z_BTF: in standard deviations of the signal, 0 where not observed.
    """
    if plan.noise > 0:
        z_BTF = z_BTF + plan.noise * torch.randn_like(z_BTF)
    if plan.drop > 0:
        num_patients, num_steps, _ = z_BTF.shape
        uniform = torch.rand(num_patients, num_steps, 1, device=z_BTF.device)
        observed_BTF = observed_BTF & (uniform >= plan.drop)
    return torch.where(observed_BTF, z_BTF, torch.zeros_like(z_BTF)), observed_BTF


def _shift(images_BNHW: Tensor, largest: float, *, dim: int) -> Tensor:
    """The images moved along `dim` by up to `largest` of the side, in whole pixels."""
    size = images_BNHW.shape[dim]
    reach = int(largest * size)
    by_B111 = ((2 * reach + 1) * _uniform(images_BNHW, (images_BNHW.shape[0], 1, 1, 1))).floor()
    along = [1, 1, 1, 1]
    along[dim] = size
    place = torch.arange(size, device=images_BNHW.device).view(along)
    source = (place - by_B111.long() + reach).clamp(0, size - 1)
    return images_BNHW.gather(dim, source.expand(images_BNHW.shape))


def _uniform(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, dtype=like.dtype, device=like.device)
