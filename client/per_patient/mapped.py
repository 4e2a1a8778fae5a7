"""Clipped sums for any model: the gradient of each patient by `torch.func`, all at once.

The way for layers that `client.per_patient.book_keeping` does not know. It holds as many gradients
of the whole model as there are patients.

Letters of shapes: B patients.
"""

from typing import Any

import torch
from torch import Tensor, nn

from client.per_patient.contribution import ClippedSum, Nested, clip_factors, zero_where_lost


def clipped_sum_by_vmap(
    model: nn.Module, inputs: Nested, outcomes: Nested, max_grad_norm: float
) -> ClippedSum:
    """The clipped sum of `clipped_gradient_sum`, from all patients' gradients side by side."""
    trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], patient: Nested, labels: Nested) -> Tensor:
        state = (parameters, frozen, buffers)
        logits = torch.func.functional_call(model, state, (_alone(patient),))
        loss_of: Any = model.loss_per_patient
        loss_B: Tensor = loss_of(logits, _alone(labels))
        return loss_B.squeeze(0)

    gradients_of = torch.func.vmap(
        torch.func.grad(loss), in_dims=(None, 0, 0), randomness="different"
    )
    gradients = gradients_of(trainable, inputs, outcomes)
    rows = [gradient_B.flatten(1) for gradient_B in gradients.values()]
    norm_B = torch.stack([row_BP.norm(dim=1) for row_BP in rows]).norm(dim=0)
    factor_B = clip_factors(norm_B, max_grad_norm)
    lost_B = ~norm_B.isfinite()
    if lost_B.any():
        rows = [zero_where_lost(row_BP, lost_B) for row_BP in rows]
    sums = [
        (factor_B @ row_BP).view_as(parameter)
        for row_BP, parameter in zip(rows, trainable.values(), strict=True)
    ]
    return ClippedSum(sums=sums, norm_B=norm_B)


def _alone(patient: Nested) -> Nested:
    """One patient's arrays as a batch of one."""
    return {
        name: {key: value.unsqueeze(0) for key, value in arrays.items()}
        for name, arrays in patient.items()
    }
