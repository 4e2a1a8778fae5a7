"""Fusion: from the tokens of the granularities that are present to one vector per patient.

Letters of shapes: B patients, T tokens of all granularities, D width, H heads.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.models.layers import masked_mean, split_heads
from common.plan import Model


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
        value_BHTD = split_heads(self.project(self.norm(x_BTD)), self.num_heads)[2]
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
        query_BHTD, key_BHTD, _ = split_heads(self.project(self.norm(x_BTD)), self.num_heads)
        scores_BHT = (query_BHTD[:, :, :1] @ key_BHTD.transpose(2, 3)).squeeze(2)
        scores_BHT = scores_BHT / key_BHTD.shape[-1] ** 0.5
        scores_BHT = scores_BHT.masked_fill(~present_BT.unsqueeze(1), float("-inf"))
        return x_BTD, scores_BHT.softmax(dim=-1)


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


class GraphFusion(Fusion):
    """Two graph convolutions over the tokens that are present, then their mean.

    The nodes of a patient's graph are the tokens that he has; H' = H + σ(Â H W), where Â is the
    adjacency with self-loops, D^-½ (A + I) D^-½, of those nodes alone. So a token passes nothing
    on for one that is absent, and the degrees count what is there.

    Source: Kipf and Welling 2017, equation 2, arXiv:1609.02907.
    Differs from the source in: a residual path and a bias, so that a token without neighbours is
        not washed out; σ is GELU.

    Args:
        edges_TT: bool, symmetric; which tokens exchange what they know. The diagonal is ignored.
    """

    edges_TT: Tensor

    def __init__(self, width: int, edges_TT: Tensor, dropout: float) -> None:
        super().__init__()
        loops_TT = torch.eye(len(edges_TT), dtype=torch.bool)
        self.register_buffer("edges_TT", edges_TT | loops_TT, persistent=False)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def fuse(self, tokens_BTD: Tensor, present_BT: Tensor) -> Tensor:
        """The fused vector, shape (B, D); zero for a patient without tokens."""
        weights_BTT = self.weights(present_BT).to(tokens_BTD.dtype)
        for layer in self.layers:
            exchanged_BTD = nn.functional.gelu(weights_BTT @ layer(tokens_BTD))
            tokens_BTD = tokens_BTD + self.dropout(exchanged_BTD)
        return masked_mean(tokens_BTD, present_BT)

    def weights(self, present_BT: Tensor) -> Tensor:
        """Â of each patient, float64, shape (B, T, T); zero in rows and columns of the absent."""
        edges_BTT = self.edges_TT & present_BT.unsqueeze(1) & present_BT.unsqueeze(2)
        adjacency_BTT = edges_BTT.double()
        # A present token has its own loop, so only the absent have a degree of 0.
        root_BT = adjacency_BTT.sum(dim=2).clamp(min=1).rsqrt()
        return root_BT.unsqueeze(2) * adjacency_BTT * root_BT.unsqueeze(1)


def edges_of(token_owners: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Tensor:
    """Which tokens are joined, bool, shape (T, T): those of joined granularities, or of the same.

    Args:
        pairs: of granularities that are joined, in any order; none: all are.

    >>> edges_of(["labs", "notes", "genes"], [("notes", "labs")]).int().tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    joined = {frozenset(pair) for pair in pairs}
    return torch.tensor(
        [
            [not pairs or a == b or frozenset((a, b)) in joined for b in token_owners]
            for a in token_owners
        ],
        dtype=torch.bool,
    )


def build_fusion(plan: Model, token_owners: Sequence[str]) -> Fusion:
    """The fusion that the study names.

    Args:
        token_owners: the granularity of each token, in the order of the tokens.
    """
    match plan.fusion:
        case "attention":
            return AttentionFusion(plan.width, plan.num_heads, plan.dropout)
        case "gated_sum":
            return GatedSumFusion(plan.width)
        case "concat":
            return ConcatFusion(plan.width, len(token_owners))
        case "graph":
            return GraphFusion(plan.width, edges_of(token_owners, plan.edges), plan.dropout)
