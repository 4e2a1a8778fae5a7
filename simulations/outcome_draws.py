"""Outcomes of simulated patients, drawn from their drivers, by kind of outcome.

What an outcome's distribution is given the driver stands here once, for drawing patients and for
the ground truth alike.

Letters of shapes: B patients, C classes; a leading ... is B, or B and nodes of a quadrature.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome, SurvivalOutcome
from simulations.disease import Floats, Treatment

# A regression's target, on its own scale, is linear in driver + noise: both of these by sd.
_COST_SLOPE = 0.4  # of a driver with a spread of 2: .8
_COST_NOISE = 0.6
_LOG_CENTRE, _LOG_SPREAD = 0.55, 0.1  # as parts of the range of log(1 + value)
_PART_MEDIAN, _PART_SPREAD = 0.11, 0.5  # of the skewed part of a linear range
# Survival: the log hazard is .6 of the driver above a Weibull baseline; censoring is uniform.
_HAZARD_SLOPE = 0.6
_WEIBULL_SHAPE = 1.2
_WEIBULL_SCALE = 0.9  # of the last cut point, as are the bounds of censoring
_CENSORED_FROM, _CENSORED_TO = 0.3, 1.3


def draw_outcome(
    outcome: AnyOutcome, driver_B: Floats, random: np.random.Generator
) -> dict[str, "pd.Series[str] | Floats"]:
    """The columns of the patients' table that belong to an outcome.

    Guarantees:
        - Classes are drawn with the probabilities of `risk_of`.
        - Quantities lie within the range of the outcome, times at 0 or above.
        - Hazards of survival are proportional in the driver, and censoring is independent of it.
    """
    if isinstance(outcome, ClassOutcome):
        risk_BC = risk_of(outcome, driver_B)
        drawn_B = (risk_BC.cumsum(axis=1) < random.uniform(size=(len(driver_B), 1))).sum(axis=1)
        classes = [outcome.classes[c] for c in np.minimum(drawn_B, risk_BC.shape[1] - 1)]
        return {outcome.column: pd.Series(classes, dtype=object)}
    if isinstance(outcome, RegressionOutcome):
        return {outcome.column: _draw_cost(outcome, driver_B, random)}
    return _draw_survival(outcome, driver_B, random)


def risk_of(outcome: ClassOutcome, driver: Floats) -> Floats:
    """The probability of each class (..., C) given the driver; classes are ordered by severity.

    >>> binary = ClassOutcome(kind="binary", column="event", classes=("no", "yes"))
    >>> risk_of(binary, np.array([0.0])).tolist()
    [[0.5, 0.5]]
    """
    num_classes = len(outcome.classes)
    if num_classes == 2:
        positive = 1 / (1 + np.exp(-driver))
        return np.stack([1 - positive, positive], axis=-1)
    # Ordered classes: the further along, the more severe.
    centres_C = np.linspace(-2.0, 2.0, num_classes)
    logits_C = -((driver[..., None] - centres_C) ** 2)
    odds_C = np.exp(logits_C - logits_C.max(axis=-1, keepdims=True))
    risk_C: Floats = odds_C / odds_C.sum(axis=-1, keepdims=True)
    return risk_C


def cost_mean_and_variance(outcome: RegressionOutcome, driver: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of a quantity given the driver, on the outcome's scale, without clipping.

    On the scale "log" it is Gaussian, on the linear one log-normal.
    """
    if outcome.scale == "log":
        low, high = np.log1p(outcome.range)
        spread = _LOG_SPREAD * (high - low)
        mean = low + _LOG_CENTRE * (high - low) + spread * _COST_SLOPE * driver
        return mean, np.full_like(driver, (spread * _COST_NOISE) ** 2)
    low, high = outcome.range
    noise_variance = (_PART_SPREAD * _COST_NOISE) ** 2
    logs = math.log(_PART_MEDIAN) + _PART_SPREAD * _COST_SLOPE * driver + noise_variance / 2
    part = (high - low) * np.exp(logs)
    return low + part, part**2 * math.expm1(noise_variance)


def _draw_cost(outcome: RegressionOutcome, driver_B: Floats, random: np.random.Generator) -> Floats:
    low, high = outcome.range
    standard_B = _COST_SLOPE * driver_B + _COST_NOISE * random.normal(size=len(driver_B))
    if outcome.scale == "log":
        bottom, top = np.log1p(outcome.range)
        logs_B = bottom + (top - bottom) * (_LOG_CENTRE + _LOG_SPREAD * standard_B)
        values_B = np.expm1(logs_B)
    else:
        values_B = low + (high - low) * _PART_MEDIAN * np.exp(_PART_SPREAD * standard_B)
    cost_B: Floats = np.clip(rounded(values_B, high - low), low, high)
    return cost_B


def _draw_survival(
    outcome: SurvivalOutcome, driver_B: Floats, random: np.random.Generator
) -> dict[str, "pd.Series[str] | Floats"]:
    last = outcome.cut_points[-1]
    exponential_B = random.exponential(size=len(driver_B)) / np.exp(_HAZARD_SLOPE * driver_B)
    event_B = _WEIBULL_SCALE * last * exponential_B ** (1 / _WEIBULL_SHAPE)
    censored_B = last * random.uniform(_CENSORED_FROM, _CENSORED_TO, len(driver_B))
    time_B = rounded(np.minimum(event_B, censored_B), last)
    happened = pd.Series(np.where(event_B <= censored_B, "1", "0"), dtype=object)
    return {outcome.time_column: time_B, outcome.event_column: happened}


def concordance_weights(driver_B: Floats, other_B: Floats) -> tuple[Floats, Floats]:
    """Of pairs of patients: the chance that the first is seen to die first, and the second.

    Under censoring, as Harrell's C counts pairs: the earlier time must be an event.
    """
    hazard_B, against_B = np.exp(_HAZARD_SLOPE * driver_B), np.exp(_HAZARD_SLOPE * other_B)
    # ∫ h H'(t) exp(-(h + h') H(t)) S(t)² dt, with H the cumulative baseline hazard and S the part
    # that is not censored at t: a function of h + h' alone, apart from the factor h.
    times_T = np.linspace(0, _CENSORED_TO, 801)
    hazards_T = (times_T / _WEIBULL_SCALE) ** _WEIBULL_SHAPE
    kept_T = np.clip((_CENSORED_TO - times_T) / (_CENSORED_TO - _CENSORED_FROM), 0, 1)
    sums_H = np.geomspace(1e-6, 1e6, 400)
    middle_T = (kept_T[1:] ** 2 + kept_T[:-1] ** 2) / 2
    survival_HT = np.exp(-sums_H[:, None] * hazards_T)
    seen_H = ((survival_HT[:, :-1] - survival_HT[:, 1:]) * middle_T).sum(axis=1)
    total_B = hazard_B + against_B
    seen_B = np.interp(np.log(total_B), np.log(sums_H), seen_H)
    return seen_B * hazard_B / total_B, seen_B * against_B / total_B


def draw_treatment(
    treatment: Treatment, z_BL: Floats, random: np.random.Generator
) -> tuple[dict[str, NDArray[Any]], Floats]:
    """The columns treatment and response, and the transformed response that estimates τ(z).

    Guarantees:
        - The treatment is independent of z.
        - Given z, the mean of the transformed response is the effect.
    """
    prior_L = np.zeros(z_BL.shape[1])  # a linear driver takes no notice of it
    treated_B = (random.uniform(size=len(z_BL)) < treatment.probability).astype(np.float64)
    excess_B = treatment.baseline.values(z_BL, prior_L)
    excess_B = excess_B + treated_B * treatment.effect.values(z_BL, prior_L)
    excess_B = excess_B + treatment.noise * random.normal(size=len(z_BL))
    scale = 2 * treatment.centre
    response_B = np.clip(rounded(treatment.centre + excess_B, scale), 0.0, scale)
    p = treatment.probability
    target_B = (response_B - treatment.centre) * (treated_B - p) / (p * (1 - p))
    given = {"treatment": treated_B.astype(np.int64), "response": response_B}
    return given, rounded(target_B, scale)


def rounded(values: Floats, size: float) -> Floats:
    """Values to about four digits of their size, as an instrument would print them."""
    decimals = max(0, 4 - math.ceil(math.log10(size)))
    near: Floats = np.round(values, decimals)
    return near
