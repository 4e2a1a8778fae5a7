"""Noised statistics of survival: what one patient adds to counts, and the metrics after the noise.

Letters of shapes: B patients, K intervals, P predictions of a patient, T time bins, R risk bins,
N coordinates of a release.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.metrics.noised import (
    HEAD,
    NoisedStatistics,
    arcsine_edges,
    are_cells,
    cut,
    joined,
    sums_with,
)
from common.metrics.statistics import EvaluationSums, Floats, Labels
from common.metrics.statistics import known as only_known
from common.metrics.survival import SurvivalStatistics, binned_c, risk_of, time_bins


@dataclass(frozen=True, kw_only=True)
class NoisedSurvival(NoisedStatistics):
    """Counts of events and of censored patients by time and risk.

    Time is binned as `SurvivalStatistics` does, and risk equally in the arcsine of its root.

    Metrics: num_patients, num_events, c_index: ties of risk within a bin count half, and pairs
    within a bin of time do not count.

    Args:
        num_bins: of time (the last for all after the last cut point), and of risk.
    """

    metric_names = SurvivalStatistics.metric_names
    columns = SurvivalStatistics.columns
    cut_points: tuple[float, ...]
    has_likelihood: bool
    num_bins: int

    @property
    def released_names(self) -> tuple[str, ...]:
        """The metrics that a noised release carries."""
        return ("num_patients", "num_events", "c_index")

    @property
    def plain(self) -> SurvivalStatistics:
        """The statistics of the same outcome without privacy."""
        return SurvivalStatistics(cut_points=self.cut_points, has_likelihood=self.has_likelihood)

    @property
    def squared_sensitivity(self) -> float:
        """A patient adds 1 to one cell."""
        return 1.0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every statistic."""
        return HEAD | self._cells()

    def vector_of(self, predictions_BP: Floats, labels: Labels) -> Floats:
        """The counts of patients, one cell after the other, shape (N,)."""
        survival_BK, known = only_known(predictions_BP, labels)
        time_B = np.nan_to_num(known["time_B"].astype(np.float64), nan=0.0)
        time_bin_B = time_bins(np.maximum(time_B, 0.0), self.cut_points, self.num_bins)
        edges = arcsine_edges(self.num_bins)
        risk_bin_B = np.searchsorted(edges, risk_of(survival_BK), side="right")
        cells_2TR = np.zeros((2, self.num_bins, self.num_bins))
        np.add.at(cells_2TR, ((~known["event_B"]).astype(int), time_bin_B, risk_bin_B), 1.0)
        return cells_2TR.reshape(-1)

    def sums_from(self, vector_N: Floats, noise_variance: float) -> EvaluationSums:
        """The cells, and the number of patients."""
        return sums_with(vector_N.sum(), noise_variance, cut(vector_N, self._cells()))

    def vector_from(self, sums: EvaluationSums) -> Floats:
        """The inverse of `sums_from`, shape (N,)."""
        return joined({name: sums.sums[name] for name in self._cells()})

    def estimates_of(self, sums: EvaluationSums) -> Mapping[str, float]:
        """The metrics of `released_names`, NaN where undefined."""
        events_TR, censored_TR = (sums.sums[name] for name in self._cells())
        c_index, _ = binned_c(events_TR, censored_TR)
        return {
            "num_patients": sums.num_patients,
            "num_events": max(float(events_TR.sum()), 0.0),
            "c_index": float(np.clip(c_index, 0.0, 1.0)),
        }

    def _cells(self) -> dict[str, tuple[int, ...]]:
        names = ("events_by_time_and_risk", "censored_by_time_and_risk")
        return dict.fromkeys(names, (self.num_bins, self.num_bins))

    def _is_near_possible(self, sums: EvaluationSums) -> bool:
        return are_cells(self.vector_from(sums), sums)
