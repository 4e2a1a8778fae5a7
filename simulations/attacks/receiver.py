"""How well scores tell members from others: AUC and hit rates at few false alarms, with intervals.

Letters of shapes: N patients, M models, G groups of equal scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FALSE_ALARM_RATES = (0.01, 0.001)
_NUM_RESAMPLES = 400


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def separation(
    score_MN: Floats, is_member_MN: NDArray[np.bool_], *, seed: int
) -> Mapping[str, Interval]:
    """AUC, and the hit rate at each rate of false alarms, over all pairs of model and patient.

    Guarantees:
        - Equal scores count half in AUC, and no threshold parts them.
        - No more than the stated part of those who are no members are taken for some.
        - Intervals are of patients drawn anew with replacement, each with all of their models; a
          draw in which nobody is a member, or everybody, tells nothing and is left out.

    Returns:
        "auc", "tpr_at_0.01" and "tpr_at_0.001".

    Raises:
        ValueError: nobody is a member, or everybody.
    """
    if is_member_MN.all() or not is_member_MN.any():
        raise ValueError("expected members and others, found one of them alone")
    num_patients = score_MN.shape[1]
    owner = np.tile(np.arange(num_patients), len(score_MN))
    values, group = np.unique(score_MN.ravel(), return_inverse=True)
    member = is_member_MN.ravel()
    random = np.random.default_rng(seed)
    whole = _rates(np.ones(num_patients), owner, group, member, len(values))
    draws = []
    for _ in range(_NUM_RESAMPLES):
        drawn = random.integers(num_patients, size=num_patients)
        weight_N = np.bincount(drawn, minlength=num_patients).astype(np.float64)
        rates = _rates(weight_N, owner, group, member, len(values))
        draws += [] if rates is None else [rates]
    assert whole is not None  # noqa: S101 - both kinds are there, as was checked
    names = ["auc", *(f"tpr_at_{rate:g}" for rate in FALSE_ALARM_RATES)]
    low, high = np.quantile(np.array(draws or [whole]), [0.025, 0.975], axis=0)
    return {
        name: Interval(value=whole[i], low=float(low[i]), high=float(high[i]))
        for i, name in enumerate(names)
    }


def _rates(
    weight_N: Floats,
    owner: NDArray[np.int64],
    group: NDArray[np.int64],
    member: NDArray[np.bool_],
    num_groups: int,
) -> Sequence[float] | None:
    """AUC and hit rates where each patient counts so often; None if only one kind is left."""
    weight = weight_N[owner]
    hit_G = np.bincount(group[member], weights=weight[member], minlength=num_groups)
    alarm_G = np.bincount(group[~member], weights=weight[~member], minlength=num_groups)
    hits, alarms = hit_G.sum(), alarm_G.sum()
    if hits == 0 or alarms == 0:
        return None
    below_G = np.cumsum(alarm_G) - alarm_G
    auc = float((hit_G * (below_G + alarm_G / 2)).sum() / (hits * alarms))
    # From the highest score down: what is taken for a member at each threshold.
    taken_G, false_G = (np.cumsum(x[::-1]) for x in (hit_G, alarm_G))
    rates = []
    for rate in FALSE_ALARM_RATES:
        allowed = int(np.searchsorted(false_G, rate * alarms, side="right"))
        rates.append(float(taken_G[allowed - 1] / hits) if allowed else 0.0)
    return [auc, *rates]
