"""The bound of a clipped sum: no patient moves it by more, whatever the numbers of a record."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from client.per_patient.contribution import clip_factors
from tests.unit.builders import labels_of
from tests.unit.per_patient_cases import (
    FUSIONS,
    GARBAGE,
    WAYS,
    Alone,
    Nested,
    batch_of,
    check_alone,
    loop,
    model_of,
    select,
    study_with,
    sum_of,
    trainable,
    vector,
)


@pytest.mark.parametrize("fusion", FUSIONS)
@given(st.integers(0, 99), st.sampled_from([1.0, 1e3, 1e19, *GARBAGE]), st.sampled_from([0.01, 1]))
@settings(max_examples=15)
def test_a_patient_moves_the_sum_by_no_more_than_the_norm(
    fusion: str, seed: int, factor: float, max_grad_norm: float
) -> None:
    study = study_with("tabular", "markers-mlp", model={"fusion": fusion})
    model, (inputs, outcomes) = model_of(study), batch_of(study, 4, seed)
    for part in inputs.values():
        part["numeric_BF"][0] *= factor
    with_one, without = (
        vector(sum_of(model, select(inputs, p), select(outcomes, p), max_grad_norm)).double()
        for p in (slice(0, 4), slice(1, 4))
    )
    assert with_one.isfinite().all()
    assert (with_one - without).norm() <= max_grad_norm * (1 + 1e-5)


SPOILT = {
    "tabular": ("numeric_BF", "observed_BF"),
    "series-tcn": ("numeric_BTF", "observed_BTF"),
    "series-gru": ("numeric_BTF", "observed_BTF"),
    "markers-cnn1d": ("numeric_BF", "observed_BF"),
    "markers-cnn2d": ("numeric_BF", "observed_BF"),
}


# The gates of a GRU saturate at 1e38: its gradient is finite there.
LOST = [(c, v) for c in SPOILT for v in GARBAGE if (c, v) != ("series-gru", 1e38)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("case", "value"), LOST)
def test_a_patient_who_is_not_finite_adds_zero_and_leaves_the_others_bit_for_bit(
    case: str, value: float, way: str
) -> None:
    study = study_with(case, "notes-bag")
    model, (inputs, _), outcomes = model_of(study), batch_of(study, 7), labels_of(study, 7)
    part, name = inputs[case.replace("-", "_")], case.replace("-", "_")
    part["present_B"][3] = True
    spoilt = {key: value_B.clone() for key, value_B in part.items()}
    for key in SPOILT[case]:
        spoilt[key][3] = value if key.startswith("numeric") else True
    silent = {n: {k: v.clone() for k, v in a.items()} for n, a in outcomes.items()}
    for arrays in silent.values():
        arrays["known_B"][3] = False
    without = WAYS[way](model, inputs, silent, 0.5)
    found = WAYS[way](model, inputs | {name: spoilt}, outcomes, 0.5)
    assert without.norm_B[3] == 0
    assert not found.norm_B[3].isfinite()
    assert torch.equal(vector(found.sums), vector(without.sums))
    assert vector(found.sums).any()


@pytest.mark.parametrize("layer", [nn.Linear(48, 48), nn.Conv1d(40, 20, 3, padding=1)])
def test_a_layer_with_more_parameters_than_are_bundled_loses_no_other_patient(
    layer: nn.Module,
) -> None:
    generator = torch.Generator().manual_seed(0)
    x_BTI = torch.randn(5, 40, 48, generator=generator)
    check_alone(layer, x_BTI)
    weight_BW = torch.randn(5, 1920, generator=generator)
    silent_BW = weight_BW.clone()
    silent_BW[2] = 0
    spoilt_BTI = x_BTI.clone()
    spoilt_BTI[2, 7, 7] = float("nan")
    model = Alone(layer.float())
    expected = sum_of(model, {"part": {"x_B": x_BTI}}, {"y": {"weight_BW": silent_BW}})
    found = sum_of(model, {"part": {"x_B": spoilt_BTI}}, {"y": {"weight_BW": weight_BW}})
    assert torch.equal(vector(found), vector(expected))


def test_a_gradient_that_is_not_finite_in_one_layer_alone_is_lost_in_all() -> None:
    class Burst(Alone):
        def forward(self, inputs: Nested) -> Tensor:
            codes = inputs["part"]["x_B"]
            big = torch.where(codes[:, :1] == 2, float("inf"), 1.0)
            return self.layer(codes).sum(dim=1) * big

    model = Burst(nn.Embedding(3, 2))
    outcomes = {"y": {"weight_BW": torch.ones(3, 2)}}
    clean, spoilt = (
        {"part": {"x_B": torch.tensor([[0, 1, 1], last, [1, 0, 0]])}}
        for last in ([0, 0, 0], [2, 0, 0])
    )
    others = {"y": {"weight_BW": torch.ones(2, 2)}}
    expected = loop(model, select(clean, [0, 2]), others, 0.5).sums
    torch.testing.assert_close(sum_of(model, spoilt, outcomes), expected)


def test_what_cancels_within_a_patient_cannot_escape_the_clipping() -> None:
    # Two places with opposite gradients 1e4 large: in float32 their Gram matrix has entries of 1e16
    # whose sum is lost in rounding, and what remains of the products is not.
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(64, 64)
    x_BTI = 100 * torch.randn(32, 1, 64, generator=generator).repeat(1, 2, 1)
    weight_BTO = 100 * torch.randn(32, 1, 64, generator=generator).repeat(1, 2, 1)
    weight_BTO[:, 1] *= -1 + 1e-5 * torch.randn(32, 64, generator=generator)

    class Plain(Alone):
        def loss_per_patient(self, logits: Tensor, outcomes: Nested) -> Tensor:
            return (logits * outcomes["y"]["weight_BW"]).sum(dim=1)

    model = Plain(layer)
    for b in range(32):
        one = slice(b, b + 1)
        inputs = {"part": {"x_B": x_BTI[one]}}
        sums = sum_of(model, inputs, {"y": {"weight_BW": weight_BTO[one].flatten(1)}}, 1e-3)
        assert vector(sums).double().norm() <= 1e-3 * (1 + 1e-5)


@pytest.mark.parametrize("num_places", [1, 2])
def test_what_vanishes_when_it_is_squared_cannot_escape_the_clipping(num_places: int) -> None:
    # 1e-25 squared is 0 in float32, and 1e19 squared is not infinite; their product is 1e-6.
    model = Alone(nn.Linear(64, 64, bias=False))
    inputs = {"part": {"x_B": torch.full((1, num_places, 64), 1e-25)}}
    outcomes = {"y": {"weight_BW": torch.full((1, num_places * 64), 1e18)}}
    with torch.no_grad():
        model.layer.weight.zero_()
    found = vector(sum_of(model, inputs, outcomes, 1e-9)).double().norm().item()
    assert found == pytest.approx(1e-9, rel=1e-5)


@pytest.mark.parametrize("max_grad_norm", [1e-9, 1e-3, 1e9])
def test_a_tiny_norm_gives_directions_and_a_huge_one_the_plain_gradient(
    max_grad_norm: float,
) -> None:
    study = study_with("tabular", "sequences-lstm")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 5)
    found = vector(sum_of(model, inputs, outcomes, max_grad_norm))
    expected = vector(loop(model, inputs, outcomes, max_grad_norm).sums)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    loss = model.loss_per_patient(model(inputs), outcomes).sum()
    plain = vector(list(torch.autograd.grad(loss, trainable(model))))
    is_plain = bool(((found - plain).norm() / plain.norm()).item() < 1e-5)
    assert is_plain == (max_grad_norm > 1e6)


def test_clip_factors_never_lengthen_and_lose_what_is_not_finite() -> None:
    norm_B = torch.tensor([0.0, 1e-30, 0.5, 2.0, 1e30, *GARBAGE[:2]])
    assert clip_factors(norm_B, 1.0).tolist() == pytest.approx(
        [1.0, 1.0, 1.0, 0.5, 1e-30, 0.0, 0.0], rel=1e-6, abs=0
    )
