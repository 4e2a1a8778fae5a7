"""Heads: from the fused vector to logits, losses per patient, and probabilities.

Letters of shapes: B patients, C classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from common.study import Outcome


def num_logits(outcome: Outcome) -> int:
    """The width of the last layer: one logit for a binary outcome, else one per class."""
    return 1 if outcome.kind == "binary" else len(outcome.classes)


def loss_per_patient(outcome: Outcome, logits: Tensor, labels_B: Tensor) -> Tensor:
    """The cross entropy of each patient, shape (B,); a sum over patients, so clipping is valid."""
    if outcome.kind == "binary":
        target_B = labels_B.to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits[:, 0], target_B, reduction="none")
    return functional.cross_entropy(logits, labels_B, reduction="none")


def probabilities(outcome: Outcome, logits: Tensor) -> Tensor:
    """The probability of each class, shape (B, C), in float64; rows add to 1."""
    if outcome.kind == "binary":
        positive_B = logits[:, 0].double().sigmoid()
        return torch.stack([1 - positive_B, positive_B], dim=1)
    return logits.double().softmax(dim=1)
