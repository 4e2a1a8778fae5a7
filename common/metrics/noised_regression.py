"""Noised statistics of quantities: what one patient adds to sums, and the metrics after the noise.

Letters of shapes: B patients, P predictions of a patient, N coordinates of a release.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np

from common.metrics.noised import (
    FARTHEST,
    HEAD,
    NOISE_VARIANCE,
    NoisedStatistics,
    part_of,
    sums_with,
)
from common.metrics.regression import RegressionStatistics
from common.metrics.statistics import EvaluationSums, Floats, Labels
from common.metrics.statistics import known as only_known

_ERRORS = ("absolute_error_sum", "squared_error_sum")


@dataclass(frozen=True, kw_only=True)
class NoisedRegression(NoisedStatistics):
    """The number of patients, and sums of absolute and squared errors e on [0, 1] of the range.

    Noise is added to the sums of (1, 2e - 1, 2e² - 1), whose squared norm is 3 at most, like that
    of (1, e, e²); but the noise of both errors is then halved, and only a half of that of the
    number of patients added. Where e is .1, the variance of the mean error is 1.23 σ² / n² in place
    of 3.03 σ² / n², σ the noise multiplier and n the number of patients.

    Metrics: num_patients, mae, rmse, loss.
    """

    metric_names = RegressionStatistics.metric_names
    columns = RegressionStatistics.columns
    range: tuple[float, float]

    @property
    def released_names(self) -> tuple[str, ...]:
        """The metrics that a noised release carries."""
        return ("num_patients", "mae", "rmse", "loss")

    @property
    def plain(self) -> RegressionStatistics:
        """The statistics of the same outcome without privacy."""
        return RegressionStatistics(range=self.range)

    @property
    def squared_sensitivity(self) -> float:
        """Three coordinates within [-1, 1]."""
        return 3.0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every statistic."""
        return HEAD | dict.fromkeys(_ERRORS, ())

    def vector_of(self, predictions_BP: Floats, labels: Labels) -> Floats:
        """The sums of (1, 2e - 1, 2e² - 1), shape (3,); what is not a number counts as e = 1."""
        low, high = self.range
        predicted_BP, known = only_known(predictions_BP, labels)
        predicted_B = np.clip(predicted_BP[:, 0], low, high)
        value_B = np.clip(known["value_B"].astype(np.float64), low, high)
        error_B = np.nan_to_num(np.abs(predicted_B - value_B) / (high - low), nan=1.0)
        error_B = np.minimum(error_B, 1.0)
        return np.array(
            [len(error_B), (2 * error_B - 1).sum(), (2 * error_B**2 - 1).sum()], dtype=np.float64
        )

    def sums_from(self, vector_N: Floats, noise_variance: float) -> EvaluationSums:
        """The number of patients, and the sums of e and e²."""
        num_patients, *others = vector_N
        errors = [np.asarray((other + num_patients) / 2) for other in others]
        return sums_with(num_patients, noise_variance, dict(zip(_ERRORS, errors, strict=True)))

    def vector_from(self, sums: EvaluationSums) -> Floats:
        """The inverse of `sums_from`, shape (3,)."""
        n = sums.num_patients
        return np.array([n, *(2 * float(sums.sums[name]) - n for name in _ERRORS)])

    def estimates_of(self, sums: EvaluationSums) -> Mapping[str, float]:
        """The metrics of `released_names`."""
        n, width = sums.num_patients, self.range[1] - self.range[0]
        # A part of 0 or less is noise, and no error of anybody.
        absolute, squared = (part_of(float(sums.sums[name]), n) or nan for name in _ERRORS)
        return {
            "num_patients": n,
            "mae": width * absolute,
            "rmse": width * sqrt(squared),
            "loss": squared,
        }

    def _is_near_possible(self, sums: EvaluationSums) -> bool:
        num_patients, *others = self.vector_from(sums)
        reach = FARTHEST * sqrt(float(sums.sums[NOISE_VARIANCE]))
        most = max(num_patients, 0.0) + 2 * reach
        return bool(num_patients >= -reach and all(abs(other) <= most for other in others))
