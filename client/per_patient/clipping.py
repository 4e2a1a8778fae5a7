"""The sum of clipped gradients of patients: the one thing of them that private training uses.

Letters of shapes: B patients.
"""

from collections.abc import Iterator
from math import isfinite, prod

import torch
from torch import Tensor

from client.per_patient.book_keeping import clipped_sum_by_book_keeping, known_layers
from client.per_patient.contribution import Nested, num_patients_of
from client.per_patient.mapped import clipped_sum_by_vmap
from common.models.heads import Head
from common.models.patient_model import PatientModel

# Of one pass, by device type: how many numbers its patients' arrays may hold, so that what the
# layers make of them stays near a processor's caches; a GPU likes more. And how many patients.
_MOST_NUMBERS = {"cpu": 1 << 19, "cuda": 1 << 23}
_FEWEST, _MOST = 32, 1024
# Below it, squares of what is clipped may vanish in float32, and a norm come out as too small.
_LEAST_NORM = 1e-12


def clipped_gradient_sum(
    model: PatientModel, inputs: Nested, outcomes: Nested, *, max_grad_norm: float
) -> list[Tensor]:
    """The sum over patients of the gradient of each one's loss, clipped to `max_grad_norm`.

    A gradient g of a patient, over all trainable parameters together, counts as
    g · min(1, max_grad_norm / |g|).

    Guarantees:
        - It equals the sum over a loop in which every patient is alone.
        - A patient moves it by no more than `max_grad_norm` in L2, but for rounding.
        - A patient whose gradient is not finite adds exactly zero, and leaves the sum of the others
          as it is, bit for bit.
        - Parameters, their `grad` and `requires_grad`, buffers and hooks of the model are as
          before, also where the model raises.
        - How it is computed depends on the model's layers and on shapes alone, never on what is in
          the arrays of patients, but for one step more where a gradient is not finite.

    Edge cases:
        - No patient: zeros.
        - A gradient whose squared norm overflows is not finite.
        - A parameter that no patient's loss depends on: zeros.

    Args:
        model: in training mode; what is random in it is drawn for each patient.
        inputs: of the patients, as `client.training.Patients.batch` returns them.
        outcomes: likewise.
        max_grad_norm: 1e-12 or more.

    Returns:
        One tensor for each trainable parameter, in the order of `model.named_parameters()`.

    Raises:
        ValueError: the norm is out of its range, or the loss of a patient depends on others.

    Source: Abadi et al. 2016, algorithm 1, arXiv:1607.00133, without its noise.
    """
    if not (isfinite(max_grad_norm) and max_grad_norm >= _LEAST_NORM):
        raise ValueError(
            f"expected a finite max_grad_norm of {_LEAST_NORM:g} or more, found {max_grad_norm:g}"
        )
    if any(isinstance(m, Head) and not m.is_separable for m in model.modules()):
        raise ValueError(
            "expected losses that depend on one patient each, found a partial likelihood (Cox)"
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return []
    layers = known_layers(model)
    size = _patients_at_once(inputs, parameters[0].device.type)
    total: list[Tensor] = []
    for some_inputs, some_outcomes in _parts(inputs, outcomes, size):
        some = (some_inputs, some_outcomes, max_grad_norm)
        sums = (
            clipped_sum_by_vmap(model, *some)
            if layers is None
            else clipped_sum_by_book_keeping(model, layers, *some)
        ).sums
        if total:
            torch._foreach_add_(total, sums)
        total = total or sums
    return total or [torch.zeros_like(p, requires_grad=False) for p in parameters]


def _patients_at_once(inputs: Nested, device_type: str) -> int:
    """How many patients to work on in one pass: a power of two, by the shapes of their arrays."""
    shapes = [array_B.shape[1:] for arrays in inputs.values() for array_B in arrays.values()]
    fitting = _MOST_NUMBERS.get(device_type, 1 << 19) // max(1, sum(map(prod, shapes)))
    return min(_MOST, max(_FEWEST, 1 << (fitting.bit_length() - 1))) if fitting else _FEWEST


def _parts(inputs: Nested, outcomes: Nested, size: int) -> Iterator[tuple[Nested, Nested]]:
    """The patients in groups of at most `size`, in their order."""
    for start in range(0, num_patients_of(inputs), size):
        place = slice(start, start + size)
        yield _at(inputs, place), _at(outcomes, place)


def _at(named: Nested, place: slice) -> Nested:
    return {
        name: {key: array_B[place] for key, array_B in arrays.items()}
        for name, arrays in named.items()
    }
