"""The encoders of token codes (notes, sequences): a bag, an LSTM, or a small Transformer.

Letters of shapes: B patients, T token codes, H hidden width, D width of the patient's token.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from common.granularities import TokenGranularity
from common.models.contract import Encoder, GranularityBatch
from common.models.layers import TransformerBlock, masked_last, masked_mean, mlp
from common.models.recurrent import LSTMLayer

PADDING = 0
_SMALL = 0.1


class TokensEncoder(Encoder):
    """One token per patient from a row of codes, of which 0 is padding.

    Padding has a row in the embedding like any other code (a padding index would give wrong
    per-sample gradients in Opacus) and is masked wherever it could be read.

    Guarantees:
        - More padding at the end does not change the token.
        - A patient whose row is all padding has a finite token.
    """

    def __init__(self, granularity: TokenGranularity) -> None:
        super().__init__()
        self.embedding = nn.Embedding(granularity.num_codes, granularity.hidden)

    def forward(self, batch: GranularityBatch) -> Tensor:
        """The token, shape (B, 1, D).

        Args:
            batch: "tokens_BT" int64; T is at most the study's `max_tokens`.
        """
        tokens_BT = batch["tokens_BT"]
        absent = torch.full_like(tokens_BT, PADDING)
        tokens_BT = torch.where(batch["present_B"].unsqueeze(1), tokens_BT, absent)
        return self.encode(self.embedding(tokens_BT), tokens_BT != PADDING).unsqueeze(1)

    @abstractmethod
    def encode(self, x_BTH: Tensor, real_BT: Tensor) -> Tensor:
        """The token, shape (B, D), from embeddings, of which those of padding are not `real_BT`."""


class BagEncoder(TokensEncoder):
    """The mean of the embeddings, through an MLP: the order of tokens does not count.

    Embeddings start small, so that words that were never trained say little; the norm after the
    mean brings back the scale, and with it the gradient, that a mean over many words loses.

    Source: Iyyer et al. 2015, deep averaging network, section 2.2.
    Differs from the source in: the layer norm.
    """

    def __init__(self, granularity: TokenGranularity, width: int, dropout: float) -> None:
        super().__init__(granularity)
        nn.init.normal_(self.embedding.weight, std=_SMALL)
        self.norm = nn.LayerNorm(granularity.hidden)
        self.mlp = mlp((*[granularity.hidden] * (1 + granularity.num_layers), width), dropout)

    def encode(self, x_BTH: Tensor, real_BT: Tensor) -> Tensor:
        """The token, shape (B, D)."""
        token_BD: Tensor = self.mlp(self.norm(masked_mean(x_BTH, real_BT)))
        return token_BD


class LSTMEncoder(TokensEncoder):
    """An LSTM over the tokens, read by the mean of its states and the last of them."""

    def __init__(self, granularity: TokenGranularity, width: int, dropout: float) -> None:
        super().__init__(granularity)
        hidden = granularity.hidden
        self.layers = nn.ModuleList(
            LSTMLayer(hidden, hidden) for _ in range(granularity.num_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(2 * hidden, width)

    def encode(self, x_BTH: Tensor, real_BT: Tensor) -> Tensor:
        """The token, shape (B, D)."""
        for layer in self.layers:
            x_BTH = layer(self.dropout(x_BTH), real_BT)
        read_BH = torch.cat([masked_mean(x_BTH, real_BT), masked_last(x_BTH, real_BT)], dim=1)
        token_BD: Tensor = self.project(self.dropout(read_BH))
        return token_BD


class TransformerEncoder(TokensEncoder):
    """Embeddings with sinusoidal positions, pre-norm Transformer blocks, and the mean over tokens.

    Source: Vaswani et al. 2017, sections 3.2 and 3.5, arXiv:1706.03762.
    """

    positions: Tensor

    def __init__(self, granularity: TokenGranularity, width: int, dropout: float) -> None:
        super().__init__(granularity)
        hidden = granularity.hidden
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden, granularity.num_heads, dropout)
            for _ in range(granularity.num_layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(hidden, width)
        positions_TH = sinusoids(granularity.max_tokens, hidden)
        self.register_buffer("positions", positions_TH, persistent=False)

    def encode(self, x_BTH: Tensor, real_BT: Tensor) -> Tensor:
        """The token, shape (B, D)."""
        x_BTH = self.dropout(x_BTH + self.positions[: x_BTH.shape[1]])
        for block in self.blocks:
            x_BTH = block(x_BTH, real_BT)
        token_BD: Tensor = self.project(masked_mean(self.norm(x_BTH), real_BT))
        return token_BD


def sinusoids(num_positions: int, width: int) -> Tensor:
    """Sine and cosine of each position at falling frequencies, shape (positions, width).

    >>> sinusoids(2, 4)[1].tolist()  # sin 1, cos 1, sin .01, cos .01
    [0.8414709568023682, 0.5403022766113281, 0.009999833069741726, 0.9999499917030334]
    """
    position_T1 = torch.arange(num_positions, dtype=torch.float64).unsqueeze(1)
    # Odd widths lack the last cosine.
    frequency_H = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle_TH = position_T1 * frequency_H
    waves = torch.stack([angle_TH.sin(), angle_TH.cos()], dim=2).flatten(1)
    return waves[:, :width].float()
