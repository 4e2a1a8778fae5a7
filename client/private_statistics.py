"""Statistics that a private site releases: moments and the one evaluation, each through one noise.

Nothing else about patients is ever counted or summed for somebody else. Each function here takes
exact sums, bounds what one patient can have added to them by public shapes alone, and adds Gaussian
noise to all of them at once. Adjacency is *add or remove one patient*; the noise multiplier is the
plan's, whose charge the ledger holds before these are called.

Letters of shapes: F features, N coordinates of a release.
"""

from collections.abc import Iterator, Mapping
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from common.arrays import Arrays
from common.metrics.evaluation import noised_statistics_of, to_flat
from common.metrics.statistics import Labels
from common.normalisation import MOMENTS, NOISE_VARIANCE
from common.privacy.mechanisms import NoiseSource, add_gaussian
from common.study import Study

Floats = NDArray[np.float64]


def moments_sensitivity(study: Study) -> float:
    """How far one patient moves `moments_vector`, in the L2 norm: √Σ (1 + 2F), over granularities.

    A patient who has k of the F quantities of a granularity, with means u and mean squares s of
    each, adds

    - k / F to the mean count: at most 1, squared (k / F)² ≤ 1;
    - √2 (1 - k / F) or -√2 k / F to the deviations of the counts from it, for each that they have
      or lack: squared and summed 2k (F - k) / F;
    - u and 2s - 1, each within [-1, 1], for each that they have: squared and summed at most 2k.

    The last two are together at most 2k (2F - k) / F, which grows with k up to 2F at k = F; so all
    three are at most 1 + 2F. It is reached, by a patient with all values at an end of their ranges.

    The three plain sums would have 3F, as (1, u, s) has a norm of √3 at an end. For many features
    this noise is smaller by √(2/3), and in the sum of squares by another half; and the count of a
    feature has only the noise of a deviation, and that of the mean, which is one for all.
    """
    shapes = (len(granularity.numeric) for granularity in study.granularities.values())
    return sqrt(sum(1 + 2 * num_features for num_features in shapes if num_features))


def moments_vector(moments: Arrays, study: Study) -> Floats:
    """What noise is added to, shape (N,): a linear map of the moments (`moments_sensitivity`)."""
    parts = [np.empty(0)]
    for _, count_F, sum_F, squares_F in _by_granularity(moments, study):
        mean = count_F.mean(keepdims=True)
        parts += [mean, sqrt(2) * (count_F - mean), sum_F, 2 * squares_F - count_F]
    return np.concatenate(parts)


def private_moments(
    moments: Arrays, study: Study, noise_multiplier: float, source: NoiseSource
) -> Arrays:
    """The moments with noise, and its variance: what an enrolment releases.

    Guarantees:
        - One patient moves what the noise is added to by at most `moments_sensitivity`.
        - Every moment carries noise, and without noise the moments would come out as they were.

    Args:
        moments: exact ones of the training patients (`client.normalise.moments_of`).
    """
    sensitivity = moments_sensitivity(study)
    vector_N = moments_vector(moments, study)
    if vector_N.size:
        vector_N = add_gaussian(
            vector_N, sensitivity=sensitivity, noise_multiplier=noise_multiplier, source=source
        )
    return _moments_from(vector_N, moments, study, (noise_multiplier * sensitivity) ** 2)


def _moments_from(vector_N: Floats, like: Arrays, study: Study, noise_variance: float) -> Arrays:
    """The inverse of `moments_vector`: deviations are first made to add to 0, as they must."""
    named: dict[str, Floats] = {}
    start = 0
    for name, count_F, _, _ in _by_granularity(like, study):
        num_features = len(count_F)
        sizes = np.cumsum([1, num_features, num_features, num_features])
        mean, deviation_F, sum_F, chebyshev_F, _ = np.split(vector_N[start:], sizes)
        count_F = mean + (deviation_F - deviation_F.mean()) / sqrt(2)
        named[f"{name}.count"] = count_F
        named[f"{name}.sum"] = sum_F
        named[f"{name}.sum_squares"] = (chebyshev_F + count_F) / 2
        start += int(sizes[-1])
    named[NOISE_VARIANCE] = np.array([noise_variance])
    return Arrays.pack(named, dtype=np.float64)


def _by_granularity(moments: Arrays, study: Study) -> Iterator[tuple[str, Floats, Floats, Floats]]:
    """Name, count, sum and sum of squares of each granularity with measured quantities."""
    named = moments.unpack()
    for name, granularity in study.granularities.items():
        if granularity.numeric:
            count_F, sum_F, squares_F = (
                named[f"{name}.{moment}"].astype(np.float64) for moment in MOMENTS
            )
            yield name, count_F, sum_F, squares_F


def evaluation_sensitivity(study: Study) -> float:
    """How far one patient moves `evaluation_vector`, in the L2 norm: of all outcomes together.

    Raises `ValueError` unless the study protects its patients.
    """
    statistics = noised_statistics_of(study).values()
    return sqrt(sum(one.squared_sensitivity for one in statistics))


def evaluation_vector(
    predictions: Mapping[str, Floats], outcomes: Mapping[str, Labels], study: Study
) -> Floats:
    """What noise is added to, shape (N,): the sums of each outcome, one after the other."""
    return np.concatenate(
        [
            statistics.vector_of(predictions[name], outcomes[name])
            for name, statistics in noised_statistics_of(study).items()
        ]
    )


def private_evaluation(
    predictions: Mapping[str, Floats],
    outcomes: Mapping[str, Labels],
    study: Study,
    noise_multiplier: float,
    source: NoiseSource,
) -> dict[str, tuple[float, ...]]:
    """Noised statistics of all outcomes, named as in a reply: what the one evaluation releases.

    Guarantees:
        - One patient moves what the noise is added to by at most `evaluation_sensitivity`.
        - Nothing of it is exact: the number of patients follows from noised counts.
        - It is the same whether or not there are patients: nobody has noised statistics, too.

    Args:
        predictions: by outcome, of the held-out patients (B, P).
        outcomes: by outcome, then by array name ("known_B", …), of the same.

    Raises:
        ValueError: the study does not protect its patients.
    """
    sensitivity = evaluation_sensitivity(study)
    noisy_N = add_gaussian(
        evaluation_vector(predictions, outcomes, study),
        sensitivity=sensitivity,
        noise_multiplier=noise_multiplier,
        source=source,
    )
    variance = (noise_multiplier * sensitivity) ** 2
    sums, start = {}, 0
    for name, statistics in noised_statistics_of(study).items():
        end = start + len(statistics.vector_from(statistics.zero()))
        sums[name] = statistics.sums_from(noisy_N[start:end], variance)
        start = end
    return to_flat(sums)
