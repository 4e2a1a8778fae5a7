"""The one number of a prediction that is explained, differentiable: as `client.contributions`.

Letters of shapes: B patients, P predicted numbers of an outcome, C classes, W logits.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome

_SMALLEST_SCORE = 1e-12


def explained_classes(outcome: AnyOutcome, predicted_BP: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class whose log odds are explained, (B,): the second of two, else the predicted one."""
    if isinstance(outcome, ClassOutcome) and outcome.kind == "multiclass":
        class_B: NDArray[np.int64] = predicted_BP.argmax(axis=1).astype(np.int64)
        return class_B
    return np.ones(len(predicted_BP), dtype=np.int64)


def score_of(
    predicted_BP: Tensor, outcome: AnyOutcome, class_B: Tensor, intercept_C: Tensor | None
) -> Tensor:
    """The score of each patient, shape (B,), float64.

    Log odds of the class `class_B`; the value in its unit; the mean probability of the event by the
    cut points.

    Args:
        predicted_BP: what the head predicts, without the site's intercept.
        intercept_C: the site's own, of classes.
    """
    if isinstance(outcome, RegressionOutcome):
        return predicted_BP[:, 0]
    if not isinstance(outcome, ClassOutcome):
        return 1 - predicted_BP.mean(dim=1)
    if intercept_C is not None:
        moved_BC = predicted_BP.clamp(min=_SMALLEST_SCORE).log() + intercept_C
        predicted_BP = moved_BC.softmax(dim=1)
    p_B = predicted_BP.gather(1, class_B.unsqueeze(1)).squeeze(1)
    p_B = p_B.clamp(_SMALLEST_SCORE, 1 - _SMALLEST_SCORE)
    return p_B.log() - torch.log1p(-p_B)
