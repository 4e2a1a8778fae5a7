"""Groups of patients in the results: the metrics of the last model, pooled and by hospital."""

from collections.abc import Mapping, Sequence
from typing import Any

from common.metrics.statistics import EvaluationSums
from common.metrics.subgroups import (
    group_statistics_of,
    groups_from_flat,
    is_of_group,
    splits_of,
)
from common.study import Study
from server.report.told import told_by_site

# By the key of a group, then by site and outcome.
GroupSums = dict[str, dict[str, dict[str, EvaluationSums]]]


def group_sums_of(
    metrics_by_site: Mapping[str, Mapping[str, Sequence[float]]], study: Study
) -> GroupSums:
    """The sums of groups that sites sent in one round; malformed ones count as not sent."""
    by_site = told_by_site(metrics_by_site, study, is_told=is_of_group, read=groups_from_flat)
    found: GroupSums = {}
    for site, groups in by_site.items():
        for key, sums in groups.items():
            found.setdefault(key, {})[site] = sums
    return found


def pooled_sums(by_site: Mapping[str, Mapping[str, EvaluationSums]]) -> dict[str, EvaluationSums]:
    """The sums of one group over all sites that told of it, by outcome."""
    pooled: dict[str, EvaluationSums] = {}
    for sums in by_site.values():
        for outcome, evaluated in sums.items():
            pooled[outcome] = pooled[outcome] + evaluated if outcome in pooled else evaluated
    return pooled


def subgroups_of(
    rounds: Mapping[int, Mapping[str, Mapping[str, Sequence[float]]]], study: Study
) -> dict[str, Any] | None:
    """The entry of the results; None where the study names no feature.

    Args:
        rounds: the statistics that sites sent, by round and site.
    """
    if not study.evaluation.subgroups:
        return None
    statistics = group_statistics_of(study)
    told: dict[str, Any] = {"round": None, "groups": []}
    for number in sorted(rounds, reverse=True):
        sums = group_sums_of(rounds[number], study)
        if sums:
            told["round"] = number
            break
    else:
        return told
    for groups in splits_of(study).values():
        for group in groups:
            by_site = sums.get(group.key, {})
            told["groups"].append(
                {
                    "feature": group.feature,
                    "label": group.label,
                    "pooled": {
                        outcome: statistics[outcome].metrics_of(evaluated)
                        for outcome, evaluated in pooled_sums(by_site).items()
                    },
                    "sites": {
                        site: {name: statistics[name].metrics_of(s) for name, s in of_site.items()}
                        for site, of_site in by_site.items()
                    },
                }
            )
    return told
