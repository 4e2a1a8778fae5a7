"""Ways to a clipped sum of gradients per patient: ours, and those that it is measured against.

All give the same sum, as far as they work with a model at all. Opacus is loaded where it is used:
it takes seconds and memory, which are no part of our own.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

from client.per_patient import clipped_gradient_sum
from client.per_patient.mapped import clipped_sum_by_vmap
from client.training import NestedTensors
from common.models.patient_model import PatientModel

MAX_GRAD_NORM = 1.0
Batch = tuple[NestedTensors, NestedTensors]
# Returns the gradients of a batch, one tensor for each parameter.
Gradients = Callable[[Batch], list[Tensor]]


def plain(model: PatientModel) -> Gradients:
    """The gradient of the batch's mean loss: training without privacy."""

    def gradients(batch: Batch) -> list[Tensor]:
        inputs, outcomes = batch
        for parameter in model.parameters():
            parameter.grad = None
        loss = model.loss_per_patient(model(inputs), outcomes).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return _grads(model)

    return gradients


def ours(model: PatientModel) -> Gradients:
    """`client.per_patient`, as private training calls it."""
    return lambda batch: clipped_gradient_sum(model, *batch, max_grad_norm=MAX_GRAD_NORM)


def vmap(model: PatientModel) -> Gradients:
    """All patients' gradients by `torch.func`, side by side."""
    return lambda batch: clipped_sum_by_vmap(model, *batch, MAX_GRAD_NORM).sums


def one_by_one(model: PatientModel) -> Gradients:
    """A loop over patients."""

    def gradients(batch: Batch) -> list[Tensor]:
        inputs, outcomes = batch
        parameters = list(model.parameters())
        total = [torch.zeros_like(p, requires_grad=False) for p in parameters]
        for b in range(_size_of(batch)):
            logits_1W = model(_row(inputs, b))
            loss = model.loss_per_patient(logits_1W, _row(outcomes, b)).sum()
            found = torch.autograd.grad(loss, parameters)
            norm = torch.stack(torch._foreach_norm(found)).norm()
            factor = (MAX_GRAD_NORM / norm).clamp(max=1.0)
            torch._foreach_add_(total, torch._foreach_mul(found, factor))
        return total

    return gradients


def hooks(model: PatientModel) -> Gradients:
    """Opacus's default: a gradient of every weight for every patient, by hooks."""
    from opacus.grad_sample import GradSampleModule  # type: ignore[import-untyped]

    module = GradSampleModule(model, loss_reduction="sum")
    return _by_opacus(model, module)


def ew(model: PatientModel) -> Gradients:
    """Opacus's "expanded weights": the same, within the layers."""

    def forward(inputs: NestedTensors) -> Tensor:
        size = len(next(iter(next(iter(inputs.values())).values())))
        call: Any = call_for_per_sample_grads
        logits_BW: Tensor = call(model, batch_size=size, loss_reduction="sum")(inputs)
        return logits_BW

    return _by_opacus(model, forward)


def ghost(model: PatientModel) -> Gradients:
    """Opacus's ghost clipping: norms in one backward pass, the clipped sum in another."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import (  # type: ignore[import-untyped]
        DPOptimizerFastGradientClipping,
    )
    from opacus.utils import (  # type: ignore[import-untyped]
        fast_gradient_clipping_utils as clipping,
    )

    module: Any = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", max_grad_norm=MAX_GRAD_NORM, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        _sgd(model),
        noise_multiplier=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        expected_batch_size=1,
        loss_reduction="sum",
    )

    def gradients(batch: Batch) -> list[Tensor]:
        inputs, outcomes = batch
        optimizer.zero_grad()
        loss_B = model.loss_per_patient(module(inputs), outcomes)
        clipping.DPTensorFastGradientClipping(module, optimizer, loss_B, "sum").backward()
        return _grads(model)

    return gradients


# By mode; "plain" is what all others are measured over.
MODES: Mapping[str, Callable[[PatientModel], Gradients]] = {
    "plain": plain,
    "ours": ours,
    "vmap": vmap,
    "hooks": hooks,
    "ew": ew,
    "ghost": ghost,
    "one_by_one": one_by_one,
}


def why_not(gradients: Gradients, batch: Batch, expected: list[Tensor]) -> str | None:
    """Why a mode cannot be measured with a model, or None: it must give the clipped sum."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = gradients(batch)
        # Whatever a library raises on a model that it was not made for.
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:90]}"
    wrong = torch.cat([(a - b).flatten() for a, b in zip(found, expected, strict=True)]).norm()
    size = torch.cat([b.flatten() for b in expected]).norm()
    return None if wrong <= 1e-4 * size else f"another sum, by {(wrong / size).item():.1e}"


def _by_opacus(model: PatientModel, forward: Callable[[NestedTensors], Tensor]) -> Gradients:
    """The sum as Opacus's optimizer clips it, from `grad_sample` of every parameter."""
    from opacus.optimizers import DPOptimizer

    optimizer = DPOptimizer(
        _sgd(model),
        noise_multiplier=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        expected_batch_size=1,
        loss_reduction="sum",
    )

    def gradients(batch: Batch) -> list[Tensor]:
        inputs, outcomes = batch
        optimizer.zero_grad()
        loss = model.loss_per_patient(forward(inputs), outcomes).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.clip_and_accumulate()
        return [p.summed_grad for p in model.parameters()]  # type: ignore[attr-defined]

    return gradients


def _sgd(model: PatientModel) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.0)


def _grads(model: PatientModel) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


def _row(named: NestedTensors, b: int) -> NestedTensors:
    return {name: {k: v[b : b + 1] for k, v in arrays.items()} for name, arrays in named.items()}


def _size_of(batch: Batch) -> int:
    return len(next(iter(next(iter(batch[0].values())).values())))
