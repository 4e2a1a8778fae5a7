"""The moments of a site's numeric features, for federated normalisation.

Sums within the study's public ranges, over training patients; never a minimum, a maximum, or
anything of a held-out patient.
"""

import numpy as np

from client.data import Cohort
from common.arrays import Arrays
from common.normalisation import half_ranges
from common.study import Study


def moments_of(cohort: Cohort, study: Study) -> Arrays:
    """Count, sum and sum of squares of each numeric feature, in half ranges, float64."""
    named = {}
    for name in study.granularities:
        middle, half = half_ranges(study, name)
        arrays = cohort.arrays[name]
        observed_BF = arrays["observed_BF"]
        u_BF = (arrays["numeric_BF"].astype(np.float64) - middle) / half
        u_BF = np.where(observed_BF, u_BF, 0.0)
        named[f"{name}.count"] = observed_BF.sum(axis=0).astype(np.float64)
        named[f"{name}.sum"] = u_BF.sum(axis=0)
        named[f"{name}.sum_squares"] = (u_BF**2).sum(axis=0)
    return Arrays.pack(named, dtype=np.float64)
