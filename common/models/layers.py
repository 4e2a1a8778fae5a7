"""Layers and poolings that several encoders share, all of them with per-sample gradients.

Letters of shapes: B patients, T steps or tokens, D width, H heads.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_MOST_GROUPS = 8


def group_norm(channels: int) -> nn.Module:
    """A group norm of up to 8 groups, of 2 channels or more each; one channel stays as it is.

    A group of one channel and one place would have no variance, and torch refuses it.

    >>> group_norm(32).num_groups, group_norm(6).num_groups, group_norm(7).num_groups
    (8, 3, 1)
    """
    if channels == 1:
        return nn.Identity()
    num_groups = max(
        n for n in range(1, _MOST_GROUPS + 1) if channels % n == 0 and channels // n >= 2
    )
    return nn.GroupNorm(num_groups, channels)


def mlp(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers of these widths, GELU and dropout between them; empty for a single width."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(widths):
        layers += [nn.GELU(), nn.Dropout(dropout)] if layers else []
        layers.append(nn.Linear(size_in, size_out))
    return nn.Sequential(*layers)


def masked_mean(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean over T where `mask_BT`, shape (B, D); zero where there is nothing."""
    kept_BTD = torch.where(mask_BT.unsqueeze(-1), x_BTD, torch.zeros_like(x_BTD))
    count_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return kept_BTD.sum(dim=1) / count_B1.to(x_BTD.dtype)


def masked_max(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The maximum over T where `mask_BT`, shape (B, D); zero where there is nothing."""
    lowest = torch.full_like(x_BTD, torch.finfo(x_BTD.dtype).min)
    max_BD = torch.where(mask_BT.unsqueeze(-1), x_BTD, lowest).amax(dim=1)
    return torch.where(mask_BT.any(dim=1, keepdim=True), max_BD, torch.zeros_like(max_BD))


def masked_last(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The last of T where `mask_BT`, shape (B, D); zero where there is nothing."""
    num_after_BT = mask_BT.flip(1).cumsum(dim=1).flip(1)
    is_last_BT1 = (mask_BT & (num_after_BT == 1)).unsqueeze(-1)
    return torch.where(is_last_BT1, x_BTD, torch.zeros_like(x_BTD)).sum(dim=1)


def split_heads(projected_BTD: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, each (B, H, T, D / H), from what stands side by side in (B, T, 3D)."""
    num_patients, num_tokens, width = projected_BTD.shape
    # Not -1 for the last size: torch cannot infer it where there is no patient.
    head_width = width // (3 * num_heads)
    parts = projected_BTD.view(num_patients, num_tokens, 3, num_heads, head_width)
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    return query, key, value


class SelfAttention(nn.Module):
    """Every token reads from all tokens that are real.

    Source: Vaswani et al. 2017, section 3.2; arXiv:1706.03762.

    Edge cases:
        - A row without any real token reads from all alike: finite, and of no use to anyone.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, real_BT: Tensor) -> Tensor:
        """What each token read, shape (B, T, D)."""
        query_BHTD, key_BHTD, value_BHTD = split_heads(self.project(x_BTD), self.num_heads)
        scores_BHTT = query_BHTD @ key_BHTD.transpose(2, 3) / key_BHTD.shape[-1] ** 0.5
        # The lowest finite number, not -inf: softmax over nothing but -inf is NaN.
        lowest = torch.finfo(scores_BHTT.dtype).min
        scores_BHTT = scores_BHTT.masked_fill(~real_BT[:, None, None, :], lowest)
        read_BHTD = scores_BHTT.softmax(dim=-1) @ value_BHTD
        merged_BTD: Tensor = self.merge(read_BHTD.transpose(1, 2).flatten(2))
        return merged_BTD


class TransformerBlock(nn.Module):
    """A pre-norm block: attention and a small MLP, each beside a residual path.

    Source: Xiong et al. 2020, figure 1b; arXiv:2002.04745.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.LayerNorm(width), mlp((width, 2 * width, width), dropout))

    def forward(self, x_BTD: Tensor, real_BT: Tensor) -> Tensor:
        """The tokens after the block, shape (B, T, D)."""
        x_BTD = x_BTD + self.dropout(self.attention(self.norm(x_BTD), real_BT))
        result_BTD: Tensor = x_BTD + self.dropout(self.mlp(x_BTD))
        return result_BTD
