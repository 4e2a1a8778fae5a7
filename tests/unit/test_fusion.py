"""The fusions: what cannot influence what, and the graph convolution by hand."""

from math import erf, sqrt
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.models.fusion import Fusion, GraphFusion, build_fusion, edges_of
from common.plan import Model

FUSIONS = get_args(Model.model_fields["fusion"].annotation)
OWNERS = ["labs", "notes", "images", "images"]
GARBAGE = [float("nan"), float("inf"), float("-inf"), 3e38, 0.5]
WIDTH = 4

fusions = st.sampled_from(FUSIONS)
seeds = st.integers(0, 2**32)


def _fusion(name: str, *, dropout: float = 0.0, seed: int = 0) -> Fusion:
    edges = (("labs", "notes"), ("notes", "images")) if name == "graph" else ()
    plan = Model(width=WIDTH, fusion=name, dropout=dropout, edges=edges)
    torch.manual_seed(seed)
    return build_fusion(plan, token_owners=OWNERS).eval()


def _tokens(num_patients: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens_BTD = torch.randn(num_patients, len(OWNERS), WIDTH, generator=generator)
    return tokens_BTD, torch.rand(num_patients, len(OWNERS), generator=generator) < 0.5


def test_every_fusion_of_the_plan_is_in_these_tests() -> None:
    assert set(FUSIONS) == {"attention", "gated_sum", "concat", "graph"}


@given(seeds, fusions, st.sampled_from(GARBAGE))
def test_a_token_that_is_not_present_influences_neither_result_nor_gradient(
    seed: int, name: str, value: float
) -> None:
    fusion = _fusion(name)
    tokens_BTD, present_BT = _tokens(5, seed)
    spoilt_BTD = torch.where(present_BT.unsqueeze(-1), tokens_BTD, value)
    results, gradients = [], []
    for some_BTD in (tokens_BTD, spoilt_BTD):
        some_BTD = some_BTD.clone().requires_grad_()
        result_BD = fusion(some_BTD, present_BT)
        of_all = (some_BTD, *fusion.parameters())
        gradients.append(torch.autograd.grad(result_BD.square().sum(), of_all))
        results.append(result_BD)
    assert torch.equal(*results)
    for clean, spoilt in zip(*gradients, strict=True):
        assert clean.isfinite().all()
        assert torch.equal(clean, spoilt)
    assert (gradients[1][0][~present_BT] == 0).all()


@pytest.mark.parametrize("name", FUSIONS)
def test_patients_without_any_token_have_one_finite_result(name: str) -> None:
    tokens_BTD, present_BT = _tokens(3)
    result_BD = _fusion(name)(tokens_BTD, torch.zeros_like(present_BT))
    assert result_BD.isfinite().all()
    assert torch.equal(result_BD[0], result_BD[1])


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("num_patients", [0, 1, 6])
def test_every_patient_has_one_vector(name: str, num_patients: int) -> None:
    assert _fusion(name)(*_tokens(num_patients)).shape == (num_patients, WIDTH)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_present_token_counts(name: str) -> None:
    fusion = _fusion(name)
    tokens_BTD, present_BT = _tokens(40)
    before_BD = fusion(tokens_BTD, present_BT)
    for t in range(len(OWNERS)):
        changed_BTD = tokens_BTD.clone()
        changed_BTD[:, t] *= -2.0  # a layer norm does not see a shift
        is_changed_B = (fusion(changed_BTD, present_BT) != before_BD).any(dim=1)
        assert torch.equal(is_changed_B, present_BT[:, t])


@given(seeds, fusions)
def test_a_row_depends_on_its_own_patient_alone(seed: int, name: str) -> None:
    fusion = _fusion(name)
    tokens_BTD, present_BT = _tokens(5, seed)
    others_BTD, others_BT = _tokens(5, seed + 1)
    others_BTD[2], others_BT[2] = tokens_BTD[2], present_BT[2]
    assert torch.equal(fusion(tokens_BTD, present_BT)[2], fusion(others_BTD, others_BT)[2])


@given(seeds, fusions)
def test_the_order_of_patients_is_the_order_of_rows(seed: int, name: str) -> None:
    fusion = _fusion(name)
    tokens_BTD, present_BT = _tokens(7, seed)
    order_B = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    expected_BD = fusion(tokens_BTD, present_BT)[order_B]
    shuffled_BD = fusion(tokens_BTD[order_B], present_BT[order_B])
    torch.testing.assert_close(shuffled_BD, expected_BD, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUSIONS)
def test_gradients_per_patient_are_those_of_a_loop(name: str) -> None:
    fusion = _fusion(name).double()
    tokens_BTD, present_BT = _tokens(8)
    present_BT[0] = False
    tokens_BTD = tokens_BTD.double()
    parameters = {key: p.detach() for key, p in fusion.named_parameters()}
    buffers = dict(fusion.named_buffers())

    def loss(parameters: dict[str, Tensor], tokens_TD: Tensor, present_T: Tensor) -> Tensor:
        one = (tokens_TD.unsqueeze(0), present_T.unsqueeze(0))
        result: Tensor = torch.func.functional_call(fusion, (parameters, buffers), one)
        return result.square().sum()

    per_patient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    found = per_patient(parameters, tokens_BTD, present_BT)
    for b in range(8):
        fusion.zero_grad()
        fusion(tokens_BTD[b : b + 1], present_BT[b : b + 1]).square().sum().backward()
        for key, parameter in fusion.named_parameters():
            torch.testing.assert_close(found[key][b], parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_parameter_belongs_to_a_layer_with_gradients_per_patient(name: str) -> None:
    for module in _fusion(name).modules():
        if list(module.parameters(recurse=False)):
            assert isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm)


@pytest.mark.parametrize("name", FUSIONS)
def test_only_parameters_are_kept_and_equal_seeds_give_equal_ones(name: str) -> None:
    first, same, other = (_fusion(name, seed=seed) for seed in (0, 0, 1))
    assert set(first.state_dict()) == {key for key, _ in first.named_parameters()}
    vectors = [nn.utils.parameters_to_vector(f.parameters()) for f in (first, same, other)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


@pytest.mark.parametrize("name", ["attention", "graph"])
def test_dropout_is_random_in_training_alone(name: str) -> None:
    fusion = _fusion(name, dropout=0.5)
    tokens_BTD, present_BT = _tokens(20)
    assert torch.equal(fusion(tokens_BTD, present_BT), fusion(tokens_BTD, present_BT))
    fusion.train()
    assert not torch.equal(fusion(tokens_BTD, present_BT), fusion(tokens_BTD, present_BT))


def _path() -> GraphFusion:
    """a – b – c, width 1, every weight 1 and no bias: a convolution is Â itself."""
    fusion = GraphFusion(1, edges_of(["a", "b", "c"], [("a", "b"), ("c", "b")]), 0.0)
    with torch.no_grad():
        for layer in fusion.layers:
            assert isinstance(layer, nn.Linear)
            layer.weight.fill_(1.0)
            layer.bias.zero_()
    return fusion


def test_the_weights_of_a_graph_by_hand() -> None:
    # With their own loops a, b, c have 2, 3, 2 neighbours: Â_ab = 1 / √(2·3), Â_aa = 1/2.
    root6 = 1 / sqrt(6)
    expected = [[1 / 2, root6, 0], [root6, 1 / 3, root6], [0, root6, 1 / 2]]
    found_TT = _path().weights(torch.tensor([[True, True, True]]))[0]
    torch.testing.assert_close(found_TT, torch.tensor(expected, dtype=torch.float64))


def test_the_degrees_of_a_graph_count_what_is_there() -> None:
    without_c = _path().weights(torch.tensor([[True, True, False]]))[0]
    expected = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(without_c, expected)
    without_b = _path().weights(torch.tensor([[True, False, True]]))[0]
    assert without_b.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_a_graph_of_two_tokens_by_hand() -> None:
    # c is absent, so Â mixes a = 2 and b = 4 half and half, to 3 each: H' = (2, 4) + gelu(3), whose
    # mean is 3 + gelu(3); the second layer adds the gelu of that mean to both.
    def gelu(x: float) -> float:
        return x * (1 + erf(x / sqrt(2))) / 2

    mean = 3 + gelu(3)
    fused = _path()(torch.tensor([[[2.0], [4.0], [99.0]]]), torch.tensor([[True, True, False]]))
    assert fused.item() == pytest.approx(mean + gelu(mean), rel=1e-6)


def test_tokens_that_no_path_joins_do_not_mix() -> None:
    torch.manual_seed(0)
    fusion = GraphFusion(3, edges_of(["a", "b"], [("a", "a")]), 0.0)
    tokens_BTD, both = torch.randn(1, 2, 3), torch.tensor([[True, True]])
    alone = [fusion(tokens_BTD, torch.tensor([one])) for one in ([True, False], [False, True])]
    torch.testing.assert_close(fusion(tokens_BTD, both), (alone[0] + alone[1]) / 2)


def test_a_token_is_always_joined_to_itself() -> None:
    fusion = GraphFusion(1, torch.zeros(2, 2, dtype=torch.bool), 0.0)
    assert torch.equal(fusion.weights(torch.tensor([[True, True]]))[0], torch.eye(2).double())


def test_without_edges_all_granularities_are_joined() -> None:
    assert edges_of(["a", "b", "c"], []).all()


def test_tokens_of_one_granularity_are_joined() -> None:
    expected = [[True, True, False], [True, True, False], [False, False, True]]
    assert edges_of(["a", "a", "b"], [("b", "b")]).tolist() == expected
