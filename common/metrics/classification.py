"""Statistics of predicted classes: loss, accuracy, F1, AUROC, AUPRC, Brier score, calibration.

Merged sums are exact for all but AUROC and AUPRC, which come from score histograms and have a
stated bound.

Letters of shapes: B patients, C classes, K score columns (1 if binary, else C), S score bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from common.metrics.statistics import EvaluationSums, Floats, Labels, Metrics, Statistics, defined
from common.metrics.statistics import known as only_known

CALIBRATION_BINS = 10
_CALIBRATION = ("calibration_count", "calibration_score_sum", "calibration_outcome_sum")
_HISTOGRAMS = ("positives_by_score", "negatives_by_score")


@dataclass(frozen=True, kw_only=True)
class ClassStatistics(Statistics):
    """Of probabilities (B, C), whose rows add to 1, and labels "label_B" 0…C-1.

    Metrics: num_patients; accuracy (threshold .5, or the most probable class); loss (mean negative
    log likelihood); brier; f1 (binary: of class 1; else the macro average); calibration_error (10
    bins; binary: of the probability of class 1, else of the most probable class); auroc and auprc
    (binary: of class 1; else the mean over one-vs-rest), None if a class has no patient;
    auroc_error_bound: how far auroc can be from that of the unbinned scores.

    Args:
        score_bins: the number of equal bins on [0, 1] in which scores are counted.
    """

    metric_names = (
        "num_patients",
        "accuracy",
        "auroc",
        "auprc",
        "f1",
        "loss",
        "brier",
        "calibration_error",
        "auroc_error_bound",
    )
    columns = ("auroc", "auprc", "accuracy", "f1", "calibration_error")
    num_classes: int
    score_bins: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every statistic."""
        columns = 1 if self.num_classes == 2 else self.num_classes
        return {
            "num_patients": (),
            "loss_sum": (),
            "brier_sum": (),
            "confusion": (self.num_classes, self.num_classes),
            "positives_by_score": (columns, self.score_bins),
            "negatives_by_score": (columns, self.score_bins),
            "calibration_count": (CALIBRATION_BINS,),
            "calibration_score_sum": (CALIBRATION_BINS,),
            "calibration_outcome_sum": (CALIBRATION_BINS,),
        }

    def sums_of(self, predictions_BP: Floats, labels: Labels) -> EvaluationSums:
        """The sums over the patients whose class is known."""
        scores_BC, known = only_known(predictions_BP, labels)
        return sums_of(scores_BC, known["label_B"], score_bins=self.score_bins)

    def metrics_of(self, sums: EvaluationSums) -> Metrics:
        """The metrics that follow from the sums."""
        if sums.num_patients == 0:
            return self.undefined()
        values = dict.fromkeys(self.metric_names, nan)
        values["num_patients"] = num_patients = sums.num_patients
        if sums.has("confusion"):
            confusion = sums.sums["confusion"]
            values["accuracy"] = float(np.trace(confusion)) / num_patients
            values["f1"] = _f1(confusion)
        if sums.has("loss_sum"):
            values["loss"] = float(sums.sums["loss_sum"]) / num_patients
        if sums.has("brier_sum"):
            values["brier"] = float(sums.sums["brier_sum"]) / num_patients
        if sums.has(*_CALIBRATION):
            _, score_S, outcome_S = (sums.sums[name] for name in _CALIBRATION)
            values["calibration_error"] = float(np.abs(score_S - outcome_S).sum()) / num_patients
        if sums.has(*_HISTOGRAMS):
            both = zip(*(sums.sums[name] for name in _HISTOGRAMS), strict=True)
            rankings = [ranking(positives_S, negatives_S) for positives_S, negatives_S in both]
            auroc, auprc, bound = (float(np.mean(c)) for c in zip(*rankings, strict=True))
            values |= {"auroc": auroc, "auprc": auprc, "auroc_error_bound": bound}
        return defined(values)

    def exact_metrics(self, predictions_BP: Floats, labels: Labels) -> Metrics:
        """As `metrics_of`; every distinct score has a bin of its own: only true ties count half."""
        metrics = self.metrics_of(self.sums_of(predictions_BP, labels))
        del metrics["auroc_error_bound"]
        scores_BC, known = only_known(predictions_BP, labels)
        label_B = known["label_B"]
        if len(np.unique(label_B)) < self.num_classes:
            return metrics | {"auroc": None, "auprc": None}
        columns = [1] if self.num_classes == 2 else range(self.num_classes)
        rankings = [_exact_ranking(scores_BC[:, c], label_B == c) for c in columns]
        auroc, auprc = (float(np.mean(column)) for column in zip(*rankings, strict=True))
        return metrics | {"auroc": auroc, "auprc": auprc}

    def raise_if_impossible(self, sums: EvaluationSums) -> None:
        """Raises ValueError unless some set of patients could have these sums."""
        _raise_if_impossible(sums.sums)


def sums_of(scores_BC: Floats, labels_B: NDArray[np.int64], *, score_bins: int) -> EvaluationSums:
    """The sums of predicted probabilities (B, C) for patients of these classes (B)."""
    num_patients, num_classes = scores_BC.shape
    onehot_BC = np.eye(num_classes)[labels_B]
    predicted_B = scores_BC.argmax(axis=1)
    true_score_B = scores_BC[np.arange(num_patients), labels_B]
    confusion = np.zeros((num_classes, num_classes))
    np.add.at(confusion, (labels_B, predicted_B), 1.0)
    scores_BK, outcomes_BK = scores_BC, onehot_BC
    calibrated_B, correct_B = scores_BC.max(axis=1), (predicted_B == labels_B).astype(float)
    if num_classes == 2:
        scores_BK, outcomes_BK = scores_BC[:, 1:], onehot_BC[:, 1:]
        calibrated_B, correct_B = scores_BC[:, 1], onehot_BC[:, 1]
    bin_B = _bin(calibrated_B, CALIBRATION_BINS)
    return EvaluationSums(
        sums={
            "num_patients": np.asarray(float(num_patients)),
            "loss_sum": -np.log(np.maximum(true_score_B, _SMALLEST_SCORE)).sum(),
            "brier_sum": ((scores_BK - outcomes_BK) ** 2).sum(),
            "confusion": confusion,
            "positives_by_score": _histograms(scores_BK, outcomes_BK, score_bins),
            "negatives_by_score": _histograms(scores_BK, 1.0 - outcomes_BK, score_bins),
            "calibration_count": np.bincount(bin_B, minlength=CALIBRATION_BINS).astype(float),
            "calibration_score_sum": np.bincount(bin_B, calibrated_B, CALIBRATION_BINS).astype(
                float
            ),
            "calibration_outcome_sum": np.bincount(bin_B, correct_B, CALIBRATION_BINS).astype(
                float
            ),
        }
    )


# No patient can lose more: scores are at least `_SMALLEST_SCORE`.
_SMALLEST_SCORE = 1e-12
_LARGEST_LOSS = -np.log(_SMALLEST_SCORE)


def _raise_if_impossible(sums: Mapping[str, Floats]) -> None:
    """Raises ValueError unless some set of patients could have these sums."""
    num_patients, slack = float(sums["num_patients"]), 1 + 1e-9
    count_S = sums["calibration_count"]
    histograms_KS = sums["positives_by_score"] + sums["negatives_by_score"]
    counts = [sums["confusion"], sums["positives_by_score"], sums["negatives_by_score"], count_S]
    is_possible = (
        num_patients < 2**53
        and all((count == np.floor(count)).all() for count in counts)
        and sums["confusion"].sum() == num_patients
        and (histograms_KS.sum(axis=1) == num_patients).all()
        and count_S.sum() == num_patients
        and (sums["calibration_score_sum"] <= slack * count_S).all()
        and (sums["calibration_outcome_sum"] <= count_S).all()
        and sums["brier_sum"] <= 2 * slack * num_patients
        and sums["loss_sum"] <= _LARGEST_LOSS * slack * num_patients
    )
    if not is_possible:
        raise ValueError("expected statistics of the same patients, found some that disagree")


def _bin(scores: Floats, num_bins: int) -> NDArray[np.int64]:
    """The bin of each score; bin k is [k, k + 1) / num_bins, and 1 is in the last.

    Not by multiplication: in floats .145 · 200 is below 29.
    """
    edges = np.arange(1, num_bins) / num_bins
    return np.searchsorted(edges, scores, side="right").astype(np.int64)


def _histograms(scores_BK: Floats, weights_BK: Floats, num_bins: int) -> Floats:
    return np.stack(
        [
            np.bincount(_bin(score_B, num_bins), weight_B, num_bins)
            for score_B, weight_B in zip(scores_BK.T, weights_BK.T, strict=True)
        ]
    )


def ranking(positives_S: Floats, negatives_S: Floats) -> tuple[float, float, float]:
    """AUROC, average precision and the error bound of the AUROC, from two histograms.

    Within a bin the order is unknown; ties count half (Mann–Whitney), so the AUROC is off by at
    most half of the pairs that share a bin. Counts may carry noise, and be negative: the AUROC has
    then as much of it, may leave [0, 1], and the bound is none.
    """
    num_positives, num_negatives = positives_S.sum(), negatives_S.sum()
    if num_positives <= 0 or num_negatives <= 0:
        return nan, nan, nan
    pairs = num_positives * num_negatives
    below_S = np.cumsum(negatives_S) - negatives_S
    tied = float(positives_S @ negatives_S)
    auroc = (float(positives_S @ below_S) + 0.5 * tied) / pairs
    found_S = np.cumsum(positives_S[::-1])
    flagged_S = found_S + np.cumsum(negatives_S[::-1])
    precision_S = np.divide(found_S, flagged_S, out=np.zeros_like(found_S), where=flagged_S > 0)
    # Of counts that carry noise, a part may be more than the whole.
    precision_S = np.clip(precision_S, 0.0, 1.0)
    auprc = float(precision_S @ positives_S[::-1]) / num_positives
    return auroc, auprc, 0.5 * tied / pairs


def _f1(confusion: Floats) -> float:
    hits = np.diag(confusion)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = np.divide(2 * hits, total, out=np.full_like(hits, nan), where=total > 0)
    return float(f1[1]) if len(f1) == 2 else float(np.nanmean(f1))


def _exact_ranking(scores_B: Floats, is_positive_B: NDArray[np.bool_]) -> tuple[float, float]:
    _, bin_B = np.unique(scores_B, return_inverse=True)
    positives_S = np.bincount(bin_B, is_positive_B).astype(np.float64)
    negatives_S = np.bincount(bin_B, ~is_positive_B).astype(np.float64)
    auroc, auprc, _ = ranking(positives_S, negatives_S)
    return auroc, auprc
