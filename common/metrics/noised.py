"""Statistics that carry Gaussian noise: what one evaluation of a private study releases.

Each outcome is a short vector of sums over patients, to which one patient adds a bounded amount;
`client.private_statistics` adds the noise, once. Everything here after that is post-processing: the
number of patients, the metrics, and how far noise alone moves them (`…_noise_sd`).

Nothing is clamped before it must be: cells stay negative and fractional, so that they add up over
sites and their errors cancel, and only the final metric is clipped to its range.

Letters of shapes: B patients, P predicted numbers of a patient, N coordinates of a release.
"""

from abc import abstractmethod
from collections.abc import Mapping
from math import nan, prod, sqrt

import numpy as np

from common.metrics.statistics import EvaluationSums, Floats, Labels, Metrics, Statistics, defined

NOISE_VARIANCE = "noise_variance"
HEAD: dict[str, tuple[int, ...]] = {"num_patients": (), NOISE_VARIANCE: ()}
# Honest noise goes beyond this many of its standard deviations once in 10^22.
FARTHEST = 10.0
# The standard deviation of a metric is then known to a twentieth.
_NUM_RESAMPLES = 200


class NoisedStatistics(Statistics):
    """Noised sums of one outcome, beside the variance of the noise of each coordinate.

    Guarantees:
        - One patient changes `vector_of` by at most the square root of `squared_sensitivity`.
        - The noised sums of several sites add up, and so does the variance of their noise.
        - Metrics are within their ranges; they are None where the noised counts say that nobody is
          there to compare.
        - Without noise, metrics are those of the same counts, and `exact_metrics` knows no noise.

    Each metric of `released_names` has a `…_noise_sd`: the standard deviation over releases with
    the same noise once more, drawn with a fixed seed. It tells of the noise alone, not of how few
    patients there are.
    """

    is_noised = True

    @property
    @abstractmethod
    def released_names(self) -> tuple[str, ...]:
        """The metrics that a noised release carries; the others are always None."""

    @property
    @abstractmethod
    def plain(self) -> Statistics:
        """The statistics of the same outcome without privacy."""

    @property
    @abstractmethod
    def squared_sensitivity(self) -> float:
        """The largest squared L2 norm of what one patient adds to `vector_of`."""

    @abstractmethod
    def vector_of(self, predictions_BP: Floats, labels: Labels) -> Floats:
        """What noise is added to, shape (N,): a sum over the patients whose outcome is known."""

    @abstractmethod
    def sums_from(self, vector_N: Floats, noise_variance: float) -> EvaluationSums:
        """The sums that follow from a vector, by a linear map."""

    @abstractmethod
    def vector_from(self, sums: EvaluationSums) -> Floats:
        """The inverse of `sums_from`, shape (N,)."""

    @abstractmethod
    def estimates_of(self, sums: EvaluationSums) -> Mapping[str, float]:
        """The metrics of `released_names`, NaN where undefined. There is a patient at least."""

    def sums_of(self, predictions_BP: Floats, labels: Labels) -> EvaluationSums:
        """The sums without noise, which must not leave a private site: inboxes refuse them."""
        return self.sums_from(self.vector_of(predictions_BP, labels), 0.0)

    def metrics_of(self, sums: EvaluationSums) -> Metrics:
        """The metrics, and `…_noise_sd` of those that the release carries."""
        if not sums.has(*self.shapes()) or not _is_anyone(sums):
            return self.undefined()
        values = dict(self.estimates_of(sums))
        sds = {f"{name}_noise_sd": sd for name, sd in self._noise_sds(sums).items()}
        return defined(dict.fromkeys(self.metric_names, nan) | values | sds)

    def exact_metrics(self, predictions_BP: Floats, labels: Labels) -> Metrics:
        """As without privacy: for the simulation's oracle alone."""
        return self.plain.exact_metrics(predictions_BP, labels)

    def undefined(self) -> Metrics:
        """The metrics of nobody."""
        return super().undefined() | {f"{n}_noise_sd": None for n in self.released_names}

    def raise_if_impossible(self, sums: EvaluationSums) -> None:
        """Raises ValueError without noise, or for values that noise of its size does not give."""
        variance = float(sums.sums[NOISE_VARIANCE])
        if not 0 < variance < np.inf:
            raise ValueError(f"expected noise in every release, found a variance of {variance}")
        vector_N = self.vector_from(sums)
        expected = self.sums_from(vector_N, variance).num_patients
        slack = 1e-9 * (1 + float(np.abs(vector_N).sum()))
        if abs(expected - sums.num_patients) > slack or not self._is_near_possible(sums):
            raise ValueError("expected statistics of the same patients, found some that disagree")

    @abstractmethod
    def _is_near_possible(self, sums: EvaluationSums) -> bool:
        """Whether sums of patients are within reach of the noise."""

    def _noise_sds(self, sums: EvaluationSums) -> dict[str, float]:
        variance = float(sums.sums[NOISE_VARIANCE])
        if variance == 0:
            return dict.fromkeys(self.released_names, 0.0)
        vector_N, rng = self.vector_from(sums), np.random.default_rng(0)
        drawn: dict[str, list[float]] = {name: [] for name in self.released_names}
        for _ in range(_NUM_RESAMPLES):
            noisy_N = vector_N + sqrt(variance) * rng.standard_normal(len(vector_N))
            again = self.sums_from(noisy_N, variance)
            for name, value in self.estimates_of(again).items() if _is_anyone(again) else ():
                if not np.isnan(value):
                    drawn[name].append(value)
        return {name: float(np.std(v)) if len(v) > 1 else nan for name, v in drawn.items()}


def arcsine_edges(num_bins: int) -> Floats:
    """The inner edges of bins of a probability, equal in arcsin √p; shape (`num_bins` - 1,).

    On that scale a frequency has the same error everywhere, so no bin is too fine or too coarse; an
    even number of bins has an edge at .5.

    >>> arcsine_edges(4).round(3).tolist()
    [0.146, 0.5, 0.854]
    """
    # In floats sin²(π / 4) is below .5; in this form the edge is .5.
    edges: Floats = (1 + np.sin(np.pi * (np.arange(1, num_bins) / num_bins - 0.5))) / 2
    return edges


def part_of(some: float, n: float) -> float:
    """The part of `n` > 0, clipped to [0, 1]."""
    return float(np.clip(some / n, 0.0, 1.0))


def _is_anyone(sums: EvaluationSums) -> bool:
    return sums.num_patients > 0


def are_cells(vector_N: Floats, sums: EvaluationSums) -> bool:
    """Whether no cell is further below 0 than noise goes."""
    return bool((vector_N >= -FARTHEST * sqrt(float(sums.sums[NOISE_VARIANCE]))).all())


def sums_with(num_patients: float, variance: float, others: Mapping[str, Floats]) -> EvaluationSums:
    """The sums of one release, by name."""
    head = {"num_patients": np.asarray(float(num_patients)), NOISE_VARIANCE: np.asarray(variance)}
    return EvaluationSums(sums=head | dict(others))


def joined(cells: Mapping[str, Floats]) -> Floats:
    """The cells of all tables, one after the other, shape (N,)."""
    return np.concatenate([np.reshape(value, -1) for value in cells.values()])


def cut(vector_N: Floats, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """The inverse of `joined`."""
    ends = np.cumsum([prod(shape) for shape in shapes.values()])
    parts = np.split(vector_N, ends[:-1])
    return {name: v.reshape(shapes[name]) for name, v in zip(shapes, parts, strict=True)}
