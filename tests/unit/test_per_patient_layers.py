"""Single layers of every shape against the loop, and those that only the slower way knows."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from client.per_patient.book_keeping import known_layers
from tests.unit.per_patient_cases import (
    Alone,
    Nested,
    check,
    check_alone,
    clipped_by_book,
    loop,
    relative,
    sum_of,
    vector,
)

shapes = st.integers(1, 4)
flags = st.booleans()
few = settings(max_examples=25)


@few
@given(shapes, st.lists(shapes, max_size=2), st.integers(1, 9), st.integers(1, 9), flags)
def test_a_linear_layer_of_any_shape(
    num_patients: int, places: list[int], num_inputs: int, num_outputs: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(num_inputs, num_outputs, bias=bias)
    check_alone(layer, torch.randn(num_patients, *places, num_inputs))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor, bool]:
    num_axes, groups = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 1, 2, 3]))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(num_axes))

    kernel, dilation, padding = sizes(1, 3), sizes(1, 2), sizes(0, 2)
    torch.manual_seed(draw(st.integers(0, 99)))
    num_inputs, num_outputs = groups * draw(shapes), groups * draw(shapes)
    layer = [nn.Conv1d, nn.Conv2d][num_axes - 1](
        num_inputs, num_outputs, kernel, sizes(1, 3), padding, dilation, groups, draw(flags)
    )
    least = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    image = [size + more for size, more in zip(least, sizes(0, 4), strict=True)]
    is_folded = draw(flags)
    rows = (draw(shapes), draw(shapes)) if is_folded else (draw(shapes),)
    return layer, torch.randn(*rows, num_inputs, *image), is_folded


@settings(max_examples=60)
@given(convolutions())
def test_a_convolution_of_any_stride_padding_dilation_and_groups(
    drawn: tuple[nn.Module, Tensor, bool],
) -> None:
    layer, x, is_folded = drawn
    check_alone(layer, x, folded=is_folded)


@few
@given(shapes, shapes, st.integers(1, 3), st.integers(2, 5), flags)
def test_a_norm_of_any_shape(
    num_patients: int, rows: int, num_groups: int, width: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer_norm = nn.LayerNorm((3, width), bias=bias)
    check_alone(layer_norm, torch.randn(num_patients, rows, 2, 3, width), folded=bias)
    group_norm = nn.GroupNorm(num_groups, 2 * num_groups)
    check_alone(group_norm, torch.randn(num_patients, rows, 2 * num_groups, width), folded=True)
    check_alone(group_norm, torch.randn(num_patients, 2 * num_groups, 3, width))


@few
@given(shapes, st.lists(shapes, max_size=2), st.integers(1, 5), shapes)
def test_an_embedding_with_repeated_codes(
    num_patients: int, places: list[int], num_codes: int, width: int
) -> None:
    torch.manual_seed(0)
    codes = torch.randint(num_codes, (num_patients, *places))
    check_alone(nn.Embedding(num_codes, width), codes)


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3), (4, 6, 3)])
def test_the_calls_of_a_layer_add_up_before_the_norm_is_taken(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check_alone(nn.Linear(3, 3), torch.randn(shape), times=3)
    check_alone(nn.LayerNorm(3), torch.randn(shape), times=2)
    check_alone(nn.Conv1d(6, 6, 3, padding=1, groups=2), torch.randn(4, 6, 5), times=3)


def test_a_call_whose_output_no_loss_depends_on_adds_nothing() -> None:
    class Twice(Alone):
        def forward(self, inputs: Nested) -> Tensor:
            self.layer(3 * inputs["part"]["x_B"])
            return super().forward(inputs)

    torch.manual_seed(0)
    inputs, outcomes = {"part": {"x_B": torch.randn(4, 3)}}, {"y": {"weight_BW": torch.randn(4, 2)}}
    check(Twice(nn.Linear(3, 2)), inputs, outcomes)


def test_a_layer_that_no_loss_depends_on_has_zeros() -> None:
    model = Alone(nn.Linear(3, 2))
    model.other = nn.Linear(3, 2)
    inputs, outcomes = {"part": {"x_B": torch.randn(4, 3)}}, {"y": {"weight_BW": torch.randn(4, 2)}}
    check(model, inputs, outcomes)
    assert not any(s.any() for s in sum_of(model, inputs, outcomes)[2:])


def test_without_any_loss_everything_is_zero() -> None:
    class Deaf(Alone):
        def loss_per_patient(self, logits: Tensor, outcomes: Nested) -> Tensor:
            return torch.zeros(len(logits))

    inputs = {"part": {"x_B": torch.randn(4, 3)}}
    assert not vector(sum_of(Deaf(nn.Linear(3, 2)), inputs, {})).any()


class _Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class _Scaled(Alone):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 3))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, inputs: Nested) -> Tensor:
        return super().forward(inputs) * self.scale


def _tied() -> nn.Module:
    layers = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    layers[2].weight = layers[0].weight
    return Alone(layers)


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "a parameter of two layers": _tied,
    "a subclass": lambda: Alone(_Doubled(3, 3)),
    "a bare parameter": _Scaled,
    "a layer of another kind": lambda: Alone(nn.Sequential(nn.Linear(3, 3), nn.PReLU())),
    "a weight that is computed": lambda: Alone(
        nn.utils.parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="cayley")
    ),
    "a padding that is not zero": lambda: Alone(
        nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular")
        )
    ),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_layer_that_is_not_known_takes_the_other_way(kind: str) -> None:
    torch.manual_seed(0)
    model = UNKNOWN[kind]()
    assert None is known_layers(model)
    inputs, outcomes = {"part": {"x_B": torch.randn(5, 3)}}, {"y": {"weight_BW": torch.randn(5, 6)}}
    check(model, inputs, outcomes, way="vmap")
    model = model.float()
    expected = vector(loop(model, inputs, outcomes, 0.5).sums)
    assert relative(vector(sum_of(model, inputs, outcomes)), expected) < 1e-5


@pytest.mark.parametrize(
    "options", [{"padding_idx": 0}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}]
)
def test_an_embedding_with_gradients_of_its_own_is_not_known(options: dict[str, Any]) -> None:
    assert known_layers(Alone(nn.Embedding(3, 2)))
    assert None is known_layers(Alone(nn.Embedding(3, 2, **options)))
    assert None is known_layers(Alone(nn.Conv1d(1, 1, 3, padding="same")))


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.size = max(self.size, value.numel())
        return result


def large_layers() -> Iterator[tuple[nn.Module, Tensor]]:
    yield nn.Linear(300, 200), torch.randn(64, 300)
    yield nn.Linear(300, 200), torch.randn(64, 5, 300)
    yield nn.Embedding(4000, 8), torch.randint(4000, (64, 9))
    yield nn.Conv2d(32, 64, 3, stride=2), torch.randn(64, 32, 5, 5)


@pytest.mark.parametrize("place", range(4))
def test_no_gradient_of_a_large_layer_is_held_for_every_patient(place: int) -> None:
    layer, x_B = list(large_layers())[place]
    model = Alone(layer)
    outcomes = {"y": {"weight_BW": torch.randn(64, 4000)}}
    with _Largest() as largest:
        clipped_by_book(model, {"part": {"x_B": x_B}}, outcomes, 1.0)
    num_parameters = layer.weight.numel()
    # The weights themselves, and what the layer took and gave, taps of a convolution included.
    assert num_parameters <= largest.size < 64 * num_parameters / 6
