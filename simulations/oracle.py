"""The oracle: exact metrics from the pooled predictions of all sites, in simulation alone.

Real sites never send predictions. Targets are judged on these numbers; the mergeable statistics
stand beside them, so that their error is seen.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.metrics import CALIBRATION_BINS, metrics_of, ranking, sums_of

Predictions = tuple[NDArray[np.float64], NDArray[np.int64]]


def exact_metrics(scores_BC: NDArray[np.float64], labels_B: NDArray[np.int64]) -> dict[str, Any]:
    """Metrics of predictions, AUROC and AUPRC without binning; None if undefined.

    Every distinct score is a bin of its own, so that only tied patients count half; the tests hold
    it against scikit-learn, whose import would cost every simulation a second.
    """
    metrics: dict[str, Any] = metrics_of(sums_of(scores_BC, labels_B, score_bins=CALIBRATION_BINS))
    del metrics["auroc_error_bound"]
    num_classes = scores_BC.shape[1]
    if len(np.unique(labels_B)) < num_classes:
        return metrics | {"auroc": None, "auprc": None}
    columns = [1] if num_classes == 2 else range(num_classes)
    rankings = [_exact_ranking(scores_BC[:, c], labels_B == c) for c in columns]
    auroc, auprc = (float(np.mean(column)) for column in zip(*rankings, strict=True))
    return metrics | {"auroc": auroc, "auprc": auprc}


def _exact_ranking(
    scores_B: NDArray[np.float64], is_positive_B: NDArray[np.bool_]
) -> tuple[float, float]:
    _, bin_B = np.unique(scores_B, return_inverse=True)
    positives_S = np.bincount(bin_B, is_positive_B).astype(np.float64)
    negatives_S = np.bincount(bin_B, ~is_positive_B).astype(np.float64)
    auroc, auprc, _ = ranking(positives_S, negatives_S)
    return auroc, auprc


class Oracle:
    """Collects the predictions of simulated sites, round by round."""

    def __init__(self) -> None:
        self._rounds: dict[int, dict[str, Predictions]] = {}
        self._latest: dict[str, NDArray[np.float64]] = {}

    def observer(self, site: str) -> Callable[..., None]:
        """What `Site.simulated` calls with each evaluation of this site."""

        def observe(
            round_number: int, scores_BC: NDArray[np.float64], labels_B: NDArray[np.int64]
        ) -> None:
            self._rounds.setdefault(round_number, {})[site] = (scores_BC, labels_B)
            self._latest[site] = scores_BC

        return observe

    def latest(self, site: str, num_classes: int) -> NDArray[np.float64]:
        """The last predictions (B, C) of a site: after a run, the final ones; B = 0 if none."""
        return self._latest.get(site, np.empty((0, num_classes)))

    def pop(self, round_number: int) -> dict[str, Any] | None:
        """The exact pooled metrics of a round, once; None if no site was evaluated in it."""
        predictions = self._rounds.pop(round_number, None)
        if not predictions:
            return None
        ordered = [predictions[site] for site in sorted(predictions)]
        scores_BC = np.concatenate([scores for scores, _ in ordered])
        return exact_metrics(scores_BC, np.concatenate([labels for _, labels in ordered]))
