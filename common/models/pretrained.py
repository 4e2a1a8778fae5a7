"""The encoder of embeddings that frozen, pretrained weights have made of a patient's texts.

The weights themselves are no part of the model: they never change, so their embeddings are inputs,
computed once at each hospital. What is trained is what follows them.

Letters of shapes: B patients, E width of an embedding, D width of the patient's token.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from common.granularities import NotesGranularity
from common.models.contract import Encoder, GranularityBatch
from common.models.layers import mlp


class PretrainedEncoder(Encoder):
    """One token per patient from an embedding, standardised over its own numbers, and an MLP."""

    def __init__(self, granularity: NotesGranularity, width: int, dropout: float) -> None:
        super().__init__()
        assert granularity.pretrained is not None  # by the section's validator
        hidden = [granularity.hidden] * granularity.num_layers
        self.dropout = nn.Dropout(dropout)
        self.mlp = mlp((granularity.pretrained.width, *hidden, width), dropout)

    def forward(self, batch: GranularityBatch) -> Tensor:
        """The token, shape (B, 1, D).

        Args:
            batch: "embedding_BE" float.
        """
        embedding_BE = batch["embedding_BE"].to(next(self.mlp.parameters()).dtype)
        # `where`, not a product: anything may stand at an absent patient's, and 0 · NaN is NaN.
        present_B1 = batch["present_B"].unsqueeze(1)
        embedding_BE = torch.where(present_B1, embedding_BE, torch.zeros_like(embedding_BE))
        # Without scales to be trained: the layer that follows has them.
        scaled_BE = layer_norm(embedding_BE, embedding_BE.shape[1:])
        token_BD: Tensor = self.mlp(self.dropout(scaled_BE))
        return token_BD.unsqueeze(1)
