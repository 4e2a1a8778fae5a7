"""Integrated gradients in a few lines, so that a hospital needs no library for what its study asks.

Equal to captum's (`client.explain` uses that), by a test.

Letters of shapes: B patients, S steps.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

# The score (B,) of moved arrays, then of those that stay.
Score = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]


def integrate(
    score: Score,
    values: Tensors,
    starts: Tensors,
    fixed: Sequence[Tensor],
    *,
    num_steps: int,
    num_rows: int,
) -> Tensors:
    """The integral of the gradient of the score along the line from `starts` to `values`, float64.

    Guarantees:
        - The gradients of the model's parameters stay as they are.
        - Where a value is at its start, its attribution is exactly 0.

    Args:
        fixed: further arguments of the score, which are not moved.
        num_steps: nodes of the Gauss-Legendre quadrature.
        num_rows: patients times steps in memory at a time.

    Source: Sundararajan, Taly and Yan 2017, equation 1, arXiv:1703.01365.
    """
    nodes_S, weights_S = np.polynomial.legendre.leggauss(num_steps)
    at_once = max(num_rows // len(values[0]), 1)
    sums = [torch.zeros_like(value, dtype=torch.float64) for value in values]
    for first in range(0, num_steps, at_once):
        steps = slice(first, first + at_once)
        parts = [(1 + node) / 2 for node in nodes_S[steps]]
        points = [
            torch.cat([start + part * (value - start) for part in parts]).requires_grad_()
            for value, start in zip(values, starts, strict=True)
        ]
        stays = [array.repeat(len(parts), *[1] * (array.dim() - 1)) for array in fixed]
        found = torch.autograd.grad(
            score(*points, *stays).sum(), points, allow_unused=True, materialize_grads=True
        )
        for total, gradient in zip(sums, found, strict=True):
            by_step = gradient.double().reshape(len(parts), -1, *gradient.shape[1:])
            weight_S = torch.from_numpy(weights_S[steps] / 2).to(gradient.device)
            total += torch.tensordot(weight_S, by_step, dims=1)
    return tuple(
        total * (value - start).double()
        for total, value, start in zip(sums, values, starts, strict=True)
    )
