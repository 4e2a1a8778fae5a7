"""Mergeable statistics of predictions: sums that add up over sites, whatever the kind of outcome.

A site sends sums, counts and histograms (`EvaluationSums`); adding them over sites gives the
statistics of the pooled patients.

No function of this package sees more than predictions and outcomes, and nothing that it returns is
about one patient unless a cell of a histogram holds one patient: who may send small cells is the
policy's business.

Letters of shapes: B patients, P predicted numbers of a patient.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import nan, prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# An outcome of a cohort, by array name; "known_B" (bool) is always there.
Labels = Mapping[str, NDArray[Any]]
Metrics = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class EvaluationSums:
    """Statistics of a set of predictions, by name, which merge by addition.

    Guarantees:
        - Merging the sums of disjoint sets of patients gives the sums of their union.
        - The order in which sums are merged changes counts not at all.
        - A statistic that one part withholds is missing from the whole: a sum over some would pass
          for a sum over all.
    """

    sums: Mapping[str, Floats]

    def __add__(self, other: "EvaluationSums") -> "EvaluationSums":
        both = {k: v + other.sums[k] for k, v in self.sums.items() if k in other.sums}
        return EvaluationSums(sums=both)

    def has(self, *names: str) -> bool:
        """Whether all these statistics are there."""
        return all(name in self.sums for name in names)

    @property
    def num_patients(self) -> float:
        """The patients that the sums are over."""
        return float(self.sums["num_patients"])


class Statistics(ABC):
    """Which statistics of one outcome may be released, and the metrics that follow from them.

    Attributes:
        metric_names: all that `metrics_of` returns, "num_patients" first.
        columns: those of them that tables show, the most telling one first.
        is_noised: whether statistics carry noise, and may then be negative or fractional.
    """

    metric_names: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, ...]]
    is_noised: ClassVar[bool] = False

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every statistic; "num_patients" is among them."""

    @abstractmethod
    def sums_of(self, predictions_BP: Floats, labels: Labels) -> EvaluationSums:
        """The sums over the patients whose outcome is known."""

    @abstractmethod
    def raise_if_impossible(self, sums: EvaluationSums) -> None:
        """Raises ValueError unless some set of patients could have these sums (all are there)."""

    @abstractmethod
    def metrics_of(self, sums: EvaluationSums) -> Metrics:
        """The metrics; None where one is undefined, or a statistic that it needs was withheld."""

    @abstractmethod
    def exact_metrics(self, predictions_BP: Floats, labels: Labels) -> Metrics:
        """As `metrics_of`, without binning; where predictions may be pooled, so in simulation."""

    def zero(self) -> EvaluationSums:
        """The sums of no patients: the neutral element of `+`."""
        return EvaluationSums(sums={name: np.zeros(shape) for name, shape in self.shapes().items()})

    def read(self, flat: Mapping[str, Iterable[float]]) -> EvaluationSums:
        """The sums in `flat`, by name; a policy may have withheld some, but not "num_patients".

        Raises:
            ValueError: "num_patients" is missing, a size differs, a value is not finite, or is
                negative and not noised, or the statistics cannot all be of the same patients.
        """
        sums = {}
        for name, shape in self.shapes().items():
            if name not in flat:
                continue
            value = np.asarray(tuple(flat[name]), dtype=np.float64)
            if value.size != prod(shape):
                raise ValueError(f"expected shape {shape} of {name}, found {value.size} elements")
            if not np.isfinite(value).all():
                raise ValueError(f"expected finite values in {name}")
            if not self.is_noised and (value < 0).any():
                raise ValueError(f"expected values of 0 or more in {name}")
            sums[name] = value.reshape(shape)
        if "num_patients" not in sums:
            raise ValueError("expected the statistic num_patients, found none")
        read = EvaluationSums(sums=sums)
        if len(sums) == len(self.shapes()):
            self.raise_if_impossible(read)
        return read

    def undefined(self) -> Metrics:
        """The metrics of nobody."""
        return dict.fromkeys(self.metric_names) | {"num_patients": 0.0}


def defined(values: Mapping[str, float]) -> Metrics:
    """The metrics with None in the place of what is not a number."""
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


def ratio(numerator: float, denominator: float) -> float:
    """The quotient, or NaN where the denominator is 0."""
    return numerator / denominator if denominator else nan


def known(predictions_BP: Floats, labels: Labels) -> tuple[Floats, dict[str, NDArray[Any]]]:
    """Predictions and outcome of the patients whose outcome is known."""
    known_B = labels["known_B"]
    return predictions_BP[known_B], {name: value[known_B] for name, value in labels.items()}
