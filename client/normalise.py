"""The moments of a site's measured quantities, for federated normalisation.

Sums within the study's public ranges, over training patients; never a minimum, a maximum, or
anything of a held-out patient.

Letters of shapes: B patients, T time steps, F features (or signals, or markers).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data import Cohort
from common.arrays import Arrays
from common.normalisation import half_ranges
from common.study import Study


def moments_of(cohort: Cohort, study: Study) -> Arrays:
    """Count, sum and sum of squares of each measured quantity, in half ranges, float64.

    A patient counts once for a quantity, however often it was measured: a series contributes the
    mean over its observed steps (of values, and of their squares).

    Guarantees:
        - One patient adds 0 or 1 to a count, and at most 1 to a sum and to a sum of squares,
          whatever is in their record.
        - A value that is not finite counts as not observed, one outside of the range as its end.
    """
    named = {}
    for name, granularity in study.granularities.items():
        if not granularity.numeric:
            continue
        middle, half = half_ranges(study, name)
        value_BTF, observed_BTF = _measured(cohort.arrays[name])
        observed_BTF = observed_BTF & np.isfinite(value_BTF)
        value_BTF = np.where(observed_BTF, value_BTF, 0.0).astype(np.float64)
        u_BTF = np.where(observed_BTF, np.clip((value_BTF - middle) / half, -1.0, 1.0), 0.0)
        num_BF = observed_BTF.sum(axis=1)
        steps_BF = np.maximum(num_BF, 1)
        named[f"{name}.count"] = (num_BF > 0).sum(axis=0).astype(np.float64)
        named[f"{name}.sum"] = (u_BTF.sum(axis=1) / steps_BF).sum(axis=0)
        named[f"{name}.sum_squares"] = ((u_BTF**2).sum(axis=1) / steps_BF).sum(axis=0)
    return Arrays.pack(named, dtype=np.float64)


def _measured(arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values and mask with an axis of time, of one step where the kind has none."""
    if "numeric_BTF" in arrays:
        return arrays["numeric_BTF"], arrays["observed_BTF"]
    return arrays["numeric_BF"][:, None], arrays["observed_BF"][:, None]
