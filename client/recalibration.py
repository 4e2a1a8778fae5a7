"""Recalibration at a site: the global model's logits, moved by an intercept of the site's own.

Hospitals differ in how ill their patients are beyond what the features say, and one intercept for
all cannot follow. Each site fits its own to its own training patients, anew for each model; that of
the last one is kept at the site (`client.personal`), for predictions. None is sent, and the global
model does not depend on it. What is released of predictions made with it does depend on the
training patients: under a private plan it would have to be paid for.

Source: updating of the intercept ("recalibration in the large"), Steyerberg et al. 2004, Statistics
in Medicine 23:2567, method 1. Differs from the source in: a Gaussian prior on the intercept, with
which a site with few patients moves little, and one with one outcome class has a finite intercept.

Letters of shapes: B patients, C classes.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MOST_STEPS = 50
_SMALLEST_STEP = 1e-10
_SMALLEST_SCORE = 1e-12


def fit_intercept(scores_BC: Floats, labels_B: NDArray[np.int64], sd: float) -> Floats:
    """The most probable intercept of each class, shape (C,); that of the first class is 0.

    Guarantees:
        - At the result, the patients of each class are as many as its probabilities add to, but
          for the pull of the prior (intercept / sd²).
        - Nobody to fit to, or sd = 0, gives zeros.

    Args:
        scores_BC: the model's probabilities of each class; rows add to 1.
        labels_B: the true class of each patient, 0…C-1.
        sd: standard deviation of the prior, on the scale of logits.
    """
    num_classes = scores_BC.shape[1]
    intercept_C = np.zeros(num_classes)
    if sd == 0 or len(labels_B) == 0:
        return intercept_C
    counts_C = np.bincount(labels_B, minlength=num_classes)
    value = _log_posterior(scores_BC, labels_B, intercept_C, sd)
    for _ in range(_MOST_STEPS):
        moved_BC = add_intercept(scores_BC, intercept_C)
        slope_C = counts_C - moved_BC.sum(axis=0) - intercept_C / sd**2
        curvature_CC = np.diag(moved_BC.sum(axis=0) + 1 / sd**2) - moved_BC.T @ moved_BC
        step_C = np.zeros(num_classes)
        step_C[1:] = np.linalg.solve(curvature_CC[1:, 1:], slope_C[1:])
        # A whole Newton step can overshoot where the scores are near 0 or 1: halve until it climbs.
        while np.abs(step_C).max() > _SMALLEST_STEP:
            next_value = _log_posterior(scores_BC, labels_B, intercept_C + step_C, sd)
            if next_value >= value:
                break
            step_C /= 2
        else:
            return intercept_C
        intercept_C, value = intercept_C + step_C, next_value
    return intercept_C


def add_intercept(scores_BC: Floats, intercept_C: Floats) -> Floats:
    """The probabilities once `intercept_C` is added to the logits; rows add to 1.

    >>> add_intercept(np.array([[0.5, 0.5]]), np.array([0.0, np.log(3)]))
    array([[0.25, 0.75]])
    """
    moved_BC: Floats = np.exp(_log_scores(scores_BC, intercept_C))
    return moved_BC


def _log_scores(scores_BC: Floats, intercept_C: Floats) -> Floats:
    logits_BC = np.log(np.maximum(scores_BC, _SMALLEST_SCORE)) + intercept_C
    logits_BC -= logits_BC.max(axis=1, keepdims=True)
    log_scores_BC: Floats = logits_BC - np.log(np.exp(logits_BC).sum(axis=1, keepdims=True))
    return log_scores_BC


def _log_posterior(
    scores_BC: Floats, labels_B: NDArray[np.int64], intercept_C: Floats, sd: float
) -> float:
    likelihood_B = _log_scores(scores_BC, intercept_C)[np.arange(len(labels_B)), labels_B]
    return float(likelihood_B.sum() - (intercept_C**2).sum() / (2 * sd**2))
