"""Mergeable statistics of predictions, and the metrics that follow from them.

A site sends sums, counts and score histograms (`EvaluationSums`); adding them over sites gives the
statistics of the pooled patients, exactly for loss, accuracy, F1, Brier score and calibration
error, and to a stated bound for AUROC and AUPRC, which come from histograms.

No function here sees more than scores and labels, and nothing that it returns is about one patient
unless a cell of a histogram holds one patient: who may send small cells is the policy's business.

Letters of shapes: B patients, C classes, K score columns (1 if binary, else C), S score bins.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CALIBRATION_BINS = 10
# Seconds of work at the site by phase: sent beside the statistics, and not merged.
SECONDS = ("seconds_training", "seconds_evaluation")


def declared_shapes(num_classes: int, score_bins: int) -> dict[str, tuple[int, ...]]:
    """The name and shape of every statistic that an evaluation may release."""
    columns = 1 if num_classes == 2 else num_classes
    return {
        "num_patients": (),
        "loss_sum": (),
        "brier_sum": (),
        "confusion": (num_classes, num_classes),
        "positives_by_score": (columns, score_bins),
        "negatives_by_score": (columns, score_bins),
        "calibration_count": (CALIBRATION_BINS,),
        "calibration_score_sum": (CALIBRATION_BINS,),
        "calibration_outcome_sum": (CALIBRATION_BINS,),
    }


@dataclass(frozen=True, kw_only=True)
class EvaluationSums:
    """Statistics of a set of predictions, which merge by addition.

    Guarantees:
        - Merging the sums of disjoint sets of patients gives the sums of their union.
        - The order in which sums are merged changes counts not at all.
    """

    sums: Mapping[str, Floats]

    @classmethod
    def zero(cls, num_classes: int, score_bins: int) -> "EvaluationSums":
        """The sums of no patients: the neutral element of `+`."""
        shapes = declared_shapes(num_classes, score_bins)
        return cls(sums={name: np.zeros(shape) for name, shape in shapes.items()})

    def __add__(self, other: "EvaluationSums") -> "EvaluationSums":
        return EvaluationSums(sums={k: v + other.sums[k] for k, v in self.sums.items()})

    def to_flat(self) -> dict[str, tuple[float, ...]]:
        """Each statistic as a flat tuple: the form on the wire and in the journal."""
        return {name: tuple(value.reshape(-1).tolist()) for name, value in self.sums.items()}

    @classmethod
    def from_flat(
        cls, flat: Mapping[str, Iterable[float]], num_classes: int, score_bins: int
    ) -> "EvaluationSums":
        """The inverse of `to_flat`.

        Raises:
            ValueError: a name is missing, a size differs, a value is negative or not finite, or
                the statistics cannot all be of the same patients.
        """
        sums = {}
        for name, shape in declared_shapes(num_classes, score_bins).items():
            if name not in flat:
                raise ValueError(f"expected the statistic {name}, found none")
            value = np.asarray(tuple(flat[name]), dtype=np.float64)
            if value.size != int(np.prod(shape)):
                raise ValueError(f"expected shape {shape} of {name}, found {value.size} elements")
            if not np.isfinite(value).all() or (value < 0).any():
                raise ValueError(f"expected finite values of 0 or more in {name}")
            sums[name] = value.reshape(shape)
        _raise_if_impossible(sums)
        return cls(sums=sums)


def sums_of(scores_BC: Floats, labels_B: NDArray[np.int64], *, score_bins: int) -> EvaluationSums:
    """The sums of predictions.

    Args:
        scores_BC: probabilities of each class; rows add to 1.
        labels_B: the true class of each patient, 0…C-1.
        score_bins: the number of equal bins on [0, 1] in which scores are counted.
    """
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


def metrics_of(evaluation: EvaluationSums) -> dict[str, float | None]:
    """The metrics that follow from the sums; None where a metric is undefined.

    Returns:
        num_patients; accuracy (threshold .5, or the most probable class); loss (mean negative log
        likelihood); brier; f1 (binary: of class 1; else the macro average); calibration_error (10
        bins; binary: of the probability of class 1, else of the most probable class); auroc and
        auprc (binary: of class 1; else the mean over one-vs-rest), None if a class has no patient;
        auroc_error_bound: how far auroc can be from that of the unbinned scores.
    """
    sums = evaluation.sums
    num_patients = float(sums["num_patients"])
    if num_patients == 0:
        return dict.fromkeys(METRIC_NAMES) | {"num_patients": 0.0}
    confusion = sums["confusion"]
    rankings = [
        ranking(positives, negatives)
        for positives, negatives in zip(
            sums["positives_by_score"], sums["negatives_by_score"], strict=True
        )
    ]
    auroc, auprc, bound = (float(np.mean(column)) for column in zip(*rankings, strict=True))
    gap = np.abs(sums["calibration_score_sum"] - sums["calibration_outcome_sum"]).sum()
    values = {
        "num_patients": num_patients,
        "accuracy": float(np.trace(confusion)) / num_patients,
        "auroc": auroc,
        "auprc": auprc,
        "f1": _f1(confusion),
        "loss": float(sums["loss_sum"]) / num_patients,
        "brier": float(sums["brier_sum"]) / num_patients,
        "calibration_error": float(gap) / num_patients,
        "auroc_error_bound": bound,
    }
    return {name: None if np.isnan(value) else value for name, value in values.items()}


METRIC_NAMES = (
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
    most half of the pairs that share a bin.
    """
    num_positives, num_negatives = positives_S.sum(), negatives_S.sum()
    if num_positives == 0 or num_negatives == 0:
        return nan, nan, nan
    pairs = num_positives * num_negatives
    below_S = np.cumsum(negatives_S) - negatives_S
    tied = float(positives_S @ negatives_S)
    auroc = (float(positives_S @ below_S) + 0.5 * tied) / pairs
    found_S = np.cumsum(positives_S[::-1])
    flagged_S = found_S + np.cumsum(negatives_S[::-1])
    precision_S = np.divide(found_S, flagged_S, out=np.zeros_like(found_S), where=flagged_S > 0)
    auprc = float(precision_S @ positives_S[::-1]) / num_positives
    return auroc, auprc, 0.5 * tied / pairs


def _f1(confusion: Floats) -> float:
    hits = np.diag(confusion)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = np.divide(2 * hits, total, out=np.full_like(hits, nan), where=total > 0)
    return float(f1[1]) if len(f1) == 2 else float(np.nanmean(f1))
