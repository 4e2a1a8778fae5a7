"""Fusion: from the tokens of the granularities that are present to one vector per patient.

Letters of shapes: B patients, T tokens of all granularities, D width, H heads.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from common.study import Model


class Fusion(nn.Module):
    """Fuses tokens under a mask.

    Guarantees of every fusion:
        - A token that is not present cannot influence the result.
        - A patient without any token has a finite result, the same for all such patients.
    """

    def forward(self, tokens_BTD: Tensor, present_BT: Tensor) -> Tensor:
        """The fused vector, shape (B, D), of the tokens that are `present_BT` (bool)."""
        # `where`, not a product: an absent token may be anything, and 0 · inf is NaN.
        absent_as_zero_BTD = torch.where(
            present_BT.unsqueeze(-1), tokens_BTD, torch.zeros_like(tokens_BTD)
        )
        return self.fuse(absent_as_zero_BTD, present_BT)

    @abstractmethod
    def fuse(self, tokens_BTD: Tensor, present_BT: Tensor) -> Tensor:
        """The fused vector, shape (B, D); absent tokens are zero already."""


class AttentionFusion(Fusion):
    """A learned query attends to the tokens that are present, and to itself; then a small MLP.

    One block of a pre-norm Transformer, read at the query (Vaswani et al. 2017, section 3.2).
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Embedding(1, width)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def fuse(self, tokens_BTD: Tensor, present_BT: Tensor) -> Tensor:
        """The fused vector, shape (B, D)."""
        x_BTD, weights_BHT = self._with_query(tokens_BTD, present_BT)
        value_BHTD = self._split(self.project(self.norm(x_BTD)))[2]
        read_BHD = (weights_BHT.unsqueeze(2) @ value_BHTD).squeeze(2)
        fused_BD: Tensor = x_BTD[:, 0] + self.merge(read_BHD.flatten(1))
        merged_BD: Tensor = fused_BD + self.mlp(fused_BD)
        return merged_BD

    def attention(self, tokens_BTD: Tensor, present_BT: Tensor) -> Tensor:
        """How much the query reads from each token, mean over heads; (B, 1 + T), rows add to 1.

        Column 0 is the query itself: what a patient without any granularity is predicted from.
        """
        return self._with_query(tokens_BTD, present_BT)[1].mean(dim=1)

    def _with_query(self, tokens_BTD: Tensor, present_BT: Tensor) -> tuple[Tensor, Tensor]:
        num_patients = len(tokens_BTD)
        index = torch.zeros(num_patients, 1, dtype=torch.long, device=tokens_BTD.device)
        x_BTD = torch.cat([self.query(index), tokens_BTD], dim=1)
        present_BT = torch.cat([torch.ones_like(index, dtype=torch.bool), present_BT], dim=1)
        query_BHTD, key_BHTD, _ = self._split(self.project(self.norm(x_BTD)))
        scores_BHT = (query_BHTD[:, :, :1] @ key_BHTD.transpose(2, 3)).squeeze(2)
        scores_BHT = scores_BHT / key_BHTD.shape[-1] ** 0.5
        scores_BHT = scores_BHT.masked_fill(~present_BT.unsqueeze(1), float("-inf"))
        return x_BTD, scores_BHT.softmax(dim=-1)

    def _split(self, projected_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        num_patients, num_tokens, width = projected_BTD.shape
        # Not -1 for the last size: torch cannot infer it where there is no patient.
        head_width = width // (3 * self.num_heads)
        parts = projected_BTD.view(num_patients, num_tokens, 3, self.num_heads, head_width)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value


class GatedSumFusion(Fusion):
    """The sum of the present tokens, each under a gate that it computes itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)

    def fuse(self, tokens_BTD: Tensor, present_BT: Tensor) -> Tensor:
        """The fused vector, shape (B, D)."""
        gate_BTD: Tensor = self.gate(tokens_BTD).sigmoid()
        return (tokens_BTD * gate_BTD).sum(dim=1)


class ConcatFusion(Fusion):
    """The tokens side by side, zero where absent, with their flags, through one linear layer."""

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.merge = nn.Linear(num_tokens * (width + 1), width)

    def fuse(self, tokens_BTD: Tensor, present_BT: Tensor) -> Tensor:
        """The fused vector, shape (B, D)."""
        present = present_BT.to(tokens_BTD.dtype)
        fused_BD: Tensor = self.merge(torch.cat([tokens_BTD.flatten(1), present], dim=1))
        return fused_BD


def build_fusion(plan: Model, num_tokens: int) -> Fusion:
    """The fusion that the study names."""
    match plan.fusion:
        case "attention":
            return AttentionFusion(plan.width, plan.num_heads, plan.dropout)
        case "gated_sum":
            return GatedSumFusion(plan.width)
        case "concat":
            return ConcatFusion(plan.width, num_tokens)
