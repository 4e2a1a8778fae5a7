"""What encoders of measured quantities share: normalisation that belongs to the model.

Letters of shapes: B patients, F numeric features; … is F alone, or time steps and F; N functions of
a basis.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from common.features import NumericFeature
from common.models.contract import Encoder


class NumericEncoder(Encoder):
    """An encoder with the buffers `location` and `scale` (F): x' = (x - location) / scale.

    They belong to the model, so that whoever holds the model needs nothing else to use it, and they
    are never trained. A new model has the middle and half the width of the public ranges there.

    Guarantees:
        - The value that stands at a missing place cannot influence the result.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, numeric: Mapping[str, NumericFeature]) -> None:
        super().__init__()
        ranges = [feature.range for feature in numeric.values()]
        low, high = torch.tensor(ranges, dtype=torch.float32).reshape(-1, 2).unbind(dim=1)
        self.register_buffer("location", (low + high) / 2)
        self.register_buffer("scale", (high - low) / 2)

    def standardise(self, numeric_BF: Tensor, observed_BF: Tensor) -> Tensor:
        """The normalised values, shape (B, …, F), 0 where not observed, in the model's dtype."""
        # `where`, not a product: anything may stand at a missing place, and 0 · NaN is NaN.
        z_BF = (numeric_BF - self.location) / self.scale
        z_BF = torch.where(observed_BF, z_BF, torch.zeros_like(z_BF))
        return z_BF.to(self.location.dtype)


# Standard deviations from the mean where a piecewise linear basis bends.
KNOTS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
_WIDTHS = {"linear": 1, "hinges": 1 + len(KNOTS)}


def basis_width(basis: str) -> int:
    """N, the functions of a basis.

    >>> basis_width("linear"), basis_width("hinges")
    (1, 8)
    """
    return _WIDTHS[basis]


def in_basis(z_BF: Tensor, observed_BF: Tensor, basis: str) -> Tensor:
    """Normalised values as functions of themselves, shape (B, F · N), 0 where not observed.

    "linear": the value alone. "hinges": beside it, the part of it below each negative knot and
    above each of the others, so that most functions of most patients are 0.
    """
    if basis == "linear":
        return z_BF
    parts = [z_BF]
    for knot in KNOTS:
        beyond_BF = z_BF - knot
        hinge_BF = beyond_BF.clamp(max=0) if knot < 0 else beyond_BF.clamp(min=0)
        parts.append(torch.where(observed_BF, hinge_BF, torch.zeros_like(z_BF)))
    return torch.cat(parts, dim=1)
