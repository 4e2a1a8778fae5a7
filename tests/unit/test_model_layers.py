"""The layers that encoders share, beside torch's own layers and numbers by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from common.models.layers import (
    SelfAttention,
    group_norm,
    masked_last,
    masked_max,
    masked_mean,
    split_heads,
)
from common.models.recurrent import GRULayer, LSTMLayer
from common.models.tokens import sinusoids


def _oracle_gru(layer: GRULayer) -> nn.Module:
    oracle = nn.GRU(layer.input.in_features, layer.hidden, batch_first=True)
    with torch.no_grad():
        oracle.weight_ih_l0.copy_(layer.input.weight)
        oracle.bias_ih_l0.copy_(layer.input.bias)
        oracle.weight_hh_l0.copy_(layer.state.weight)
        oracle.bias_hh_l0.copy_(layer.state.bias)
    return oracle


def _oracle_lstm(layer: LSTMLayer) -> nn.Module:
    oracle = nn.LSTM(layer.input.in_features, layer.hidden, batch_first=True)
    with torch.no_grad():
        oracle.weight_ih_l0.copy_(layer.input.weight)
        oracle.bias_ih_l0.copy_(layer.input.bias)
        oracle.weight_hh_l0.copy_(layer.state.weight)
        oracle.bias_hh_l0.zero_()
    return oracle


RECURRENT = [(GRULayer, _oracle_gru), (LSTMLayer, _oracle_lstm)]


@pytest.mark.parametrize(("kind", "oracle"), RECURRENT)
def test_a_recurrent_layer_is_torchs_own(
    kind: type[nn.Module], oracle: Callable[[nn.Module], nn.Module]
) -> None:
    torch.manual_seed(0)
    layer = kind(3, 5)
    x_BTI = torch.randn(4, 9, 3)
    states_BTH = layer(x_BTI, torch.ones(4, 9) > 0)
    torch.testing.assert_close(states_BTH, oracle(layer)(x_BTI)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "oracle"), RECURRENT)
def test_steps_that_do_not_count_leave_the_state(
    kind: type[nn.Module], oracle: Callable[[nn.Module], nn.Module]
) -> None:
    torch.manual_seed(0)
    layer = kind(3, 5)
    x_BTI = torch.randn(1, 9, 3)
    counts_BT = torch.tensor([[False, True, True, False, False, True, True, False, False]])
    states_BTH = layer(x_BTI, counts_BT)
    expected_BTH = oracle(layer)(x_BTI[:, counts_BT[0]])[0]
    torch.testing.assert_close(states_BTH[:, counts_BT[0]], expected_BTH, rtol=1e-6, atol=1e-6)
    assert torch.equal(states_BTH[0, 0], torch.zeros(5))
    assert torch.equal(states_BTH[0, 2], states_BTH[0, 4])
    assert torch.equal(states_BTH[0, 6], states_BTH[0, 8])


def test_the_forget_gate_of_a_new_lstm_is_open() -> None:
    assert torch.equal(LSTMLayer(3, 5).input.bias[5:10], torch.ones(5))


def test_attention_is_torchs_scaled_dot_product_attention() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(width=6, num_heads=3)
    x_BTD, real_BT = torch.randn(8, 7, 6), torch.rand(8, 7) < 0.6
    real_BT[:, 0] = True
    query, key, value = split_heads(attention.project(x_BTD), 3)
    read_BHTD = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=real_BT[:, None, None, :]
    )
    expected_BTD = attention.merge(read_BHTD.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x_BTD, real_BT), expected_BTD, rtol=1e-5, atol=1e-6)


def test_attention_to_nothing_is_finite() -> None:
    attention = SelfAttention(width=4, num_heads=2)
    x_BTD = torch.randn(2, 3, 4, requires_grad=True)
    result = attention(x_BTD, torch.zeros(2, 3) > 0)
    result.sum().backward()
    assert result.isfinite().all()
    assert x_BTD.grad is not None
    assert x_BTD.grad.isfinite().all()


def test_poolings_by_hand() -> None:
    x_BTD = torch.tensor([[[1.0], [-4.0], [-2.0], [9.0]], [[1.0], [2.0], [3.0], [4.0]]])
    mask_BT = torch.tensor([[False, True, True, False], [False, False, False, False]])
    assert masked_mean(x_BTD, mask_BT).tolist() == [[-3], [0]]
    assert masked_max(x_BTD, mask_BT).tolist() == [[-2], [0]]
    assert masked_last(x_BTD, mask_BT).tolist() == [[-2], [0]]


@pytest.mark.parametrize("channels", range(1, 40))
def test_a_group_norm_works_for_one_place_and_one_patient(channels: int) -> None:
    torch.manual_seed(0)
    result = group_norm(channels)(torch.randn(1, channels, 1))
    assert result.isfinite().all()
    assert result.abs().sum() > 0


def test_positions_differ_and_have_odd_widths() -> None:
    positions_TH = sinusoids(200, 5)
    assert positions_TH.shape == (200, 5)
    assert len({tuple(row) for row in positions_TH.tolist()}) == 200
