"""What hospitals told beside their metrics, read alike for groups of patients and attributions."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from common.metrics.evaluation import from_flat
from common.metrics.statistics import EvaluationSums
from common.study import Study

Told = TypeVar("Told")


def told_by_site(
    metrics_by_site: Mapping[str, Mapping[str, Sequence[float]]],
    study: Study,
    *,
    is_told: Callable[[str], bool],
    read: Callable[[Study, Mapping[str, Sequence[float]], dict[str, EvaluationSums]], Told],
) -> dict[str, Told]:
    """What each site told in one round, in the order of their names; what is malformed is not told.

    Args:
        is_told: whether a statistic of this name is part of it.
        read: makes it of a site's statistics, and of those of all its patients. Raises ValueError
            where they are malformed.
    """
    found: dict[str, Told] = {}
    for site, metrics in sorted(metrics_by_site.items()):
        if any(map(is_told, metrics)):
            with suppress(ValueError):
                found[site] = read(study, metrics, from_flat(study, metrics))
    return found
