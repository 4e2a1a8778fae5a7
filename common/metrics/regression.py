"""Statistics of predicted quantities: RMSE, MAE and R², which merge exactly.

Sums are over values within the plausible range, on [0, 1] of it, so that no patient adds more
than 1 to any of them.

Letters of shapes: B patients.
"""

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np

from common.metrics.statistics import (
    EvaluationSums,
    Floats,
    Labels,
    Metrics,
    Statistics,
    defined,
    known,
    ratio,
)


@dataclass(frozen=True, kw_only=True)
class RegressionStatistics(Statistics):
    """Of values (B, 1) in the outcome's unit and "value_B"; predictions are clipped to the range.

    Metrics: num_patients; mae and rmse in the outcome's unit; r2 (1 - squared error over that of
    the mean of these patients), None if they do not vary; loss: the mean squared error as a part of
    the squared range.
    """

    metric_names = ("num_patients", "mae", "rmse", "r2", "loss")
    columns = ("mae", "rmse", "r2")
    range: tuple[float, float]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every statistic."""
        names = (
            "num_patients",
            "absolute_error_sum",
            "squared_error_sum",
            "value_sum",
            "value_squares_sum",
        )
        return dict.fromkeys(names, ())

    def sums_of(self, predictions_BP: Floats, labels: Labels) -> EvaluationSums:
        """The sums over the patients whose value is known."""
        low, high = self.range
        predicted_BP, outcome = known(predictions_BP, labels)
        predicted_B = (np.clip(predicted_BP[:, 0], low, high) - low) / (high - low)
        value_B = (np.clip(outcome["value_B"].astype(np.float64), low, high) - low) / (high - low)
        error_B = predicted_B - value_B
        return EvaluationSums(
            sums={
                "num_patients": np.asarray(float(len(value_B))),
                "absolute_error_sum": np.asarray(np.abs(error_B).sum()),
                "squared_error_sum": np.asarray((error_B**2).sum()),
                "value_sum": np.asarray(value_B.sum()),
                "value_squares_sum": np.asarray((value_B**2).sum()),
            }
        )

    def metrics_of(self, sums: EvaluationSums) -> Metrics:
        """The metrics that follow from the sums."""
        if sums.num_patients == 0:
            return self.undefined()
        width = self.range[1] - self.range[0]
        values = dict.fromkeys(self.metric_names, nan)
        values["num_patients"] = n = sums.num_patients
        if sums.has("absolute_error_sum"):
            values["mae"] = width * float(sums.sums["absolute_error_sum"]) / n
        if sums.has("squared_error_sum"):
            squared_error = float(sums.sums["squared_error_sum"])
            values["rmse"], values["loss"] = width * sqrt(squared_error / n), squared_error / n
            if sums.has("value_sum", "value_squares_sum"):
                squares = float(sums.sums["value_squares_sum"])
                spread = squares - float(sums.sums["value_sum"]) ** 2 / n
                # Below this, the difference of the two sums is rounding.
                values["r2"] = 1 - ratio(squared_error, spread if spread > 1e-12 * squares else 0.0)
        return defined(values)

    def exact_metrics(self, predictions_BP: Floats, labels: Labels) -> Metrics:
        """The same: these sums lose nothing."""
        return self.metrics_of(self.sums_of(predictions_BP, labels))

    def raise_if_impossible(self, sums: EvaluationSums) -> None:
        """Raises ValueError unless some set of patients could have these sums."""
        n, slack = sums.num_patients, 1 + 1e-9
        absolute, squared = sums.sums["absolute_error_sum"], sums.sums["squared_error_sum"]
        total, squares = sums.sums["value_sum"], sums.sums["value_squares_sum"]
        is_possible = (
            n < 2**53
            and n == np.floor(n)
            and squared <= absolute * slack <= n * slack**2
            and absolute**2 <= n * squared * slack**2 + 1e-9
            and squares <= total * slack <= n * slack**2
            and total**2 <= n * squares * slack**2 + 1e-9
        )
        if not is_possible:
            raise ValueError("expected statistics of the same patients, found some that disagree")
