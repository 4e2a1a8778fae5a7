"""Calibration of a class outcome from its merged statistics: bins that hold enough patients.

A report travels further than a journal does, so no bin of it speaks of a handful of patients: bins
are joined until each holds at least `FEWEST` of them, and, where counts carry noise, until the
noise is small beside them.

Letters of shapes: S score bins.
"""

from math import sqrt

import numpy as np

from common.metrics.classification import CALIBRATION_BINS
from common.metrics.intervals import FEWEST, proportion
from common.metrics.noised import NOISE_VARIANCE, arcsine_edges
from common.metrics.statistics import EvaluationSums, Floats
from common.page.charts import Bin

# Noise may be at most this part of a bin's patients (one standard deviation).
_MOST_NOISE = 0.25
# One point would tell of the average alone, and pass for a curve.
_FEWEST_BINS = 2


def calibration_bins(sums: EvaluationSums) -> list[Bin]:
    """The bins of two classes, or of the most probable of several; none where nothing tells.

    Guarantees:
        - Every bin holds at least `FEWEST` patients, by its count.
        - A noised release of several classes has none: its histograms are one against the rest.
    """
    if sums.has("calibration_count", "calibration_score_sum", "calibration_outcome_sum"):
        edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
        names = ("calibration_count", "calibration_score_sum", "calibration_outcome_sum")
        return _joined(edges, *(sums.sums[name] for name in names), noise_variance=0.0)
    if not sums.has(NOISE_VARIANCE, "positives_by_score", "negatives_by_score"):
        return []
    positives_KS, negatives_KS = sums.sums["positives_by_score"], sums.sums["negatives_by_score"]
    if len(positives_KS) != 1:
        return []
    count_S = positives_KS[0] + negatives_KS[0]
    edges = np.concatenate([[0.0], arcsine_edges(len(count_S)), [1.0]])
    score_S = count_S * (edges[:-1] + edges[1:]) / 2
    variance = float(sums.sums[NOISE_VARIANCE])
    return _joined(edges, count_S, score_S, positives_KS[0], noise_variance=variance)


def _joined(
    edges: Floats, count_S: Floats, score_S: Floats, outcome_S: Floats, *, noise_variance: float
) -> list[Bin]:
    """Neighbouring bins joined from the left until each holds enough; the last takes the rest."""
    starts = [0]
    for end in range(1, len(count_S)):
        if _is_enough(count_S[starts[-1] : end], noise_variance):
            starts.append(end)
    if len(starts) > 1 and not _is_enough(count_S[starts[-1] :], noise_variance):
        starts.pop()
    ends = [*starts[1:], len(count_S)]
    if len(starts) < _FEWEST_BINS:
        return []
    return [
        _bin(
            (float(edges[start]), float(edges[end])),
            *(float(part[start:end].sum()) for part in (count_S, score_S, outcome_S)),
            noise_variance=noise_variance * (end - start),
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def _is_enough(count_S: Floats, noise_variance: float) -> bool:
    # A bin's count is of positives and negatives, each with its own noise.
    noise = sqrt(2 * noise_variance * len(count_S))
    return float(count_S.sum()) >= max(FEWEST, noise / _MOST_NOISE)


def _bin(
    edges: tuple[float, float], n: float, scores: float, outcomes: float, *, noise_variance: float
) -> Bin:
    found = proportion(
        outcomes, n - outcomes, hits_noise=noise_variance, misses_noise=noise_variance
    )
    return Bin(
        low=edges[0],
        high=edges[1],
        num_patients=n,
        predicted=min(max(scores / n, edges[0]), edges[1]),
        observed=found.value,
        interval=found.interval,
    )
