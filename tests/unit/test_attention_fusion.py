"""Fusion by attention, beside torch's own."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.models.fusion import AttentionFusion


@given(st.integers(0, 2**32), st.integers(0, 3))
def test_attention_adds_to_1_and_reads_nothing_from_the_absent(seed: int, num_hidden: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fusion = AttentionFusion(width=6, num_heads=3, dropout=0.0).eval()
    tokens_BTD = torch.randn(5, 4, 6, generator=generator)
    present_BT = torch.rand(5, 4, generator=generator) < 0.5
    present_BT[:, :num_hidden] = False
    attention_BT = fusion.attention(tokens_BTD, present_BT)
    assert attention_BT.shape == (5, 5)
    torch.testing.assert_close(attention_BT.sum(dim=1), torch.ones(5))
    assert (attention_BT[:, 1:][~present_BT] == 0).all()
    assert (attention_BT[:, 1:][present_BT] > 0).all()
    assert (attention_BT[:, 0] > 0).all()


def _one_block_transformer(fusion: AttentionFusion, tokens_BTD: Tensor, mask: Tensor) -> Tensor:
    """The same block by torch's own attention."""
    torch_attention = nn.MultiheadAttention(6, 3, batch_first=True)
    with torch.no_grad():
        torch_attention.in_proj_weight.copy_(fusion.project.weight)
        torch_attention.in_proj_bias.copy_(fusion.project.bias)
        torch_attention.out_proj.weight.copy_(fusion.merge.weight)
        torch_attention.out_proj.bias.copy_(fusion.merge.bias)
    query_B1D = fusion.query.weight.expand(len(tokens_BTD), 1, 6)
    x_BTD = torch.cat([query_B1D, tokens_BTD], dim=1)
    mask_BT = torch.cat([torch.ones(len(mask), 1, dtype=torch.bool), mask], dim=1)
    normed_BTD = fusion.norm(x_BTD)
    read_B1D, _ = torch_attention(
        normed_BTD[:, :1], normed_BTD, normed_BTD, key_padding_mask=~mask_BT
    )
    fused_BD = query_B1D[:, 0] + read_B1D[:, 0]
    return fused_BD + fusion.mlp(fused_BD)


def test_attention_fusion_is_torchs_multihead_attention() -> None:
    torch.manual_seed(0)
    fusion = AttentionFusion(width=6, num_heads=3, dropout=0.0).eval()
    tokens_BTD, present_BT = torch.randn(8, 4, 6), torch.rand(8, 4) < 0.6
    expected = _one_block_transformer(
        fusion, torch.where(present_BT.unsqueeze(-1), tokens_BTD, 0.0), present_BT
    )
    torch.testing.assert_close(fusion(tokens_BTD, present_BT), expected, rtol=1e-5, atol=1e-6)
