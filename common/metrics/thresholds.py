"""What a decision at a threshold of the predicted probability does, from score histograms.

No threshold is chosen here: one that is best on these patients would look better than it is. They
stand on a grid that is fixed beforehand. A report travels further than a journal does, so between
any two thresholds that are told, and beyond the first and the last, lie enough patients.

Letters of shapes: S score bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from common.metrics.intervals import FEWEST, Proportion, proportion
from common.metrics.noised import NOISE_VARIANCE, arcsine_edges
from common.metrics.statistics import EvaluationSums, Floats

GRID = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Noise may be at most this part of a count (one standard deviation).
_MOST_NOISE = 0.25


@dataclass(frozen=True, kw_only=True)
class ScoreCells:
    """Patients of two classes by the predicted probability of the second.

    Attributes:
        edges: of the bins, shape (S + 1,); bin k is [edge k, edge k + 1).
        positives_S, negatives_S: counts.
        noise_variance: of the noise in each count; 0 of exact ones.
    """

    edges: Floats
    positives_S: Floats
    negatives_S: Floats
    noise_variance: float

    @property
    def middles(self) -> Floats:
        """The middle of each bin, shape (S,)."""
        middles_S: Floats = (self.edges[:-1] + self.edges[1:]) / 2
        return middles_S

    def is_enough(self, start: int = 0, end: int | None = None) -> bool:
        """Whether so many patients are in these bins that one may tell of them together."""
        both_S = (self.positives_S + self.negatives_S)[start:end]
        noise = sqrt(2 * self.noise_variance * len(both_S))
        return float(both_S.sum()) >= max(FEWEST, noise / _MOST_NOISE)

    @property
    def has_both_classes(self) -> bool:
        """Whether so many patients are of each class."""
        noise = sqrt(self.noise_variance * len(self.positives_S))
        fewest = min(float(self.positives_S.sum()), float(self.negatives_S.sum()))
        return fewest >= max(FEWEST, noise / _MOST_NOISE)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What happens where everyone is flagged whose probability is at the threshold or above.

    Attributes:
        flagged: the part of all patients.
        sensitivity: of patients with the outcome, who are flagged.
        specificity: of patients without it, who are not flagged.
        ppv, npv: of those flagged, who have it; of those not flagged, who have it not.
        f1: of sensitivity and ppv, their harmonic mean.
    """

    threshold: float
    flagged: float
    sensitivity: Proportion
    specificity: Proportion
    ppv: Proportion
    npv: Proportion
    f1: Proportion


def score_cells(sums: EvaluationSums) -> ScoreCells | None:
    """The histograms of an outcome of two classes; None of others, or where they were not sent."""
    if not sums.has("positives_by_score", "negatives_by_score"):
        return None
    positives_KS, negatives_KS = sums.sums["positives_by_score"], sums.sums["negatives_by_score"]
    if len(positives_KS) != 1:
        return None
    num_bins = positives_KS.shape[1]
    edges = np.arange(num_bins + 1) / num_bins
    if sums.has(NOISE_VARIANCE):
        edges = np.concatenate([[0.0], arcsine_edges(num_bins), [1.0]])
    return ScoreCells(
        edges=edges,
        positives_S=positives_KS[0],
        negatives_S=negatives_KS[0],
        noise_variance=float(sums.sums.get(NOISE_VARIANCE, np.zeros(()))),
    )


def decisions(cells: ScoreCells, grid: Sequence[float] = GRID) -> list[Decision]:
    """The decisions at the thresholds of a grid, ascending; none where a class has few patients.

    Guarantees:
        - Counts are those of the scores: a threshold is an edge of bins, the nearest to the grid's.
        - Between any two thresholds, below the first and from the last on, are at least `FEWEST`
          patients; of counts that carry noise, so many that noise is small beside them.
        - Intervals hold what they should with noise as well.
    """
    if not cells.has_both_classes:
        return []
    inner = cells.edges[1:-1]
    places = {int(np.abs(inner - threshold).argmin()) + 1 for threshold in grid}
    kept, start = [], 0
    for place in sorted(places if cells.noise_variance == 0 else range(1, len(cells.edges) - 1)):
        if cells.is_enough(start, place) and cells.is_enough(place):
            kept.append(place)
            start = place
    return [_decision(cells, place) for place in kept]


def _decision(cells: ScoreCells, place: int) -> Decision:
    hits, missed = _split(cells.positives_S, place)
    alarms, cleared = _split(cells.negatives_S, place)
    below = cells.noise_variance * place
    above = cells.noise_variance * (len(cells.positives_S) - place)
    return Decision(
        threshold=float(cells.edges[place]),
        flagged=proportion(hits + alarms, missed + cleared).value,
        sensitivity=proportion(hits, missed, hits_noise=above, misses_noise=below),
        specificity=proportion(cleared, alarms, hits_noise=below, misses_noise=above),
        ppv=proportion(hits, alarms, hits_noise=above, misses_noise=above),
        npv=proportion(cleared, missed, hits_noise=below, misses_noise=below),
        f1=_f1(hits, alarms + missed, hits_noise=above, misses_noise=above + below),
    )


def _split(counts_S: Floats, place: int) -> tuple[float, float]:
    """The counts from the threshold on, and below it."""
    return float(counts_S[place:].sum()), float(counts_S[:place].sum())


def _f1(hits: float, errors: float, *, hits_noise: float, misses_noise: float) -> Proportion:
    """F1 by the part J of hits in hits and errors: F1 = 2 J / (1 + J), which ascends with J.

    J is a part of patients, so that it has Wilson's interval, and F1 the one that this becomes.
    """
    part = proportion(hits, errors, hits_noise=hits_noise, misses_noise=misses_noise)
    low, value, high = (2 * j / (1 + j) for j in (part.interval[0], part.value, part.interval[1]))
    return Proportion(value=value, interval=(low, high))
