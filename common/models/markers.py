"""The encoders of genomic markers: an MLP, or convolutions over the markers as a row or an image.

Letters of shapes: B patients, F markers, C channels, P places, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.granularities import MarkersGranularity
from common.models.contract import GranularityBatch
from common.models.layers import group_norm, mlp
from common.models.numeric import NumericEncoder

# Places along each axis that the last layer of a convolutional encoder tells apart.
_MOST_PLACES = {1: 128, 2: 11}


class MarkersEncoder(NumericEncoder):
    """One token per patient from (normalised value, observed flag) of each marker.

    A convolution sees markers as channels of places, in a row ("cnn1d") or row by row in a square
    ("cnn2d", whose rest is empty). What it finds is averaged over neighbouring places only where
    there are too many, and never over all: which marker it is matters.

    Guarantees:
        - The value that stands at a missing place cannot influence the token.
    """

    def __init__(self, granularity: MarkersGranularity, width: int, dropout: float) -> None:
        super().__init__(granularity.numeric)
        num_markers = len(granularity.markers)
        self.body: nn.Module
        match granularity.encoder:
            case "mlp":
                self.body = mlp((2 * num_markers, *granularity.hidden, width), dropout)
            case "cnn1d":
                self.body = RowConvolution(num_markers, granularity.hidden, width, dropout)
            case "cnn2d":
                self.body = SquareConvolution(num_markers, granularity.hidden, width, dropout)

    def forward(self, batch: GranularityBatch) -> Tensor:
        """The token, shape (B, 1, D).

        Args:
            batch: "numeric_BF" float, "observed_BF" bool.
        """
        observed_BF = batch["observed_BF"] & batch["present_B"].unsqueeze(1)
        z_BF = self.standardise(batch["numeric_BF"], observed_BF)
        token_BD: Tensor = self.body(torch.cat([z_BF, observed_BF.to(z_BF.dtype)], dim=1))
        return token_BD.unsqueeze(1)


class RowConvolution(nn.Module):
    """Convolutions along the markers, each of which leaves a quarter of the places."""

    def __init__(
        self, num_markers: int, channels: tuple[int, ...], width: int, dropout: float
    ) -> None:
        super().__init__()
        num_places = num_markers
        layers: list[nn.Module] = []
        for size_in, size_out in zip((2, *channels), channels, strict=False):
            convolution = nn.Conv1d(size_in, size_out, 7, stride=4, padding=3)
            layers += [convolution, group_norm(size_out), nn.GELU()]
            num_places = -(-num_places // 4)
        pool = -(-num_places // _MOST_PLACES[1])
        num_places = -(-num_places // pool)
        self.layers = nn.Sequential(*layers, nn.AvgPool1d(pool, ceil_mode=True))
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear((2, *channels)[-1] * num_places, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """The token, shape (B, D), from values and flags side by side, (B, 2F)."""
        num_patients, num_inputs = inputs.shape
        features_BCP = self.layers(inputs.view(num_patients, 2, num_inputs // 2))
        token_BD: Tensor = self.project(self.dropout(features_BCP.flatten(1)))
        return token_BD


class SquareConvolution(nn.Module):
    """Convolutions over the markers laid out row by row as an image, each of which halves it."""

    def __init__(
        self, num_markers: int, channels: tuple[int, ...], width: int, dropout: float
    ) -> None:
        super().__init__()
        self.side = side = next(n for n in range(1, num_markers + 1) if n * n >= num_markers)
        layers: list[nn.Module] = []
        for size_in, size_out in zip((2, *channels), channels, strict=False):
            convolution = nn.Conv2d(size_in, size_out, 3, stride=2, padding=1)
            layers += [convolution, group_norm(size_out), nn.GELU()]
            side = -(-side // 2)
        pool = -(-side // _MOST_PLACES[2])
        side = -(-side // pool)
        self.layers = nn.Sequential(*layers, nn.AvgPool2d(pool, ceil_mode=True))
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear((2, *channels)[-1] * side**2, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """The token, shape (B, D), from values and flags side by side, (B, 2F)."""
        num_patients, num_markers = inputs.shape[0], inputs.shape[1] // 2
        row_BCF = inputs.view(num_patients, 2, num_markers)
        row_BCF = functional.pad(row_BCF, (0, self.side**2 - num_markers))
        features = self.layers(row_BCF.view(num_patients, 2, self.side, self.side))
        token_BD: Tensor = self.project(self.dropout(features.flatten(1)))
        return token_BD
