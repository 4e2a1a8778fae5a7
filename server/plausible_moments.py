"""Whether the moments that a site enrols with can be true: they make the normalisation of all."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.normalisation import MOMENTS, NOISE_VARIANCE
from common.privacy.sections import PatientPrivacy
from common.study import Study

_IMPLAUSIBLE = "moments outside of the plausible ranges"

Moments = Mapping[str, NDArray[np.floating]]


def fault_of(named: Moments, counts: Mapping[str, int], *, site: str, study: Study) -> str:
    """What is wrong with moments of values in [-1, 1] of so many patients; "" for nothing.

    Args:
        named: by GRANULARITY.MOMENT, a number for each feature.
        counts: patients by granularity, as the same reply tells them.
        site: who says so; the study may give it a public number of patients.
    """
    if isinstance(study.privacy, PatientPrivacy):
        return _fault_with_noise(named, site, study, study.privacy)
    for name, granularity in study.granularities.items():
        if not granularity.numeric:
            continue
        count, total, squares = (named[f"{name}.{moment}"] for moment in MOMENTS)
        # Values travel through float32, which may put them a little outside of their range.
        most = 1.01 * count
        is_counted = ((count >= 0) & (count <= counts[name])).all()
        is_bounded = ((np.abs(total) <= most) & (squares >= 0) & (squares <= most)).all()
        if not is_counted or not is_bounded:
            return _IMPLAUSIBLE
    return ""


def _fault_with_noise(named: Moments, site: str, study: Study, privacy: PatientPrivacy) -> str:
    """Nobody knows how many patients are behind noise: the bound is public, and noise goes beyond.

    A site that the study gives a number of patients may have ten times as many.
    """
    largest = float(study.strategy.max_patients_per_site)
    most = min(10.0 * privacy.enrolment.get(site, largest), largest)
    variance = float(named[NOISE_VARIANCE][0])
    if not 0 <= variance <= largest**2:
        return "moments with absurd noise"
    # A count has 1.22 times the noise of a sum.
    reach = 12.0 * variance**0.5
    for name, granularity in study.granularities.items():
        if not granularity.numeric:
            continue
        count, total, squares = (named[f"{name}.{moment}"] for moment in MOMENTS)
        bound = 1.01 * np.maximum(count, 0.0) + 2 * reach
        is_counted = variance > 0 and ((count >= -reach) & (count <= most + reach)).all()
        is_bounded = (np.abs(total) <= bound) & (squares >= -reach) & (squares <= bound)
        if not is_counted or not is_bounded.all():
            return _IMPLAUSIBLE
    return ""
