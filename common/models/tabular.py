"""The encoder of tabular granularities: numbers with a missing mask, categories as embeddings.

Letters of shapes: B patients, F numeric features, K categorical features, D width, H hidden width.
"""

from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from common.models.contract import Encoder, GranularityBatch
from common.study import TabularGranularity


class TabularEncoder(Encoder):
    """One token per patient from numeric and categorical features.

    The first layer is linear in (normalised value, observed flag) of each number and in one
    embedding per category, summed: a linear layer over one-hot columns, without building them. What
    is missing contributes its flag and no value; a missing category has an embedding of its own.

    The buffers `location` and `scale` (F) normalise: x' = (x - location) / scale. They belong to
    the model, so that whoever holds the model needs nothing else to use it, and they are never
    trained.

    Guarantees:
        - The value that stands at a missing place cannot influence the token.
        - Nor can any value or code of an absent patient, even one that is no number or category.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, granularity: TabularGranularity, width: int, dropout: float) -> None:
        super().__init__()
        numeric = granularity.numeric
        sizes = [1 + len(f.categories) for f in granularity.categorical.values()]
        layers = (*granularity.hidden, width)
        self.numbers = nn.Linear(2 * len(numeric), layers[0]) if numeric else None
        self.categories = nn.Embedding(sum(sizes), layers[0]) if sizes else None
        self.hidden = nn.Sequential(
            *(
                layer
                for size_in, size_out in pairwise(layers)
                for layer in (nn.GELU(), nn.Dropout(dropout), nn.Linear(size_in, size_out))
            )
        )
        if self.categories is not None:
            nn.init.normal_(self.categories.weight, std=len(sizes) ** -0.5)
        low, high = _ranges(granularity)
        self.register_buffer("location", (low + high) / 2)
        self.register_buffer("scale", (high - low) / 2)
        first = torch.tensor(list(accumulate(sizes[:-1], initial=0)) if sizes else [])
        self.register_buffer("first_code", first.long(), persistent=False)

    def forward(self, batch: GranularityBatch) -> Tensor:
        """The token, shape (B, 1, D).

        Args:
            batch: "numeric_BF" float, "observed_BF" bool, "codes_BK" int64 where 0 is missing.
        """
        token_BH: Tensor | None = None
        present_B1 = batch["present_B"].unsqueeze(1)
        if self.numbers is not None:
            observed_BF = batch["observed_BF"] & present_B1
            z_BF = (batch["numeric_BF"] - self.location) / self.scale
            z_BF = torch.where(observed_BF, z_BF, torch.zeros_like(z_BF))
            token_BH = self.numbers(torch.cat([z_BF, observed_BF.to(z_BF.dtype)], dim=1))
        if self.categories is not None:
            codes_BK = torch.where(present_B1, batch["codes_BK"], 0) + self.get_buffer("first_code")
            embedded_BH = self.categories(codes_BK).sum(dim=1)
            token_BH = embedded_BH if token_BH is None else token_BH + embedded_BH
        assert token_BH is not None  # a granularity has at least one feature
        token_BD: Tensor = self.hidden(token_BH)
        return token_BD.unsqueeze(1)


def _ranges(granularity: TabularGranularity) -> tuple[Tensor, Tensor]:
    ranges = [feature.range for feature in granularity.numeric.values()]
    bounds = torch.tensor(ranges, dtype=torch.float32).reshape(-1, 2)
    return bounds[:, 0], bounds[:, 1]
