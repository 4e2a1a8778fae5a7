"""Temperature scaling: one number that makes probabilities milder or bolder, and orders as before.

It is fitted to training patients alone. The model has seen them, so that it is surer of them than
of others; whether it helps is judged on held-out patients.

Letters of shapes: B patients, C classes.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Beyond these, the patients are told apart without a mistake, or not at all.
LOWEST, HIGHEST = 0.05, 20.0
_SMALLEST_SCORE = 1e-12
_NUM_HALVINGS = 60


def fit_temperature(scores_BC: Floats, labels_B: NDArray[np.int64]) -> float | None:
    """The temperature with the least negative log likelihood, within [`LOWEST`, `HIGHEST`].

    None where fewer than two classes are there to fit it to.

    Args:
        scores_BC: probabilities of each class; rows add to 1.
        labels_B: the true class of each patient, 0…C-1.

    Source: Guo et al. 2017, section 4.2, arXiv:1706.04599.
    """
    if len(np.unique(labels_B)) < 2:
        return None
    logits_BC = _logits(scores_BC)
    true_B = logits_BC[np.arange(len(labels_B)), labels_B]

    def slope(sharpness: float) -> float:
        """Of the loss, which is convex in 1 / temperature."""
        expected_B = (_softmax(logits_BC * sharpness) * logits_BC).sum(axis=1)
        return float((expected_B - true_B).sum())

    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(_NUM_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(1 / (low * high) ** 0.5)


def at_temperature(scores_BC: Floats, temperature: float) -> Floats:
    """The probabilities once their logits are divided by the temperature; rows add to 1.

    >>> at_temperature(np.array([[0.2, 0.8]]), 0.5).round(4).tolist()  # odds of 4, squared
    [[0.0588, 0.9412]]
    """
    return _softmax(_logits(scores_BC) / temperature)


def _logits(scores_BC: Floats) -> Floats:
    logits_BC: Floats = np.log(np.maximum(scores_BC, _SMALLEST_SCORE))
    return logits_BC


def _softmax(logits_BC: Floats) -> Floats:
    powers_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    result_BC: Floats = powers_BC / powers_BC.sum(axis=1, keepdims=True)
    return result_BC
