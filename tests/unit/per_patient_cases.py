"""The loop in which every patient is alone, and both ways of the clipped sum held against it.

Letters of shapes: B patients, P parameters, W outputs of a layer.
"""

from typing import Any, get_args

import torch
from torch import Tensor, nn

from client.per_patient import clipped_gradient_sum
from client.per_patient.book_keeping import clipped_sum_by_book_keeping, known_layers
from client.per_patient.contribution import ClippedSum
from client.per_patient.mapped import clipped_sum_by_vmap
from common.models.patient_model import PatientModel
from common.plan import Model
from common.study import Study
from tests.unit.builders import labels_of, study_table
from tests.unit.encoder_cases import CASES, patients_of

Nested = dict[str, dict[str, Tensor]]
FUSIONS = get_args(Model.model_fields["fusion"].annotation)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
GARBAGE = [float("nan"), float("inf"), float("-inf"), 1e38]


def clipped_by_book(
    model: nn.Module, inputs: Nested, outcomes: Nested, max_grad_norm: float
) -> ClippedSum:
    """The way of book-keeping, for a model all of whose layers are known to it."""
    layers = known_layers(model)
    assert layers is not None
    return clipped_sum_by_book_keeping(model, layers, inputs, outcomes, max_grad_norm)


WAYS = {"book": clipped_by_book, "vmap": clipped_sum_by_vmap}


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


def sum_of(
    model: nn.Module, inputs: Nested, outcomes: Nested, max_grad_norm: float = 0.5
) -> list[Tensor]:
    """The clipped sum by whichever way the product takes."""
    return clipped_gradient_sum(model, inputs, outcomes, max_grad_norm=max_grad_norm)


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


def num_patients_of(inputs: Nested) -> int:
    """The length of the first axis."""
    return next(len(value) for arrays in inputs.values() for value in arrays.values())


def rows(named: Nested, b: int) -> Nested:
    """One patient, as a batch."""
    return select(named, slice(b, b + 1))


def select(named: Nested, places: Any) -> Nested:
    """The same arrays of some patients."""
    return {name: {k: v[places] for k, v in arrays.items()} for name, arrays in named.items()}


def vector(sums: list[Tensor]) -> Tensor:
    """All parameters in one, shape (P,)."""
    return torch.cat([total.flatten() for total in sums])


def relative(found: Tensor, expected: Tensor, *, each: bool = False) -> float:
    """The relative error of the whole, or the largest of each entry."""
    if each:
        return ((found - expected).abs() / expected.abs().clamp(min=1e-6)).max().item()
    return ((found - expected).norm() / expected.norm().clamp(min=1e-6)).item()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are summed, in the order of the model."""
    return [p for p in model.parameters() if p.requires_grad]


def study_with(*cases: str, **sections: Any) -> Study:
    """The small study with these encoders, and fields of some sections replaced."""
    granularities = {case.replace("-", "_"): CASES[case].model_dump() for case in cases}
    table = study_table() | {"granularities": granularities}
    for section, fields in sections.items():
        table[section] = table[section] | fields
    return Study.model_validate(table)


def model_of(study: Study) -> PatientModel:
    """A model in training, none of whose parameters is zero."""
    model = PatientModel(study).train()
    with torch.no_grad():  # zeros at the start (biases, embeddings of one row) hide mistakes
        generator = torch.Generator().manual_seed(7)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def batch_of(study: Study, num_patients: int, seed: int = 0) -> tuple[Nested, Nested]:
    """Inputs and outcomes of random patients, a fifth of the outcomes unknown."""
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
    """`check` for one layer on one array."""
    model = Alone(layer, folded=folded, times=times)
    with torch.no_grad():
        width = model({"part": {"x_B": x.to(dtype_of(layer)) if x.is_floating_point() else x}})
    outcomes = {"y": {"weight_BW": torch.randn(len(x), width.shape[1])}}
    check(model, {"part": {"x_B": x}}, outcomes)


def dtype_of(layer: nn.Module) -> torch.dtype:
    """The precision of a layer."""
    return next(layer.parameters()).dtype
