"""Predicted survival beside what was observed: Kaplan-Meier by third of predicted risk.

Letters of shapes: B patients, K times.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.explain.subject import Subject
from common.metrics.resampling import Estimate, Floats, concordance, draws, estimate
from common.metrics.survival import risk_of
from common.outcomes import SurvivalOutcome

THIRDS = ("lowest third of risk", "middle third of risk", "highest third of risk")
_Z = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A Kaplan-Meier curve at some times, with 95 % intervals.

    Attributes:
        survival_K, low_K, high_K: NaN after the last patient was observed.
        at_risk_K: the patients still observed just before each time.
    """

    survival_K: Floats
    low_K: Floats
    high_K: Floats
    at_risk_K: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Third:
    """The held-out patients of one third of predicted risk.

    Attributes:
        steps: time and survival after each event up to the last cut point, for drawing.
        predicted_K: mean predicted survival at the cut points; None where the model predicts an
            order alone (Cox).
    """

    name: str
    num_patients: int
    num_events: int
    observed: Observed
    steps: list[tuple[float, float]]
    predicted_K: Floats | None


@dataclass(frozen=True, kw_only=True)
class Survival:
    """Of the held-out patients; thirds of fewer patients than the policy's figure are left out."""

    num_patients: int
    num_events: int
    c_index: Estimate
    thirds: list[Third]


def survival_of(subject: Subject, name: str) -> Survival:
    """Predicted and observed survival of one outcome."""
    outcome = subject.study.outcomes[name]
    if not isinstance(outcome, SurvivalOutcome):
        raise ValueError("expected an outcome of survival")
    test, known_B = subject.test, subject.test.known(name)
    curve_BK = test.predictions[name][known_B]
    arrays = test.cohort.outcomes[name]
    time_B = arrays["time_B"][known_B].astype(np.float64)
    event_B = arrays["event_B"][known_B]
    risk_B = risk_of(curve_BK)
    thirds = [
        _third(THIRDS[t], chosen_B, curve_BK, time_B, event_B, outcome)
        for t, chosen_B in enumerate(_split(risk_B))
        if chosen_B.sum() >= subject.smallest_group
    ]
    return Survival(
        num_patients=len(time_B),
        num_events=int(event_B.sum()),
        c_index=estimate(concordance(risk_B, time_B, event_B, draws(len(time_B)))),
        thirds=thirds,
    )


def _split(risk_B: Floats) -> list[NDArray[np.bool_]]:
    """Who is in which third of risk; patients of equal risk are in the same one."""
    if len(risk_B) == 0:
        return [np.zeros(0, dtype=np.bool_)] * len(THIRDS)
    place_B = np.searchsorted(np.quantile(risk_B, [1 / 3, 2 / 3]), risk_B, side="left")
    return [place_B == t for t in range(len(THIRDS))]


def _third(
    name: str,
    chosen_B: NDArray[np.bool_],
    curve_BK: Floats,
    time_B: Floats,
    event_B: NDArray[np.bool_],
    outcome: SurvivalOutcome,
) -> Third:
    times_K = np.array(outcome.cut_points)
    is_probability = outcome.loss == "discrete_time"
    time_B, event_B = time_B[chosen_B], event_B[chosen_B]
    events = np.unique(time_B[event_B & (time_B <= times_K[-1])])
    steps_K = kaplan_meier(time_B, event_B, events).survival_K
    return Third(
        name=name,
        num_patients=int(chosen_B.sum()),
        num_events=int(event_B.sum()),
        observed=kaplan_meier(time_B, event_B, times_K),
        steps=list(zip(events.tolist(), steps_K.tolist(), strict=True)),
        predicted_K=curve_BK[chosen_B].mean(axis=0) if is_probability else None,
    )


def kaplan_meier(time_B: Floats, event_B: NDArray[np.bool_], times_K: Floats) -> Observed:
    """The Kaplan-Meier estimate of survival beyond each time.

    Guarantees:
        - An event at a time counts as before it; who is censored at a time was observed until then.
        - It is NaN after the last time of any patient, unless nobody was left to survive.

    Source: Kaplan and Meier 1958, JASA 53:457; intervals of log(-log S) by Greenwood's variance,
    Kalbfleisch and Prentice 2002, section 1.4.
    """
    event_times = np.unique(time_B[event_B])
    at_risk = np.array([(time_B >= t).sum() for t in event_times], dtype=np.float64)
    died = np.array([(time_B[event_B] == t).sum() for t in event_times], dtype=np.float64)
    survival = np.cumprod(1 - died / at_risk)
    with np.errstate(divide="ignore"):
        variance = np.cumsum(died / (at_risk * (at_risk - died)))
    place_K = np.searchsorted(event_times, times_K, side="right")
    survival_K = np.concatenate([[1.0], survival])[place_K]
    variance_K = np.concatenate([[0.0], variance])[place_K]
    last = time_B.max(initial=0.0)
    survival_K = np.where((times_K > last) & (survival_K > 0), np.nan, survival_K)
    low_K, high_K = _log_log_interval(survival_K, variance_K)
    return Observed(
        survival_K=survival_K,
        low_K=low_K,
        high_K=high_K,
        at_risk_K=np.array([(time_B >= t).sum() for t in times_K], dtype=np.int64),
    )


def _log_log_interval(survival_K: Floats, variance_K: Floats) -> tuple[Floats, Floats]:
    """At 0 and 1, where the interval is not defined, the point itself."""
    inner_K = (survival_K > 0) & (survival_K < 1)
    log_K = np.log(np.where(inner_K, survival_K, 0.5))
    width_K = _Z * np.sqrt(np.where(inner_K, variance_K, 0.0)) / np.abs(log_K)
    low_K, high_K = (np.exp(log_K * np.exp(sign * width_K)) for sign in (1, -1))
    return np.where(inner_K, low_K, survival_K), np.where(inner_K, high_K, survival_K)
