"""Whether probabilities are as often right as they say, before and after temperature scaling.

Letters of shapes: B patients, C classes, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.explain.subject import Subject
from client.explain.temperature import at_temperature, fit_temperature
from common.metrics.classification import CALIBRATION_BINS
from common.metrics.intervals import proportion
from common.metrics.resampling import (
    Estimate,
    Floats,
    draws,
    estimate,
    mean,
    share,
)
from common.page.charts import Bin

# One point would tell of the average alone, and pass for a curve.
_FEWEST_BINS = 2
_SMALLEST_SCORE = 1e-12
ECE = "calibration error (ECE)"
MEASURES = (ECE, "Brier score", "log loss")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of the held-out patients of one outcome of classes.

    Attributes:
        temperature: fitted to the training patients; None where they cannot tell.
        before, after: each of `MEASURES`; `after` is empty without a temperature.
        change: after minus before, on the same resamples.
        bins_before, bins_after: none where there are too few patients for a curve.
    """

    num_patients: int
    temperature: float | None
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    change: dict[str, Estimate]
    bins_before: list[Bin]
    bins_after: list[Bin]


def calibration_of(subject: Subject, outcome: str) -> Calibration:
    """The calibration of an outcome of classes.

    Guarantees:
        - The temperature depends on training patients alone.
    """
    train, test = subject.train, subject.test
    known_B = train.known(outcome)
    temperature = fit_temperature(
        train.predictions[outcome][known_B], train.cohort.outcomes[outcome]["label_B"][known_B]
    )
    known_B = test.known(outcome)
    scores_BC = test.predictions[outcome][known_B]
    label_B = test.cohort.outcomes[outcome]["label_B"][known_B]
    drawn_RB = draws(len(label_B))
    before = _values(scores_BC, label_B, drawn_RB)
    after, bins_after = {}, []
    if temperature is not None:
        scaled_BC = at_temperature(scores_BC, temperature)
        after = _values(scaled_BC, label_B, drawn_RB)
        bins_after = calibration_bins(*_told(scaled_BC, label_B), subject.smallest_group)
    return Calibration(
        num_patients=len(label_B),
        temperature=temperature,
        before=_estimates(before),
        after=_estimates(after),
        change=_estimates({name: after[name] - before[name] for name in after}),
        bins_before=calibration_bins(*_told(scores_BC, label_B), subject.smallest_group),
        bins_after=bins_after,
    )


def _estimates(values: Mapping[str, Floats]) -> dict[str, Estimate]:
    """Each measure with its interval; of the ECE there is none.

    The bootstrap's interval of a sum of absolute values lies beside what it should hold: resampling
    adds to every bin's gap.
    """
    estimates = {name: estimate(values_R) for name, values_R in values.items()}
    return {n: Estimate(value=e.value) if n == ECE else e for n, e in estimates.items()}


def calibration_bins(score_B: Floats, is_right_B: NDArray[np.bool_], fewest: int) -> list[Bin]:
    """Bins of neighbouring scores, as equal in size as can be, of `fewest` patients or more each.

    None where there would be a single one. Equal scores share a bin.
    """
    if len(score_B) == 0:
        return []
    num_bins = max(min(CALIBRATION_BINS, len(score_B) // fewest), 1)
    edges = np.quantile(score_B, np.arange(1, num_bins) / num_bins)
    bin_B = np.searchsorted(np.unique(edges), score_B, side="right")
    groups = _joined([np.flatnonzero(bin_B == b) for b in np.unique(bin_B)], fewest)
    if len(groups) < _FEWEST_BINS:
        return []
    return [_bin(score_B[group], is_right_B[group]) for group in groups]


def _bin(score_B: Floats, is_right_B: NDArray[np.bool_]) -> Bin:
    num_right = int(is_right_B.sum())
    observed = proportion(num_right, len(score_B) - num_right)
    return Bin(
        low=float(score_B.min()),
        high=float(score_B.max()),
        num_patients=len(score_B),
        predicted=float(score_B.mean()),
        observed=observed.value,
        interval=observed.interval,
    )


def _joined(groups: list[NDArray[np.int64]], fewest: int) -> list[NDArray[np.int64]]:
    """The groups, each joined to its neighbour until it holds enough."""
    joined: list[NDArray[np.int64]] = []
    for group in groups:
        if joined and min(len(joined[-1]), len(group)) < fewest:
            joined[-1] = np.concatenate([joined[-1], group])
        else:
            joined.append(group)
    return joined


def _told(scores_BC: Floats, label_B: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """What is said to be probable, and whether it was so: class 1 of two, or the predicted one."""
    if scores_BC.shape[1] == 2:
        return scores_BC[:, 1], label_B == 1
    predicted_B = scores_BC.argmax(axis=1)
    return scores_BC.max(axis=1), predicted_B == label_B


def _values(scores_BC: Floats, label_B: NDArray[np.int64], drawn_RB: Floats) -> dict[str, Floats]:
    """Each of `MEASURES` in each resample, as `common.metrics.classification` defines them."""
    told_B, is_right_B = _told(scores_BC, label_B)
    bin_B = np.searchsorted(np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS, told_B, side="right")
    in_bin_BS = np.eye(CALIBRATION_BINS)[bin_B]
    gap_RS = drawn_RB @ (in_bin_BS * (told_B - is_right_B)[:, None])
    onehot_BC = np.eye(scores_BC.shape[1])[label_B]
    columns = slice(1, None) if scores_BC.shape[1] == 2 else slice(None)
    brier_B = ((scores_BC - onehot_BC)[:, columns] ** 2).sum(axis=1)
    true_B = np.maximum((scores_BC * onehot_BC).sum(axis=1), _SMALLEST_SCORE)
    values = (
        share(np.abs(gap_RS).sum(axis=1), drawn_RB.sum(axis=1)),
        mean(brier_B, drawn_RB),
        mean(-np.log(true_B), drawn_RB),
    )
    return dict(zip(MEASURES, values, strict=True))
