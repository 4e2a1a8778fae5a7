"""Which patients have each column of attributions, and which sets of them may be counted.

Letters of shapes: B patients (those explained), F numeric features, K categorical ones, S sets of
patients, T steps.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.attributions import Judge
from client.subgroups import unions_of
from client.training import Patients
from common.granularities import TabularGranularity
from common.metrics.attributions import Column
from common.study import Study

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
# By granularity and feature; None as the feature: the granularity as a whole.
Key = tuple[str, str | None]

# More sets of patients than these are not compared: what is beyond counts as its granularity.
_MOST_SETS = 64


def has_of(patients: Patients, study: Study, index: NDArray[np.int64]) -> dict[Key, Bools]:
    """Which of the patients at `index` have each granularity and each of its features, (B,)."""
    has: dict[Key, Bools] = {}
    for name, part in study.granularities.items():
        present_B = _array(patients, name, "present_B")[index].astype(np.bool_)
        has[name, None] = present_B
        if part.numeric:
            observed_BF = _observed(patients, name)[index].astype(np.bool_)
            if observed_BF.ndim == 3:
                observed_BF = np.asarray(observed_BF.any(axis=1))
            has |= {(name, f): present_B & observed_BF[:, i] for i, f in enumerate(part.numeric)}
        if isinstance(part, TabularGranularity) and part.categorical:
            codes_BK = _array(patients, name, "codes_BK")[index]
            has |= {
                (name, f): present_B & (codes_BK[:, i] > 0) for i, f in enumerate(part.categorical)
            }
    return has


def signs_of(judge: Judge, index: NDArray[np.int64]) -> dict[Key, Floats]:
    """Whether each patient's value of each number is below the baseline (-1) or not (1), (B,).

    Of a signal, the mean of its steps.
    """
    signs: dict[Key, Floats] = {}
    for name, part in judge.study.granularities.items():
        if not part.numeric:
            continue
        observed = _observed(judge.patients, name)[index].astype(np.bool_)
        kind = "numeric_BTF" if observed.ndim == 3 else "numeric_BF"
        value = _array(judge.patients, name, kind)[index].astype(np.float64)
        encoder: Any = judge.model.encoders[name]
        centre_F = encoder.location.cpu().numpy()
        above = np.where(observed, value - centre_F, 0.0)
        above_BF = above.sum(axis=1) if above.ndim == 3 else above
        signs |= {
            (name, f): np.where(above_BF[:, i] < 0, -1.0, 1.0) for i, f in enumerate(part.numeric)
        }
    return signs


def _observed(patients: Patients, name: str) -> NDArray[Any]:
    kind = "observed_BTF" if "observed_BTF" in patients.inputs[name] else "observed_BF"
    return _array(patients, name, kind)


def _array(patients: Patients, name: str, key: str) -> NDArray[Any]:
    array: NDArray[Any] = patients.inputs[name][key].cpu().numpy()
    return array


def of_same_patients(
    indexes: Mapping[str, NDArray[np.int64]], smallest_group: int
) -> dict[str, NDArray[np.int64]]:
    """Of whom each outcome is summed: who differ by few between two outcomes are in neither.

    Whether those few have a feature would follow from its numbers of patients.

    Guarantees:
        - Any two are equal or differ by at least `smallest_group` patients.
        - None holds anybody whom it did not hold.
    """
    same = dict(indexes)
    while near := [
        (one, other)
        for one, other in combinations(same, 2)
        if 0 < len(np.setxor1d(same[one], same[other])) < smallest_group
    ]:
        one, other = near[0]
        same[one] = same[other] = np.intersect1d(same[one], same[other])
    return same


def denominators(
    has: Mapping[Key, Bools],
    columns: Sequence[Column],
    groups: Sequence[Sequence[Bools]],
    smallest_group: int,
) -> dict[Key, Bools]:
    """The patients that the mean of each column is over, (B,): who has it, or a larger set.

    Guarantees:
        - The sets differ from one another, from everybody, nobody and unions of one feature's
          groups by nobody, or by at least `smallest_group` patients.
        - Each holds whoever has the column.

    Args:
        has: as `has_of`.
        columns: each granularity before its features.
        groups: of patients that are told, (B,), by feature.
    """
    everybody_B = np.ones(len(next(iter(has.values()))), dtype=np.bool_)
    sets_SB = np.array([everybody_B], float)
    if groups:
        unions = [unions_of(len(g)) @ np.array(g, float) for g in groups]
        sets_SB = np.unique(np.concatenate([sets_SB, *unions]), axis=0)
    num_groups, over = len(sets_SB), dict[Key, Bools]()
    for column in columns:
        key = (column.granularity, column.feature)
        fallback_B = everybody_B if column.feature is None else over[column.granularity, None]
        apart_S = (sets_SB != has[key]).sum(axis=1)
        rest_S = len(everybody_B) - apart_S
        is_safe = not (_few(apart_S, smallest_group) | _few(rest_S, smallest_group)).any()
        is_new = is_safe and bool(apart_S.all())
        if is_new and len(sets_SB) - num_groups >= _MOST_SETS:
            is_safe = is_new = False
        over[key] = has[key] if is_safe else fallback_B
        if is_new:
            sets_SB = np.concatenate([sets_SB, has[key][None].astype(float)])
    return over


def _few(count_S: NDArray[np.int64], smallest_group: int) -> Bools:
    few_S: Bools = (count_S > 0) & (count_S < smallest_group)
    return few_S
