"""The encoder of tabular granularities: numbers with a missing mask, categories as embeddings.

Letters of shapes: B patients, F numeric features, K categorical features, D width, H hidden width.
"""

from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from common.granularities import TabularGranularity
from common.models.contract import GranularityBatch
from common.models.numeric import NumericEncoder, basis_width, in_basis


class TabularEncoder(NumericEncoder):
    """One token per patient from numeric and categorical features.

    The first layer is linear in (normalised value in the basis, observed flag) of each number and
    in one embedding per category, summed: a linear layer over one-hot columns, without building
    them. What is missing contributes its flag and no value; a missing category has an embedding of
    its own. A granularity may do without flags.

    Guarantees:
        - The value that stands at a missing place cannot influence the token.
        - Nor can any value or code of an absent patient, even one that is no number or category.
    """

    def __init__(self, granularity: TabularGranularity, width: int, dropout: float) -> None:
        numeric = granularity.numeric
        super().__init__(numeric)
        sizes = [1 + len(f.categories) for f in granularity.categorical.values()]
        layers = (*granularity.hidden, width)
        self.basis = granularity.basis
        self.flags_missing = granularity.flags_missing
        num_columns = (basis_width(self.basis) + self.flags_missing) * len(numeric)
        self.numbers = nn.Linear(num_columns, layers[0]) if numeric else None
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
            z_BF = self.standardise(batch["numeric_BF"], observed_BF)
            shown_BF = in_basis(z_BF, observed_BF, self.basis)
            if self.flags_missing:
                shown_BF = torch.cat([shown_BF, observed_BF.to(z_BF.dtype)], dim=1)
            token_BH = self.numbers(shown_BF)
        if self.categories is not None:
            codes_BK = torch.where(present_B1, batch["codes_BK"], 0) + self.get_buffer("first_code")
            embedded_BH = self.categories(codes_BK).sum(dim=1)
            token_BH = embedded_BH if token_BH is None else token_BH + embedded_BH
        assert token_BH is not None  # a granularity has at least one feature
        token_BD: Tensor = self.hidden(token_BH)
        return token_BD.unsqueeze(1)
