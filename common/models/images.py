"""The encoder of images: a small convolutional network, shared by all images of a patient.

Letters of shapes: B patients, N images, H height, W width, C channels, D width of the token.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from common.granularities import ImagesGranularity
from common.models.augment import vary_images
from common.models.contract import Encoder, GranularityBatch
from common.models.layers import group_norm, masked_mean

# Public constants, for the middle and the usual spread of a grayscale image from 0 to 1.
_LOCATION, _SCALE = 0.5, 0.25


class ImagesEncoder(Encoder):
    """One token per patient: the mean over the images of what the network sees in each.

    Guarantees:
        - An image that was not observed cannot influence the token.
    """

    def __init__(self, granularity: ImagesGranularity, width: int, dropout: float) -> None:
        super().__init__()
        self.plan = granularity.augment
        is_residual = granularity.encoder == "residual_cnn"
        channels = (1, *granularity.channels)
        stages: list[nn.Module] = []
        for size_in, size_out in pairwise(channels):
            stages.append(nn.Conv2d(size_in, size_out, 3, stride=2, padding=1))
            stages += [ResidualBlock(size_out)] if is_residual else []
            stages += [group_norm(size_out), nn.GELU()]
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(2 * channels[-1], width)

    def forward(self, batch: GranularityBatch) -> Tensor:
        """The token, shape (B, 1, D).

        Args:
            batch: "images_BNHW" uint8, "observed_BN" bool.
        """
        observed_BN = batch["observed_BN"] & batch["present_B"].unsqueeze(1)
        images_BNHW = batch["images_BNHW"].to(self.project.weight.dtype) / 255
        blank = torch.full_like(images_BNHW, _LOCATION)
        images_BNHW = torch.where(observed_BN[:, :, None, None], images_BNHW, blank)
        if self.training:
            images_BNHW = vary_images(images_BNHW, self.plan)
        num_patients, num_images, height, width = images_BNHW.shape
        pixels = images_BNHW.reshape(num_patients * num_images, 1, height, width)
        features = self.stages((pixels - _LOCATION) / _SCALE)
        # The mean sees what is everywhere, the maximum what is small: a fracture, a nodule.
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        pooled_BNC = pooled.reshape(num_patients, num_images, pooled.shape[1])
        token_BD: Tensor = self.project(self.dropout(masked_mean(pooled_BNC, observed_BN)))
        return token_BD.unsqueeze(1)


class ResidualBlock(nn.Module):
    """Two convolutions beside a residual path.

    Source: He et al. 2016, figure 4e, arXiv:1603.05027.
    Differs from the source in: group norm instead of batch norm, which mixes patients.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            convolution = nn.Conv2d(channels, channels, 3, padding=1)
            layers += [group_norm(channels), nn.GELU(), convolution]
        self.layers = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The features after the block, shape (B, C, H, W)."""
        result_BCHW: Tensor = x_BCHW + self.layers(x_BCHW)
        return result_BCHW
