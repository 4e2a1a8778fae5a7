"""What both ways of computing a clipped sum agree on: the clip factor, and their result.

Letters of shapes: B patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Arrays of patients by name, those of a granularity or outcome together; the first axis is B.
Nested = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class ClippedSum:
    """The sum over patients of their clipped gradients, and how long each was before.

    Attributes:
        sums: one tensor for each trainable parameter, in the model's order.
        norm_B: L2 norm of each patient's gradient over all of them together. It is as private as
            the patient's record: it must not leave this package but in tests.
    """

    sums: list[Tensor]
    norm_B: Tensor


def clip_factors(norm_B: Tensor, max_grad_norm: float) -> Tensor:
    """What each patient's gradient is multiplied by: min(1, C / norm), and 0 if it is not finite.

    A norm that overflows is not finite. What a factor of 0 belongs to must be put to zero as well,
    since 0 · NaN is NaN.

    Source: Abadi et al. 2016, algorithm 1, arXiv:1607.00133.

    >>> clip_factors(torch.tensor([0.0, 0.5, 4.0, float("inf"), float("nan")]), 2.0).tolist()
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    factor_B = max_grad_norm / norm_B.clamp(min=max_grad_norm)
    return torch.where(norm_B.isfinite(), factor_B, torch.zeros_like(factor_B))


def zero_where_lost(x_B: Tensor, lost_B: Tensor) -> Tensor:
    """`x_B`, shape (B, …), with zeros in the rows of the patients who are `lost_B`."""
    rows_B = lost_B.view(-1, *[1] * (x_B.dim() - 1))
    return torch.where(rows_B, torch.zeros_like(x_B), x_B)


def num_patients_of(inputs: Nested) -> int:
    """B, from the first array that there is."""
    return next(len(array_B) for arrays in inputs.values() for array_B in arrays.values())
