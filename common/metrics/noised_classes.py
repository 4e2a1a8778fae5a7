"""Noised statistics of classes: what one patient adds to counts, and the metrics after the noise.

Letters of shapes: B patients, C classes, K score columns (1 if binary, else C), P predictions of a
patient, S score bins, N coordinates of a release.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from common.metrics.classification import ClassStatistics, ranking
from common.metrics.noised import (
    HEAD,
    NOISE_VARIANCE,
    NoisedStatistics,
    arcsine_edges,
    are_cells,
    cut,
    joined,
    part_of,
    sums_with,
)
from common.metrics.statistics import EvaluationSums, Floats, Labels
from common.metrics.statistics import known as only_known


@dataclass(frozen=True, kw_only=True)
class NoisedClasses(NoisedStatistics):
    """Counts of patients by class and score; of more than two classes, the confusion as well.

    Bins are equal in the arcsine of the root of the score: narrower where classes are rare, and an
    edge at .5. Scores of .5 count as class 1, where `ClassStatistics` takes them for class 0.

    Of two classes: accuracy, auroc, auprc, f1 and calibration_error (from the middles of the bins).
    Of several: accuracy and f1 from the confusion, auroc and auprc as means over one-vs-rest.

    Args:
        score_bins: even.
    """

    metric_names = ClassStatistics.metric_names
    columns = ClassStatistics.columns
    num_classes: int
    score_bins: int

    @property
    def released_names(self) -> tuple[str, ...]:
        """The metrics that a noised release carries."""
        names = ("num_patients", "accuracy", "auroc", "auprc", "f1")
        return (*names, "calibration_error") if self.num_classes == 2 else names

    @property
    def plain(self) -> ClassStatistics:
        """The statistics of the same outcome without privacy."""
        return ClassStatistics(num_classes=self.num_classes, score_bins=self.score_bins)

    @property
    def squared_sensitivity(self) -> float:
        """A patient adds 1 to a cell of each score column, and to one of the confusion."""
        return 1.0 if self.num_classes == 2 else 1.0 + self.num_classes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every statistic."""
        return HEAD | self._cells()

    def vector_of(self, predictions_BP: Floats, labels: Labels) -> Floats:
        """The counts of patients, one cell after the other, shape (N,)."""
        scores_BC, known = only_known(predictions_BP, labels)
        label_B = known["label_B"]
        onehot_BK, scores_BK = np.eye(self.num_classes)[label_B], scores_BC
        if self.num_classes == 2:
            onehot_BK, scores_BK = onehot_BK[:, 1:], scores_BC[:, 1:]
        cells = {name: np.zeros(shape) for name, shape in self._cells().items()}
        bin_BK = np.searchsorted(arcsine_edges(self.score_bins), scores_BK, side="right")
        for column, (bin_B, is_B) in enumerate(zip(bin_BK.T, onehot_BK.T, strict=True)):
            np.add.at(cells["positives_by_score"][column], bin_B, is_B)
            np.add.at(cells["negatives_by_score"][column], bin_B, 1.0 - is_B)
        if "confusion" in cells:
            np.add.at(cells["confusion"], (label_B, scores_BC.argmax(axis=1)), 1.0)
        return joined(cells)

    def sums_from(self, vector_N: Floats, noise_variance: float) -> EvaluationSums:
        """The cells, and the number of patients: the mean over the score columns."""
        cells = cut(vector_N, self._cells())
        both_KS = cells["positives_by_score"] + cells["negatives_by_score"]
        return sums_with(both_KS.sum() / len(both_KS), noise_variance, cells)

    def vector_from(self, sums: EvaluationSums) -> Floats:
        """The inverse of `sums_from`, shape (N,)."""
        return joined({name: sums.sums[name] for name in self._cells()})

    def estimates_of(self, sums: EvaluationSums) -> Mapping[str, float]:
        """The metrics of `released_names`, NaN where undefined."""
        positives_KS, negatives_KS = (
            sums.sums[f"{side}_by_score"] for side in ("positives", "negatives")
        )
        n = sums.num_patients
        rankings = [ranking(p_S, n_S) for p_S, n_S in zip(positives_KS, negatives_KS, strict=True)]
        auroc, auprc, _ = np.clip(np.array(rankings), 0.0, 1.0).mean(axis=0).tolist()
        values = {"num_patients": n, "auroc": auroc, "auprc": auprc}
        if self.num_classes > 2:
            confusion = sums.sums["confusion"]
            present = zip(
                np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1), strict=True
            )
            f1 = [_f1(hits, total) for hits, total in present]
            return values | {"accuracy": part_of(np.trace(confusion), n), "f1": _mean(f1)}
        positives_S, negatives_S = positives_KS[0], negatives_KS[0]
        half = self.score_bins // 2
        hits, flagged = positives_S[half:].sum(), (positives_S + negatives_S)[half:].sum()
        return values | {
            "accuracy": part_of(hits + negatives_S[:half].sum(), n),
            "f1": _f1(hits, flagged + positives_S.sum()),
            "calibration_error": _calibration_error(
                positives_S, negatives_S, float(sums.sums[NOISE_VARIANCE])
            ),
        }

    def _cells(self) -> dict[str, tuple[int, ...]]:
        num_columns = 1 if self.num_classes == 2 else self.num_classes
        cells: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("positives_by_score", "negatives_by_score"), (num_columns, self.score_bins)
        )
        if self.num_classes > 2:
            cells["confusion"] = (self.num_classes, self.num_classes)
        return cells

    def _is_near_possible(self, sums: EvaluationSums) -> bool:
        return are_cells(self.vector_from(sums), sums)


def _calibration_error(positives_S: Floats, negatives_S: Floats, noise_variance: float) -> float:
    """The mean distance of predicted and observed frequency, without what noise adds on average.

    Noise of variance v in a bin's difference d adds v to the mean of d². It is taken off there: the
    error is then too large by .010 where 3 is the noise of 10 bins of 200 patients, and without
    that by .067 (a simulation).
    """
    num_bins = len(positives_S)
    middle_S = arcsine_edges(2 * num_bins)[::2]
    off_S = middle_S * negatives_S - (1 - middle_S) * positives_S
    variance_S = noise_variance * (middle_S**2 + (1 - middle_S) ** 2)
    total = np.sqrt(np.maximum(off_S**2 - variance_S, 0.0)).sum()
    return part_of(float(total), float(positives_S.sum() + negatives_S.sum()))


def _f1(hits: float, flagged_and_true: float) -> float:
    return part_of(2 * hits, flagged_and_true) if flagged_and_true > 0 else nan


def _mean(values: Sequence[float]) -> float:
    """The mean of those that are defined, NaN if none is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else nan
