"""Federated normalisation: moments within public ranges, summed over sites, to centre and scale.

Values are first mapped from the study's plausible range onto [-1, 1], so that sums are bounded by
the number of patients and lose no digits. No minimum, maximum or vocabulary is ever sent. Where
patients are protected, moments carry noise, and beside them stands its variance, which is public.

Letters of shapes: F features.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from common.arrays import Arrays, Block, Manifest
from common.privacy.sections import PatientPrivacy
from common.study import Study

Floats = NDArray[np.float64]

MOMENTS = ("count", "sum", "sum_squares")
# Of the noise of a sum, in half ranges squared; it adds up over sites as the moments do.
NOISE_VARIANCE = "noise_variance"
# How far from the middle of its range a mean is expected, in half ranges: a noised one is weighed
# against that.
_EXPECTED_MEAN = 0.5
# As a part of half the range: below this a feature does not vary, but for rounding. The spread of a
# skewed quantity is far above it, even within a range that holds its rarest extremes.
_SMALLEST_DEVIATION = 1e-6


def moments_manifest(study: Study) -> Manifest:
    """Names and shapes of the moments that a site sends: three vectors (F,) a granularity.

    Granularities without measured quantities (images, notes) have none. Where patients are
    protected, the variance of the noise (1,) comes last.
    """
    is_noised = isinstance(study.privacy, PatientPrivacy)
    return (
        *(
            Block(name=f"{name}.{moment}", shape=(len(granularity.numeric),))
            for name, granularity in study.granularities.items()
            if granularity.numeric
            for moment in MOMENTS
        ),
        *((Block(name=NOISE_VARIANCE, shape=(1,)),) if is_noised else ()),
    )


def add_moments(sites: Iterable[Arrays]) -> Arrays:
    """The sum of the moments of several sites, in the order given. Raises ValueError for none."""
    parts = list(sites)
    if not parts:
        raise ValueError("expected the moments of one site or more, found none")
    return Arrays(
        manifest=parts[0].manifest, flat=np.sum([p.flat for p in parts], axis=0, dtype=np.float64)
    )


def half_ranges(study: Study, granularity: str) -> tuple[Floats, Floats]:
    """The middle and half the width of each numeric feature's plausible range, shapes (F,)."""
    features = study.granularities[granularity].numeric.values()
    bounds = np.asarray([f.range for f in features], dtype=np.float64).reshape(-1, 2)
    return bounds.mean(axis=1), (bounds[:, 1] - bounds[:, 0]) / 2


def normalisation_of(study: Study, moments: Arrays) -> dict[str, Floats]:
    """Location and scale of every numeric feature, named as the model's buffers.

    A feature that no site has observed keeps the middle of its range and half its width; one that
    does not vary keeps half the width, so that another value at prediction is no extreme one.

    Guarantees:
        - Whatever noise moments carry, locations are within the ranges, and scales above 0 and at
          most half the width.
        - The more noise there is, the nearer are location and scale to the middle of the range and
          half its width, as without any moments.

    Args:
        moments: the moments of all sites together (`moments_manifest`).
    """
    named = moments.unpack()
    noise_variance = float(named.get(NOISE_VARIANCE, np.zeros(1))[0])
    buffers: dict[str, Floats] = {}
    for name, granularity in study.granularities.items():
        if not granularity.numeric:
            continue
        middle, half = half_ranges(study, name)
        count, total, squares = (named[f"{name}.{moment}"].astype(np.float64) for moment in MOMENTS)
        if NOISE_VARIANCE in named:
            mean, deviation = _noised_fit(count, total, squares, noise_variance)
        else:
            observed = np.maximum(count, 1)
            mean = total / observed
            deviation = np.sqrt(np.maximum(squares / observed - mean**2, 0.0))
        deviation = np.where((count > 1) & (deviation > _SMALLEST_DEVIATION), deviation, 1.0)
        buffers[f"encoders.{name}.location"] = middle + half * mean
        buffers[f"encoders.{name}.scale"] = half * deviation
    return buffers


def _noised_fit(
    count_F: Floats, sum_F: Floats, squares_F: Floats, noise_variance: float
) -> tuple[Floats, Floats]:
    """Mean and deviation from noised moments, in half ranges, each (F,).

    The mean is drawn towards 0, as far as a mean of n values with this noise says less than knowing
    that means are about `_EXPECTED_MEAN`; the variance counts as no less than its own error. So the
    inputs of a model stay small, which is what matters: with the plain formula, noise of a tenth of
    the patients makes some deviations vanish (of features with deviations of .08 to .4, 5 % then
    have inputs of 10^5), and a floor of .05 leaves inputs of 7 to as many. With this rule 99.9 % of
    features have inputs of at most 2.0 (root mean squares, one simulation), for noises of 3 to 250
    and 100 to 3,000 patients. Without noise it is the plain formula.
    """
    observed_F = np.maximum(count_F, 1.0)
    mean_F = sum_F * observed_F / (observed_F**2 + noise_variance / _EXPECTED_MEAN**2)
    mean_F = np.clip(mean_F, -1.0, 1.0)
    square_F = np.clip(squares_F / observed_F, 0.0, 1.0)
    variance_F = np.maximum(square_F - mean_F**2, np.sqrt(noise_variance) / observed_F)
    return mean_F, np.sqrt(np.clip(variance_F, 0.0, 1.0))
