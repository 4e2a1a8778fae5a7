"""What the predictions of one outcome rest on, over the held-out patients.

Features by integrated gradients, granularities by Shapley values.

Letters of shapes: B patients, G granularities, F features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.attributions import Attributions, evenly_spread
from client.contributions import MOST_GRANULARITIES, Contributions, contributions
from client.data import ArraysByName
from client.explain.attributions import attributions
from client.explain.subject import Subject
from common.granularities import TabularGranularity

Floats = NDArray[np.float64]

# Below this correlation, a feature pulls both ways.
_CLEAR = 0.3


@dataclass(frozen=True, kw_only=True)
class Reliance:
    """What the predictions of one outcome rest on.

    Attributes:
        index: of the held-out patients that are explained.
        present_BG: which granularities they have.
        shapley: None where the study has too many granularities.
        directions: by column of `attributions.value_BF`, how the score goes with the feature.
    """

    index: NDArray[np.int64]
    present_BG: NDArray[np.bool_]
    attributions: Attributions
    shapley: dict[str, Contributions]
    directions: tuple[str, ...]

    def shapley_gap(self, outcome: str) -> float:
        """The largest gap between the sum of Shapley values and the score.

        As a part of the mean difference between the score with and without all granularities.
        """
        parts, score_B = self.shapley[outcome], self.attributions.score_B
        added_B = parts.granularities_BG.sum(axis=1) + parts.site_B
        gap_B = np.abs((parts.nothing_B + added_B)[self.index] - score_B)
        size = float(np.abs(added_B[self.index]).mean())
        return float(gap_B.max(initial=0.0)) / size if size > 0 else 0.0


def explained_patients(subject: Subject) -> NDArray[np.int64]:
    """Up to `MOST_PATIENTS` of the held-out patients, evenly spread over the file."""
    return evenly_spread(len(subject.test.ids))


def reliance_of(subject: Subject, outcome: str, index: NDArray[np.int64]) -> Reliance:
    """What the predictions of `outcome` rest on, for the held-out patients at `index`."""
    study, arrays = subject.study, subject.test.cohort.arrays
    found = attributions(subject, outcome, index)
    shapley: dict[str, Contributions] = {}
    if len(study.granularities) <= MOST_GRANULARITIES:
        shapley = contributions(subject.model, subject.test.patients, study, subject.intercepts)
    present = [arrays[name]["present_B"][index] for name in study.granularities]
    return Reliance(
        index=index,
        present_BG=np.stack(present, axis=1),
        attributions=found,
        shapley={outcome: shapley[outcome]} if shapley else {},
        directions=tuple(
            _direction(subject, owner, feature, index, found.value_BF[:, f])
            for f, (owner, feature) in enumerate(found.features)
        ),
    )


def _direction(
    subject: Subject, owner: str, feature: str, index: NDArray[np.int64], added_B: Floats
) -> str:
    """How the score goes with a feature, in words; empty where that is no question."""
    granularity, arrays = subject.study.granularities[owner], subject.test.cohort.arrays[owner]
    if isinstance(granularity, TabularGranularity) and feature in granularity.categorical:
        codes_B = arrays["codes_BK"][index, list(granularity.categorical).index(feature)]
        return _extremes(granularity.categorical[feature].categories, codes_B, added_B, subject)
    if feature not in granularity.numeric:
        return ""
    value_B = _levels(arrays, index, list(granularity.numeric).index(feature))
    is_known_B = np.isfinite(value_B)
    value_B, added_B = value_B[is_known_B], added_B[is_known_B]
    if len(value_B) < subject.smallest_group or value_B.std() == 0 or added_B.std() == 0:
        return ""
    r = float(np.corrcoef(value_B, added_B)[0, 1])
    if abs(r) < _CLEAR:
        return "both ways"
    return "rises with higher values" if r > 0 else "falls with higher values"


def _levels(arrays: ArraysByName, index: NDArray[np.int64], column: int) -> Floats:
    """A number of each patient, or the mean of a signal; NaN where it was never measured."""
    if "numeric_BF" in arrays:
        observed_BT = arrays["observed_BF"][index, None, column]
        value_BT = arrays["numeric_BF"][index, None, column]
    else:
        observed_BT = arrays["observed_BTF"][index, :, column]
        value_BT = arrays["numeric_BTF"][index, :, column]
    num_B = observed_BT.sum(axis=1)
    total_B = np.where(observed_BT, value_BT, 0.0).sum(axis=1)
    return np.where(num_B > 0, total_B / np.maximum(num_B, 1), np.nan)


def _extremes(
    categories: tuple[str, ...], codes_B: NDArray[np.int64], added_B: Floats, subject: Subject
) -> str:
    """The categories that raise and lower the score most, of those that enough patients have."""
    means = {
        name: float(added_B[codes_B == c + 1].mean())
        for c, name in enumerate(categories)
        if (codes_B == c + 1).sum() >= subject.smallest_group
    }
    if len(means) < 2:
        return ""
    highest, lowest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return f"highest with '{highest}', lowest with '{lowest}'"
