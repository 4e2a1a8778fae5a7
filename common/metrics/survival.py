"""Statistics of predicted survival: the concordance index, from counts by time and risk.

Harrell's C counts pairs of patients, so it does not add up over sites; counts of patients by time
and predicted risk do. Within a cell the order is unknown: the C-index that follows has a stated
bound, and in simulation the exact one stands beside it.

Letters of shapes: B patients, K intervals of time, T time bins, R risk bins.
"""

from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from common.metrics.statistics import (
    EvaluationSums,
    Floats,
    Labels,
    Metrics,
    Statistics,
    defined,
    known,
)

# Equal bins up to the last cut point, and one for the times after it.
TIME_BINS = 65
# Equal bins of the logit of the risk: the log relative risk of Cox, up to a constant.
RISK_BINS = 128
_LARGEST_LOGIT = 8.0
_SMALLEST = 1e-7
_HISTOGRAMS = ("events_by_time_and_risk", "censored_by_time_and_risk")


@dataclass(frozen=True, kw_only=True)
class SurvivalStatistics(Statistics):
    """Of survival curves (B, K) at the cut points, and "time_B", "event_B".

    Metrics: num_patients; num_events; c_index (Harrell's; a pair counts if the earlier time is an
    event; equal risks count half), None without such a pair; c_index_error_bound: how far it can be
    from that of the unbinned times and risks; loss: the mean negative log likelihood of discrete
    time, None where the model predicts an order only (Cox).

    Beside them "survival_sum": the sum of the curves, where they are probabilities, to be compared
    with what was observed (`common.metrics.life_table`).

    Args:
        has_likelihood: whether the curves are probabilities, and not just in order of risk.
        time_bins, risk_bins: how finely patients are counted.
    """

    metric_names = ("num_patients", "num_events", "c_index", "loss", "c_index_error_bound")
    columns = ("c_index", "num_events", "loss")
    cut_points: tuple[float, ...]
    has_likelihood: bool
    time_bins: int = TIME_BINS
    risk_bins: int = RISK_BINS

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every statistic."""
        shapes: dict[str, tuple[int, ...]] = {"num_patients": ()}
        if self.has_likelihood:
            shapes |= {"loss_sum": (), "survival_sum": (len(self.cut_points),)}
        return shapes | dict.fromkeys(_HISTOGRAMS, (self.time_bins, self.risk_bins))

    def sums_of(self, predictions_BP: Floats, labels: Labels) -> EvaluationSums:
        """The sums over the patients whose time is known."""
        survival_BK, outcome = known(predictions_BP, labels)
        time_B, event_B = outcome["time_B"].astype(np.float64), outcome["event_B"]
        time_bin_B = time_bins(time_B, self.cut_points, self.time_bins)
        risk_bin_B = _risk_bins(risk_of(survival_BK), self.risk_bins)
        histograms = np.zeros((2, self.time_bins, self.risk_bins))
        np.add.at(histograms, ((~event_B).astype(int), time_bin_B, risk_bin_B), 1.0)
        sums: dict[str, Floats] = {"num_patients": np.asarray(float(len(time_B)))}
        if self.has_likelihood:
            sums["loss_sum"] = np.asarray(
                negative_log_likelihood(survival_BK, time_B, event_B, self.cut_points).sum()
            )
            sums["survival_sum"] = survival_BK.sum(axis=0)
        return EvaluationSums(sums=sums | dict(zip(_HISTOGRAMS, histograms, strict=True)))

    def metrics_of(self, sums: EvaluationSums) -> Metrics:
        """The metrics that follow from the sums."""
        if sums.num_patients == 0:
            return self.undefined()
        values = dict.fromkeys(self.metric_names, nan)
        values["num_patients"] = sums.num_patients
        if sums.has("loss_sum"):
            values["loss"] = float(sums.sums["loss_sum"]) / sums.num_patients
        if sums.has(*_HISTOGRAMS):
            events_TR, censored_TR = (sums.sums[name] for name in _HISTOGRAMS)
            values["num_events"] = float(events_TR.sum())
            values["c_index"], values["c_index_error_bound"] = binned_c(events_TR, censored_TR)
        return defined(values)

    def exact_metrics(self, predictions_BP: Floats, labels: Labels) -> Metrics:
        """As `metrics_of`, with the C-index of every pair."""
        metrics = self.metrics_of(self.sums_of(predictions_BP, labels))
        del metrics["c_index_error_bound"]
        survival_BK, outcome = known(predictions_BP, labels)
        c_index = concordance_index(
            outcome["time_B"].astype(np.float64), outcome["event_B"], risk_of(survival_BK)
        )
        return metrics | defined({"c_index": c_index})

    def raise_if_impossible(self, sums: EvaluationSums) -> None:
        """Raises ValueError unless some set of patients could have these sums."""
        both = sum(sums.sums[name] for name in _HISTOGRAMS)
        n = sums.num_patients
        most = -np.log(_SMALLEST) * (len(self.cut_points) + 1)
        is_possible = (
            n < 2**53
            and all((sums.sums[name] == np.floor(sums.sums[name])).all() for name in _HISTOGRAMS)
            and np.sum(both) == n
            and float(sums.sums.get("loss_sum", np.zeros(()))) <= most * n * (1 + 1e-9)
            and self._is_curve_of(sums, np.asarray(both).sum(axis=0))
        )
        if not is_possible:
            raise ValueError("expected statistics of the same patients, found some that disagree")

    def _is_curve_of(self, sums: EvaluationSums, count_R: Floats) -> bool:
        """Whether the sum of the curves is one of patients of these risks."""
        if not self.has_likelihood:
            return True
        total_K = sums.sums["survival_sum"]
        risk = sums.num_patients - float(total_K.mean())
        slack = 1e-6 * (1 + sums.num_patients)
        edges = _risk_edges(self.risk_bins)
        return bool(
            (np.diff(total_K, prepend=sums.num_patients) <= slack).all()
            and count_R @ edges[:-1] - slack <= risk <= count_R @ edges[1:] + slack
        )


def risk_of(survival_BK: Floats) -> Floats:
    """The mean probability of the event by each of the cut points, shape (B,), 0 to 1."""
    risk_B: Floats = 1 - survival_BK.mean(axis=1)
    return np.clip(risk_B, 0.0, 1.0)


def concordance_index(time_B: Floats, event_B: NDArray[np.bool_], risk_B: Floats) -> float:
    """Harrell's C: the part of comparable pairs in which the earlier event had the higher risk.

    A pair is comparable if the earlier of its times is an event, or both are equal and one is an
    event and the other is not (who then lived longer). Equal risks count half. NaN without a pair.

    >>> concordance_index(np.array([1.0, 2.0]), np.array([True, False]), np.array([0.9, 0.1]))
    1.0

    Source: Harrell et al. 1996, Statistics in Medicine 15:361, section 5.5; ties as in lifelines.
    """
    num_pairs, score = 0, 0.0
    for i in np.flatnonzero(event_B):
        later_B = (time_B > time_B[i]) | ((time_B == time_B[i]) & ~event_B)
        num_pairs += int(later_B.sum())
        others = risk_B[later_B]
        score += float((others < risk_B[i]).sum() + 0.5 * (others == risk_B[i]).sum())
    return score / num_pairs if num_pairs else nan


def negative_log_likelihood(
    survival_BK: Floats,
    time_B: Floats,
    event_B: NDArray[np.bool_],
    cut_points: tuple[float, ...],
) -> Floats:
    """Of each patient in discrete time, shape (B,); as `common.models.survival` trains it.

    Events after the last cut point count as survival of all intervals.
    """
    edges = _edges(cut_points)
    interval_B = np.searchsorted(edges, time_B, side="left")
    curve_BK = np.concatenate([np.ones((len(survival_BK), 1)), survival_BK], axis=1)
    rows = np.arange(len(survival_BK))
    happened_B = event_B & (interval_B < len(edges))
    place_B = np.minimum(interval_B, len(edges) - 1)
    died_B = curve_BK[rows, place_B] - curve_BK[rows, place_B + 1]
    lived_B = curve_BK[rows, survived_intervals(time_B, cut_points)]
    likelihood_B: Floats = np.where(happened_B, died_B, lived_B)
    result_B: Floats = -np.log(np.maximum(likelihood_B, _SMALLEST))
    return result_B


def survived_intervals(time_B: Floats, cut_points: tuple[float, ...]) -> NDArray[np.int64]:
    """How many whole intervals each patient has survived, an interval counting from its middle on.

    Source: Gensheimer and Narasimhan 2019, PeerJ 7:e6257, section "Loss function".
    """
    edges = np.concatenate([np.zeros(1, dtype=np.float32), _edges(cut_points)])
    middles = (edges[:-1] + edges[1:]) / 2
    return np.searchsorted(middles, time_B, side="right").astype(np.int64)


def _edges(cut_points: tuple[float, ...]) -> NDArray[np.float32]:
    """As the model holds them: a time of 0.1, in float32 too, is then at a cut point of 0.1."""
    return np.asarray(cut_points, dtype=np.float32)


def time_bins(time_B: Floats, cut_points: tuple[float, ...], num_bins: int) -> NDArray[np.int64]:
    """The bin of each time, shape (B,): equal ones up to the last cut point, one for what is later.

    The last cut point itself is not after it.
    """
    last = float(_edges(cut_points)[-1])
    num_within = num_bins - 1
    # The minimum comes before the cast, which a huge time would overflow.
    within_B = np.minimum(time_B, last) / last * num_within
    bin_B = np.minimum(within_B.astype(np.int64), num_within - 1)
    result_B: NDArray[np.int64] = np.where(time_B > last, num_within, bin_B)
    return result_B


def _risk_bins(risk_B: Floats, num_bins: int) -> NDArray[np.int64]:
    """The bin of each risk of 0 to 1, shape (B,): equal ones of its logit, which is clipped.

    Raises:
        ValueError: a risk is not a number: it has no bin.
    """
    if np.isnan(risk_B).any():
        raise ValueError("expected risks of 0 to 1, found some that are not a number")
    with np.errstate(divide="ignore"):
        logit_B = np.clip(np.log(risk_B) - np.log1p(-risk_B), -_LARGEST_LOGIT, _LARGEST_LOGIT)
    place_B = (logit_B / _LARGEST_LOGIT + 1) / 2 * num_bins
    bin_B: NDArray[np.int64] = np.minimum(place_B.astype(np.int64), num_bins - 1)
    return bin_B


def _risk_edges(num_bins: int) -> Floats:
    """The edges of the bins of risk, shape (`num_bins` + 1,): the first is 0, the last 1."""
    logit = (2 * np.arange(1, num_bins) / num_bins - 1) * _LARGEST_LOGIT
    return np.concatenate([[0.0], 1 / (1 + np.exp(-logit)), [1.0]])


def binned_c(events_TR: Floats, censored_TR: Floats) -> tuple[float, float]:
    """The C-index of binned times and risks, and how far it can be from the exact one.

    Counts may carry noise, which the C-index then has as well; the bound is meant for exact ones.
    """
    everyone_TR = events_TR + censored_TR
    later_TR = np.cumsum(everyone_TR[::-1], axis=0)[::-1] - everyone_TR
    below_TR = np.cumsum(later_TR, axis=1) - later_TR
    pairs = float((events_TR * later_TR.sum(axis=1, keepdims=True)).sum())
    tied = float((events_TR * later_TR).sum())
    if pairs <= 0:
        return nan, nan
    c_index = float((events_TR * below_TR).sum() + 0.5 * tied) / pairs
    # Two within one bin of time may be comparable, in either order, if one of them has an event.
    events_T, censored_T = events_TR.sum(axis=1), censored_TR.sum(axis=1)
    same = float((events_T * ((events_T - 1) / 2 + censored_T)).sum())
    return c_index, (0.5 * tied + same) / (pairs + same)
