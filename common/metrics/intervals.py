"""Intervals of proportions and of counts, of exact counts and of those that carry noise."""

from dataclasses import dataclass
from math import sqrt

Z = 1.96
# A report travels further than a journal does: it tells of no fewer patients together.
FEWEST = 10


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A part of some patients, from 0 to 1, and its 95 % interval."""

    value: float
    interval: tuple[float, float]


def proportion(
    hits: float, misses: float, *, hits_noise: float = 0.0, misses_noise: float = 0.0
) -> Proportion:
    """Hits as a part of both, with Wilson's interval, widened by what noise in the counts does.

    Guarantees:
        - About 95 of 100 intervals hold the true part, with and without noise.

    Args:
        hits, misses: counts; with noise they may be negative, but not both together.
        hits_noise, misses_noise: the variance of the noise in each.

    Raises:
        ValueError: there is nobody.

    Source: Wilson 1927, JASA 22:209.

    >>> [round(end, 3) for end in proportion(5.0, 45.0).interval]
    [0.043, 0.214]
    """
    n = hits + misses
    if n <= 0:
        raise ValueError(f"expected somebody to tell a part of, found {n}")
    # Of counts that carry noise, a part may be more than the whole.
    value = min(max(hits / n, 0.0), 1.0)
    sampling = value * (1 - value) / n + Z**2 / (4 * n**2)
    noise = (hits_noise * (1 - value) ** 2 + misses_noise * value**2) / n**2
    shrink = 1 + Z**2 / n
    middle = (value + Z**2 / (2 * n)) / shrink
    half = Z * sqrt(sampling / shrink**2 + noise)
    return Proportion(value=value, interval=(max(middle - half, 0.0), min(middle + half, 1.0)))


def auroc_error(auroc: float, num_positives: float, num_negatives: float) -> float:
    """The standard deviation of an AUROC of so few patients.

    Source: Hanley and McNeil 1982, Radiology 143:29, equation 1.

    >>> round(auroc_error(0.8, 50, 100), 4)
    0.0412
    """
    of_two_positives = auroc / (2 - auroc)
    of_two_negatives = 2 * auroc**2 / (1 + auroc)
    variance = (
        auroc * (1 - auroc)
        + (num_positives - 1) * (of_two_positives - auroc**2)
        + (num_negatives - 1) * (of_two_negatives - auroc**2)
    ) / (num_positives * num_negatives)
    return sqrt(max(variance, 0.0))
