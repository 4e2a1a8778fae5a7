"""How a model's probabilities would have to be moved to be what they say, from score histograms.

A line on the scale of logits: logit P(outcome) = intercept + slope · logit(score). A slope below 1
means that scores are too extreme; 1 / slope is then the temperature to divide logits by.

Letters of shapes: S score bins.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from common.metrics.intervals import Z
from common.metrics.statistics import Floats
from common.metrics.thresholds import ScoreCells

_MOST_STEPS = 50
# Beyond, scores tell outcomes apart altogether, and there is no line.
_LARGEST_SLOPE = 20.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """The line of recalibration, each number with its 95 % interval.

    Attributes:
        shift: the intercept where the slope is kept at 1: above 0, scores are too low on average.
        expected, observed: patients with the outcome, by the sum of scores, and in truth.
    """

    slope: float
    slope_interval: tuple[float, float]
    shift: float
    shift_interval: tuple[float, float]
    expected: float
    observed: float


def line_of(cells: ScoreCells) -> Line | None:
    """The line that fits best; None where a class has few patients, or noise leaves no line.

    Guarantees:
        - Of exact counts it is the logistic regression of outcomes on the logits of scores, but for
          the width of the bins.
        - About 95 of 100 intervals hold the true slope, with and without noise.

    Source: Cox 1958, Biometrika 45:562; Van Calster et al. 2019, BMC Medicine 17:230.
    """
    if not cells.has_both_classes or not cells.is_enough():
        return None
    middle_S = cells.middles
    logit_S = np.log(middle_S) - np.log1p(-middle_S)
    ones_S = np.ones_like(logit_S)
    both = _fitted(cells, np.stack([ones_S, logit_S]), np.zeros_like(logit_S))
    shift = _fitted(cells, ones_S[None], logit_S)
    if both is None or shift is None or abs(both[0][1]) > _LARGEST_SLOPE:
        return None
    (_, slope), covariance = both
    return Line(
        slope=float(slope),
        slope_interval=_interval(slope, covariance[1, 1]),
        shift=float(shift[0][0]),
        shift_interval=_interval(shift[0][0], shift[1][0, 0]),
        expected=float((cells.positives_S + cells.negatives_S) @ middle_S),
        observed=float(cells.positives_S.sum()),
    )


def _interval(value: float, variance: float) -> tuple[float, float]:
    half = Z * sqrt(variance)
    return float(value - half), float(value + half)


def _fitted(
    cells: ScoreCells, inputs_PS: Floats, offset_S: Floats
) -> tuple[Floats, NDArray[np.float64]] | None:
    """Coefficients (P,) and their covariance (P, P) of a logistic regression on bins, by Newton.

    The estimating equation is linear in the counts, so that noise of mean 0 moves it by nothing on
    average, and adds its own variance to that of the patients (a sandwich).
    """
    positives_S, negatives_S = cells.positives_S, cells.negatives_S
    coefficients = np.zeros(len(inputs_PS))
    for _ in range(_MOST_STEPS):
        p_S = _sigmoid(coefficients @ inputs_PS + offset_S)
        gradient = inputs_PS @ (positives_S * (1 - p_S) - negatives_S * p_S)
        weight_S = (positives_S + negatives_S) * p_S * (1 - p_S)
        information = (inputs_PS * weight_S) @ inputs_PS.T
        if np.linalg.eigvalsh(information)[0] <= 1e-9 * float(np.abs(weight_S).sum()):
            return None
        step = np.linalg.solve(information, gradient)
        # A long step overshoots where scores tell outcomes apart well.
        coefficients = coefficients + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            noise_S = cells.noise_variance * (p_S**2 + (1 - p_S) ** 2)
            middle = information + (inputs_PS * noise_S) @ inputs_PS.T
            inverse = np.linalg.inv(information)
            return coefficients, inverse @ middle @ inverse
    return None


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-np.clip(x, -500, 500)))
    return result
