"""Predicted beside observed quantities, and what is left between them.

Letters of shapes: B patients.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.explain.subject import Subject
from common.metrics.resampling import Floats

_MOST_PARTS = 5


@dataclass(frozen=True, kw_only=True)
class Quantities:
    """Of the held-out patients whose value is known."""

    predicted_B: Floats
    observed_B: Floats
    ids: tuple[str, ...]

    @property
    def residual_B(self) -> Floats:  # noqa: N802 - a shape suffix
        """Observed minus predicted."""
        return self.observed_B - self.predicted_B


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Patients of about the same predicted value."""

    low: float
    high: float
    num_patients: int
    predicted: float
    observed: float
    absolute_error: float


def quantities_of(subject: Subject, name: str) -> Quantities:
    """Predicted and observed values of one outcome."""
    test, known_B = subject.test, subject.test.known(name)
    return Quantities(
        predicted_B=test.predictions[name][known_B][:, 0],
        observed_B=test.cohort.outcomes[name]["value_B"][known_B].astype(np.float64),
        ids=tuple(i for i, known in zip(test.ids, known_B, strict=True) if known),
    )


def stretches_of(quantities: Quantities, fewest: int) -> list[Stretch]:
    """Up to five groups of neighbouring predictions, each of `fewest` patients or more."""
    order = np.argsort(quantities.predicted_B, kind="stable")
    num_parts = min(_MOST_PARTS, len(order) // fewest)
    if num_parts == 0:
        return []
    return [_stretch(quantities, index) for index in np.array_split(order, num_parts)]


def _stretch(quantities: Quantities, index: NDArray[np.int64]) -> Stretch:
    predicted_B, observed_B = quantities.predicted_B[index], quantities.observed_B[index]
    return Stretch(
        low=float(predicted_B.min()),
        high=float(predicted_B.max()),
        num_patients=len(index),
        predicted=float(predicted_B.mean()),
        observed=float(observed_B.mean()),
        absolute_error=float(np.abs(observed_B - predicted_B).mean()),
    )
