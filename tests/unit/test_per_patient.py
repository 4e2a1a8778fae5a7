"""Clipped sums of gradients per patient: both ways against a loop in which everyone is alone."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from client.per_patient import clipped_gradient_sum
from client.per_patient.book_keeping import clipped_sum_by_book_keeping, known_layers
from client.per_patient.contribution import ClippedSum, clip_factors
from client.per_patient.mapped import clipped_sum_by_vmap
from common.models.patient_model import PatientModel
from common.plan import Model
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, labels_of, study_table
from tests.unit.encoder_cases import CASES, granularity_of, patients_of

Nested = dict[str, dict[str, Tensor]]
FUSIONS = get_args(Model.model_fields["fusion"].annotation)


def clipped_by_book(
    model: nn.Module, inputs: Nested, outcomes: Nested, max_grad_norm: float
) -> ClippedSum:
    layers = known_layers(model)
    assert layers is not None
    return clipped_sum_by_book_keeping(model, layers, inputs, outcomes, max_grad_norm)


WAYS = {"book": clipped_by_book, "vmap": clipped_sum_by_vmap}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
GARBAGE = [float("nan"), float("inf"), float("-inf"), 1e38]
OUTCOMES = {
    "multiclass": MULTICLASS,
    "focal": {"event": MULTICLASS["event"] | {"focal_gamma": 2.0, "class_weights": [1, 2, 3]}},
    "two heads": {"stay": MORE_OUTCOMES["stay"]},
    "survival by interval": {"death": MORE_OUTCOMES["death"] | {"proportional": False}},
    "all heads": MORE_OUTCOMES,
}


def loop(model: nn.Module, inputs: Nested, outcomes: Nested, max_grad_norm: float) -> ClippedSum:
    """The clipped sum by one batch, one backward pass and one norm for each patient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums, norms = [torch.zeros_like(p) for p in parameters], []
    for b in range(num_patients_of(inputs)):
        loss_B = model.loss_per_patient(model(rows(inputs, b)), rows(outcomes, b))
        found = torch.autograd.grad(loss_B.sum(), parameters, allow_unused=True)
        pairs = zip(parameters, found, strict=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in pairs]
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        norms.append(norm)
        factor = min(1.0, max_grad_norm / max(norm.item(), 1e-300))
        for total, gradient in zip(sums, gradients, strict=True):
            total += factor * gradient
    return ClippedSum(sums=[s.detach() for s in sums], norm_B=torch.stack(norms))


def num_patients_of(inputs: Nested) -> int:
    return next(len(value) for arrays in inputs.values() for value in arrays.values())


def rows(named: Nested, b: int) -> Nested:
    return select(named, slice(b, b + 1))


def select(named: Nested, places: Any) -> Nested:
    return {name: {k: v[places] for k, v in arrays.items()} for name, arrays in named.items()}


def vector(sums: list[Tensor]) -> Tensor:
    return torch.cat([total.flatten() for total in sums])


def check(model: nn.Module, inputs: Nested, outcomes: Nested, way: str = "book") -> None:
    """Both the sum and the norms of a way are those of the loop, in both precisions."""
    for dtype, tolerance in TOLERANCE.items():
        model = model.to(dtype)
        some_inputs, some_outcomes = (
            {
                n: {k: v.to(dtype) if v.is_floating_point() else v for k, v in a.items()}
                for n, a in named.items()
            }
            for named in (inputs, outcomes)
        )
        norm_B = loop(model, some_inputs, some_outcomes, 1.0).norm_B
        # So that about half of the patients are clipped.
        max_grad_norm = max(norm_B.median().item(), 1e-3)
        expected = loop(model, some_inputs, some_outcomes, max_grad_norm)
        found = WAYS[way](model, some_inputs, some_outcomes, max_grad_norm)
        assert relative(found.norm_B, expected.norm_B, each=True) < tolerance
        assert relative(vector(found.sums), vector(expected.sums)) < tolerance
        for total, parameter in zip(found.sums, trainable(model), strict=True):
            assert total.shape == parameter.shape
            assert not total.requires_grad


def relative(found: Tensor, expected: Tensor, *, each: bool = False) -> float:
    if each:
        return ((found - expected).abs() / expected.abs().clamp(min=1e-6)).max().item()
    return ((found - expected).norm() / expected.norm().clamp(min=1e-6)).item()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def study_with(*cases: str, **sections: Any) -> Study:
    granularities = {case.replace("-", "_"): CASES[case].model_dump() for case in cases}
    table = study_table() | {"granularities": granularities}
    for section, fields in sections.items():
        table[section] = table[section] | fields
    return Study.model_validate(table)


def model_of(study: Study) -> PatientModel:
    model = PatientModel(study).train()
    with torch.no_grad():  # zeros at the start (biases, embeddings of one row) hide mistakes
        generator = torch.Generator().manual_seed(7)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def batch_of(study: Study, num_patients: int, seed: int = 0) -> tuple[Nested, Nested]:
    inputs = {
        name: patients_of(granularity, num_patients, seed + n)
        for n, (name, granularity) in enumerate(study.granularities.items())
    }
    return inputs, labels_of(study, num_patients, seed, unknown=0.2)


class Alone(nn.Module):
    """One layer, on one array whose leading axes may be folded, with a loss of a curved shape."""

    def __init__(self, layer: nn.Module, *, folded: bool = False, times: int = 1) -> None:
        super().__init__()
        self.layer = layer
        self.folded = folded
        self.times = times

    def forward(self, inputs: Nested) -> Tensor:
        x = inputs["part"]["x_B"]
        num_patients = len(x)
        x = x.flatten(0, 1) if self.folded else x
        for _ in range(self.times):
            x = self.layer(x)
        return x.reshape(num_patients, -1)

    def loss_per_patient(self, logits: Tensor, outcomes: Nested) -> Tensor:
        return (logits.sin() * outcomes["y"]["weight_BW"][:, : logits.shape[1]]).sum(dim=1)


def check_alone(layer: nn.Module, x: Tensor, *, folded: bool = False, times: int = 1) -> None:
    model = Alone(layer, folded=folded, times=times)
    with torch.no_grad():
        width = model({"part": {"x_B": x.to(dtype_of(layer)) if x.is_floating_point() else x}})
    outcomes = {"y": {"weight_BW": torch.randn(len(x), width.shape[1])}}
    check(model, {"part": {"x_B": x}}, outcomes)


def dtype_of(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_sum_and_norms_are_those_of_a_loop_for_every_encoder(case: str, way: str) -> None:
    study = study_with(case)
    model = model_of(study)
    check(model, *batch_of(study, 5), way=way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_sum_and_norms_are_those_of_a_loop_for_every_fusion(fusion: str, way: str) -> None:
    study = study_with("tabular", "series-gru", "images-cnn", model={"fusion": fusion})
    check(model_of(study), *batch_of(study, 6), way=way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", OUTCOMES)
def test_sum_and_norms_are_those_of_a_loop_for_every_head(kind: str, way: str) -> None:
    study = study_with("tabular", "markers-mlp", outcomes=OUTCOMES[kind])
    check(model_of(study), *batch_of(study, 8), way=way)


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


def test_images_of_a_patient_stand_one_after_the_other() -> None:
    # Six images: two of each of three patients. The sum is that of a loop over patients, and not
    # the one of a model that takes every third image for a patient's.
    study = study_with("images-residual_cnn")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 3)
    check(model, inputs, outcomes)
    mixed = torch.arange(6).view(2, 3).t().flatten()
    images = inputs["images_residual_cnn"]["images_BNHW"]
    other = images.flatten(0, 1)[mixed].view_as(images)
    spoilt = {"images_residual_cnn": inputs["images_residual_cnn"] | {"images_BNHW": other}}
    assert relative(*(vector(sum_of(model, i, outcomes)) for i in (inputs, spoilt))) > 1e-3


def test_an_absent_granularity_has_zero_gradient_and_the_others_theirs() -> None:
    study = study_with("tabular", "notes-transformer")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 6)
    for absent in (slice(1, 2), slice(None)):
        inputs["notes_transformer"]["present_B"][absent] = False
        check(model, inputs, outcomes)
    sums = dict(zip(dict(model.named_parameters()), sum_of(model, inputs, outcomes), strict=True))
    notes = [s for name, s in sums.items() if name.startswith("encoders.notes")]
    assert len(notes) > 5
    assert not vector(notes).any()
    assert vector([s for name, s in sums.items() if "tabular" in name]).any()


def sum_of(
    model: nn.Module, inputs: Nested, outcomes: Nested, max_grad_norm: float = 0.5
) -> list[Tensor]:
    return clipped_gradient_sum(model, inputs, outcomes, max_grad_norm=max_grad_norm)


@pytest.mark.parametrize(("num_patients", "num_markers"), [(1, 2), (2, 2), (70, 9000), (1030, 1)])
def test_any_number_of_patients_is_the_sum_of_a_loop(num_patients: int, num_markers: int) -> None:
    # 18,001 numbers of a patient are worked on 32 patients at a time, and 3 of them 1,024.
    markers = [f"m{n}" for n in range(num_markers)]
    granularity = granularity_of("markers", markers=markers, hidden=[]).model_dump()
    table = study_table() | {"granularities": {"markers": granularity}}
    study = Study.model_validate(table)
    model, (inputs, outcomes) = model_of(study), batch_of(study, num_patients)
    expected = loop(model, inputs, outcomes, 0.5).sums
    assert relative(vector(sum_of(model, inputs, outcomes)), vector(expected)) < 1e-5


def test_no_patient_gives_zeros_in_the_shape_of_the_parameters() -> None:
    study = study_with("tabular", "images-cnn")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 0)
    sums = sum_of(model, inputs, outcomes)
    assert [s.shape for s in sums] == [p.shape for p in model.parameters()]
    assert not vector(sums).any()


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


@pytest.mark.parametrize("max_grad_norm", [0.0, -1.0, 1e-13, float("inf"), float("nan")])
def test_a_norm_out_of_its_range_is_refused(max_grad_norm: float) -> None:
    study = study_with("tabular")
    with pytest.raises(ValueError, match="max_grad_norm of 1e-12 or more, found"):
        sum_of(model_of(study), *batch_of(study, 2), max_grad_norm)


def test_a_loss_that_depends_on_other_patients_is_refused() -> None:
    outcomes = {"death": MORE_OUTCOMES["death"] | {"loss": "cox"}}
    study = study_with("tabular", outcomes=outcomes)
    with pytest.raises(ValueError, match="depend on one patient each"):
        sum_of(model_of(study), *batch_of(study, 2))


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


def test_what_is_random_is_drawn_once_and_for_each_patient() -> None:
    dropouts = {"dropout": 0.4, "granularity_dropout": 0.4}
    study = study_with("tabular", "images-cnn", "notes-transformer", model=dropouts)
    augment = {"flip": 0.5, "shift": 0.2, "contrast": 0.3, "noise": 0.1}
    images = granularity_of("images", augment=augment).model_dump()
    table = study.model_dump()
    table["granularities"]["images_cnn"] = images
    study = Study.model_validate(table)
    model, (inputs, outcomes) = model_of(study), batch_of(study, 6)
    torch.manual_seed(3)
    loss = model.loss_per_patient(model(inputs), outcomes).sum()
    expected = vector(list(torch.autograd.grad(loss, trainable(model))))
    torch.manual_seed(3)
    found = vector(sum_of(model, inputs, outcomes, 1e6))
    assert relative(found, expected) < 1e-5
    assert relative(vector(sum_of(model, inputs, outcomes, 1e6)), expected) > 1e-2


def test_frozen_parameters_are_left_out_of_sum_and_norm() -> None:
    study = study_with("tabular", "series-tcn", model={"frozen": ["tabular"]})
    model, (inputs, outcomes) = model_of(study), batch_of(study, 5)
    project = model.encoders["series_tcn"].project
    project.weight.requires_grad_(False)
    model.encoders["series_tcn"].body.blocks[0].layers[0].bias.requires_grad_(False)
    model.encoders["series_tcn"].body.blocks[1].layers[3].weight.requires_grad_(False)
    for way in WAYS:
        check(model, inputs, outcomes, way=way)
    assert len(sum_of(model, inputs, outcomes)) == len(trainable(model))
    assert not any(p.requires_grad for p in model.encoders["tabular"].parameters())
    model.requires_grad_(False)
    assert sum_of(model, inputs, outcomes) == []


def state(model: nn.Module) -> list[Any]:
    return [
        {name: value.clone() for name, value in model.named_buffers()},
        {name: p.detach().clone() for name, p in model.named_parameters()},
        {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        [len(m._forward_hooks) for m in model.modules()],
        model.training,
    ]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("case", ["tabular", "images-cnn"])
def test_the_model_is_as_before_also_where_it_raises(case: str, fails: bool) -> None:
    study = study_with(case, model={"frozen": []})
    model, (inputs, outcomes) = model_of(study), batch_of(study, 3)
    for parameter in trainable(model)[::2]:
        parameter.grad = torch.ones_like(parameter)
    before = state(model)
    if fails:
        del outcomes["event"]["label_B"]
        with pytest.raises(KeyError):
            sum_of(model, inputs, outcomes)
    else:
        sum_of(model, inputs, outcomes)
    after = state(model)
    for old, new in zip(before[:2], after[:2], strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert all(before[2][name][0] == after[2][name][0] for name in before[2])
    assert all(before[2][name][1] is after[2][name][1] for name in before[2])
    assert before[3:] == after[3:]


def test_it_works_where_gradients_are_switched_off() -> None:
    study = study_with("tabular")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 3)
    expected = vector(sum_of(model, inputs, outcomes))
    with torch.no_grad():
        assert torch.equal(vector(sum_of(model, inputs, outcomes)), expected)


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


def test_nothing_of_a_batch_is_kept_once_the_sum_is_there() -> None:
    study = study_with("images-cnn")
    model, (inputs, outcomes) = model_of(study), batch_of(study, 3)
    outputs = []
    stages = model.encoders["images_cnn"].stages
    handles = [
        layer.register_forward_hook(lambda module, args, out: outputs.append(weakref.ref(out)))
        for layer in stages
    ]
    gc.disable()
    try:
        sum_of(model, inputs, outcomes)
        assert len(outputs) == len(stages)
        assert all(output() is None for output in outputs)
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()


def test_clip_factors_never_lengthen_and_lose_what_is_not_finite() -> None:
    norm_B = torch.tensor([0.0, 1e-30, 0.5, 2.0, 1e30, *GARBAGE[:2]])
    assert clip_factors(norm_B, 1.0).tolist() == pytest.approx(
        [1.0, 1.0, 1.0, 0.5, 1e-30, 0.0, 0.0], rel=1e-6, abs=0
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_sum_of_the_processor() -> None:
    study = study_with("tabular", "series-gru", "images-cnn", "notes-transformer")
    model, batch = model_of(study).double(), batch_of(study, 6)
    inputs, outcomes = batch
    expected = vector(sum_of(model, inputs, outcomes))
    inputs, outcomes = (
        {n: {k: v.cuda() for k, v in a.items()} for n, a in named.items()} for named in batch
    )
    found = vector(sum_of(model.cuda(), inputs, outcomes))
    assert found.is_cuda
    assert relative(found.cpu(), expected) < 1e-9
