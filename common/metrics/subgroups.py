"""Statistics of groups of patients (sex, bands of age): which may be released, and what they give.

They are coarser than those of all patients: a group is smaller, and what a histogram tells of
scores, it would tell of scores beside the group that a patient is in. A private study has none.

On the wire a statistic is called FEATURE:NUMBER.OUTCOME.STATISTIC, groups numbered from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from common.features import Feature
from common.granularities import TabularGranularity
from common.metrics.classification import ClassStatistics
from common.metrics.regression import RegressionStatistics
from common.metrics.statistics import EvaluationSums, Statistics
from common.metrics.survival import SurvivalStatistics
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.privacy.sections import PatientPrivacy
from common.study import Study
from common.subgroups import labels_of

_SCORE_BINS, _TIME_BINS, _RISK_BINS = 20, 33, 32


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of patients.

    Attributes:
        key: its name on the wire, FEATURE:NUMBER.
        label: what people call it.
    """

    key: str
    feature: str
    label: str


def splits_of(study: Study) -> dict[str, tuple[Group, ...]]:
    """The groups of each feature that the study names; none where patients are protected."""
    if isinstance(study.privacy, PatientPrivacy):
        return {}
    features = features_of(study)
    return {
        s.feature: tuple(
            Group(key=f"{s.feature}:{i}", feature=s.feature, label=label)
            for i, label in enumerate(labels_of(s, features[s.feature]))
        )
        for s in study.evaluation.subgroups
    }


def features_of(study: Study) -> dict[str, Feature]:
    """The features of the study's tables, by name."""
    return {
        name: feature
        for part in study.granularities.values()
        if isinstance(part, TabularGranularity)
        for name, feature in part.features.items()
    }


def group_statistics_of(study: Study) -> dict[str, Statistics]:
    """The statistics that a group may have, by outcome."""
    bins = min(study.evaluation.score_bins, _SCORE_BINS)
    return {name: _of_outcome(outcome, bins) for name, outcome in study.outcomes.items()}


def _of_outcome(outcome: AnyOutcome, score_bins: int) -> Statistics:
    if isinstance(outcome, ClassOutcome):
        return ClassStatistics(num_classes=len(outcome.classes), score_bins=score_bins)
    if isinstance(outcome, RegressionOutcome):
        return RegressionStatistics(range=outcome.range)
    return SurvivalStatistics(
        cut_points=outcome.cut_points,
        has_likelihood=outcome.loss == "discrete_time",
        time_bins=_TIME_BINS,
        risk_bins=_RISK_BINS,
    )


def group_sizes(study: Study) -> dict[str, int]:
    """The name and number of elements of every statistic of a group that may be released."""
    return {
        f"{group.key}.{outcome}.{name}": prod(shape)
        for groups in splits_of(study).values()
        for group in groups
        for outcome, statistics in group_statistics_of(study).items()
        for name, shape in statistics.shapes().items()
    }


def group_prefixes(study: Study) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Of each outcome and feature: the prefix of all patients, and those of the groups."""
    return tuple(
        (f"{outcome}.", tuple(f"{group.key}.{outcome}." for group in groups))
        for outcome in study.outcomes
        for groups in splits_of(study).values()
    )


def is_of_group(name: str) -> bool:
    """Whether a statistic is one of a group.

    >>> is_of_group("sex:0.event.confusion"), is_of_group("event.confusion")
    (True, False)
    """
    return ":" in name.partition(".")[0]


def groups_from_flat(
    study: Study, flat: Mapping[str, Sequence[float]], whole: Mapping[str, EvaluationSums]
) -> dict[str, dict[str, EvaluationSums]]:
    """The sums of each group that was sent, by its key and outcome.

    Args:
        whole: of all patients of the same reply, by outcome.

    Raises:
        ValueError: a group's statistics are malformed, or the groups of one feature have more than
            all patients have.
    """
    found: dict[str, dict[str, EvaluationSums]] = {}
    for outcome, statistics in group_statistics_of(study).items():
        for groups in splits_of(study).values():
            sent = {}
            for group in groups:
                prefix = f"{group.key}.{outcome}."
                named = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
                if named:
                    sent[group.key] = statistics.read(named)
            if sent:
                _check_parts(list(sent.values()), whole.get(outcome))
            for key, sums in sent.items():
                found.setdefault(key, {})[outcome] = sums
    return found


def _check_parts(parts: Sequence[EvaluationSums], whole: EvaluationSums | None) -> None:
    """Every statistic is a sum of what is 0 or more: parts add up to no more than the whole."""
    if whole is None:
        raise ValueError("expected statistics of all patients beside those of groups, found none")
    for name, value in whole.sums.items():
        of_parts = [part.sums[name] for part in parts if part.has(name)]
        if of_parts and of_parts[0].shape == value.shape:
            most = value * (1 + 1e-9) + 1e-6
            if (np.sum(of_parts, axis=0) > most).any():
                raise ValueError("expected groups that are parts of all patients, found more")
