"""Observed survival from counts by time: what predicted curves are compared with.

Kaplan and Meier's estimate needs the order of all times; from counts in bins it becomes the life
table, in which those who are censored within a bin are at risk for half of it.

Letters of shapes: T time bins, K times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np

from common.metrics.intervals import Z, proportion
from common.metrics.statistics import EvaluationSums, Floats


@dataclass(frozen=True, kw_only=True)
class Survival:
    """Who is still without the event at a time.

    Attributes:
        at_risk: patients who were watched until then, without the event before.
        interval: 95 %, on the scale of log(-log), which stays within [0, 1].
    """

    time: float
    at_risk: float
    observed: float
    interval: tuple[float, float]


def observed_survival(sums: EvaluationSums, cut_points: Sequence[float]) -> list[Survival]:
    """The observed survival at each of the study's times; none where counts were not sent.

    Times from which on nobody is left at risk are missing. Within a bin the hazard counts as
    constant. An event at the very edge of two bins counts in the later one.

    Guarantees:
        - Without censoring it is the part of patients whose time is later, at edges of bins.
        - It differs from Kaplan and Meier's estimate by what happens within one bin at most.

    Source: Cutler and Ederer 1958, Journal of Chronic Diseases 8:699; Greenwood's variance.
    """
    names = ("events_by_time_and_risk", "censored_by_time_and_risk")
    if not sums.has(*names):
        return []
    events_T, censored_T = (sums.sums[name].sum(axis=1) for name in names)
    num_within = len(events_T) - 1
    later_T = np.cumsum((events_T + censored_T)[::-1])[::-1]
    told = []
    for time in cut_points:
        place = time / cut_points[-1] * num_within
        whole = min(int(place + 1e-9), num_within)
        part = max(place - whole, 0.0)
        found = _at(events_T, censored_T, later_T, whole, part)
        if found is None:
            break
        survival, variance, at_risk = found
        told.append(
            Survival(
                time=float(time),
                at_risk=at_risk,
                observed=survival,
                interval=_interval(survival, variance, at_risk),
            )
        )
    return told


def _at(
    events_T: Floats, censored_T: Floats, later_T: Floats, whole: int, part: float
) -> tuple[float, float, float] | None:
    """Survival, Greenwood's sum and the number at risk after whole bins and a part of one more."""
    log_survival, greenwood = 0.0, 0.0
    for place in range(whole + (part > 0)):
        at_risk = later_T[place] - censored_T[place] / 2
        events = events_T[place]
        weight = part if place == whole else 1.0
        if at_risk <= 0 or (events and events >= at_risk):
            return None
        log_survival += weight * log(1 - events / at_risk)
        greenwood += weight * events / (at_risk * (at_risk - events))
    left = float(later_T[whole])
    if part > 0:
        left -= part * float(events_T[whole] + censored_T[whole])
    return None if left <= 0 else (exp(log_survival), greenwood, left)


def _interval(survival: float, greenwood: float, at_risk: float) -> tuple[float, float]:
    # Where nothing has happened yet, there is no variance to be seen, but there are few patients.
    if survival == 1:
        return proportion(at_risk, 0.0).interval
    half = Z * sqrt(greenwood) / abs(log(survival))
    return survival ** exp(half), survival ** exp(-half)
