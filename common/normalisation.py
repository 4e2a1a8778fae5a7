"""Federated normalisation: moments within public ranges, summed over sites, to centre and scale.

Values are first mapped from the study's plausible range onto [-1, 1], so that sums are bounded by
the number of patients and lose no digits. No minimum, maximum or vocabulary is ever sent.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from common.arrays import Arrays, Block, Manifest
from common.study import Study

MOMENTS = ("count", "sum", "sum_squares")
# As a part of half the range: below this a feature does not vary, but for rounding. The spread of a
# skewed quantity is far above it, even within a range that holds its rarest extremes.
_SMALLEST_DEVIATION = 1e-6


def moments_manifest(study: Study) -> Manifest:
    """Names and shapes of the moments that a site sends: three vectors (F,) a granularity.

    Granularities without measured quantities (images, notes) have none.
    """
    return tuple(
        Block(name=f"{name}.{moment}", shape=(len(granularity.numeric),))
        for name, granularity in study.granularities.items()
        if granularity.numeric
        for moment in MOMENTS
    )


def add_moments(sites: Iterable[Arrays]) -> Arrays:
    """The sum of the moments of several sites, in the order given. Raises ValueError for none."""
    parts = list(sites)
    if not parts:
        raise ValueError("expected the moments of one site or more, found none")
    return Arrays(
        manifest=parts[0].manifest, flat=np.sum([p.flat for p in parts], axis=0, dtype=np.float64)
    )


def half_ranges(study: Study, granularity: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle and half the width of each numeric feature's plausible range, shapes (F,)."""
    features = study.granularities[granularity].numeric.values()
    bounds = np.asarray([f.range for f in features], dtype=np.float64).reshape(-1, 2)
    return bounds.mean(axis=1), (bounds[:, 1] - bounds[:, 0]) / 2


def normalisation_of(study: Study, moments: Arrays) -> dict[str, NDArray[np.float64]]:
    """Location and scale of every numeric feature, named as the model's buffers.

    A feature that no site has observed keeps the middle of its range and half its width; one that
    does not vary keeps half the width, so that another value at prediction is no extreme one.

    Args:
        moments: the moments of all sites together (`moments_manifest`).
    """
    named = moments.unpack()
    buffers: dict[str, NDArray[np.float64]] = {}
    for name, granularity in study.granularities.items():
        if not granularity.numeric:
            continue
        middle, half = half_ranges(study, name)
        count, total, squares = (named[f"{name}.{moment}"] for moment in MOMENTS)
        observed = np.maximum(count, 1)
        mean = total / observed
        deviation = np.sqrt(np.maximum(squares / observed - mean**2, 0.0))
        deviation = np.where((count > 1) & (deviation > _SMALLEST_DEVIATION), deviation, 1.0)
        buffers[f"encoders.{name}.location"] = middle + half * mean
        buffers[f"encoders.{name}.scale"] = half * deviation
    return buffers
