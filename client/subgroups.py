"""Statistics of groups of held-out patients, and which of them may leave together.

A group that is large enough may still give a small one away: all patients less those of a group,
the bands of age of the women alone. Here, where the patients are, every pair of unions of groups is
looked at before any group is told. The door (`client.egress`) looks at numbers once more.

Not looked at: what groups of three features give away together, where no two of them do; nor how a
group compares between two outcomes that as a whole are known of clearly different patients.

Letters of shapes: B patients, G groups of a feature, U and V unions of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, product

import numpy as np
from numpy.typing import NDArray

from client.evaluation import Outcomes, Predictions
from client.training import Patients
from common.features import CategoricalFeature
from common.granularities import TabularGranularity
from common.metrics.statistics import EvaluationSums
from common.metrics.subgroups import group_statistics_of, splits_of
from common.study import Study

# By feature, then by the key of a group: who belongs to it.
Members = Mapping[str, Mapping[str, NDArray[np.bool_]]]


def members_of(patients: Patients, study: Study) -> Members:
    """Who belongs to each group; a patient of whom the feature is not known belongs to none."""
    return {
        feature: {group.key: number_B == number for number, group in enumerate(groups)}
        for feature, groups in splits_of(study).items()
        for number_B in [_numbers_of(patients, study, feature)]
    }


def _numbers_of(patients: Patients, study: Study, feature: str) -> NDArray[np.int64]:
    """The number of each patient's group of this feature; -1 for none."""
    subgroup = next(s for s in study.evaluation.subgroups if s.feature == feature)
    for name, part in study.granularities.items():
        if not isinstance(part, TabularGranularity) or feature not in part.features:
            continue
        arrays = {key: value.cpu().numpy() for key, value in patients.inputs[name].items()}
        if isinstance(part.features[feature], CategoricalFeature):
            codes_B = arrays["codes_BK"][:, list(part.categorical).index(feature)]
            return codes_B.astype(np.int64) - 1
        place = list(part.numeric).index(feature)
        # As the values are held: .7 in 32 bits is below .7 in 64.
        edges = np.asarray(subgroup.edges, dtype=np.float32)
        number_B = np.searchsorted(edges, arrays["numeric_BF"][:, place], side="right")
        is_known_B = arrays["observed_BF"][:, place]
        return np.where(is_known_B, number_B, -1).astype(np.int64)
    raise ValueError(f"expected a tabular granularity with the feature {feature}, found none")


def group_sums(
    predictions: Predictions,
    outcomes: Outcomes,
    members: Members,
    study: Study,
    smallest_group: int,
) -> dict[str, dict[str, EvaluationSums]]:
    """The sums of each group that may be told, by its key and outcome.

    Guarantees:
        - Every group has at least `smallest_group` patients of whom the outcome is known.
        - From all patients and all groups of any two features no sum over fewer follows by adding
          up groups and taking differences.
        - Two outcomes of which groups are told are known of the same patients, or of sets that
          differ by at least `smallest_group`; else the later one has no groups. (How many of a
          group there are by outcome would tell who the few between them are.)
    """
    sums: dict[str, dict[str, EvaluationSums]] = {}
    earlier: list[NDArray[np.bool_]] = []
    for outcome, statistics in group_statistics_of(study).items():
        labels = outcomes[outcome]
        known_B = labels["known_B"].astype(np.bool_)
        if any(0 < (known_B ^ other_B).sum() < smallest_group for other_B in earlier):
            continue
        known = {
            feature: {key: of_B[known_B] for key, of_B in groups.items()}
            for feature, groups in members.items()
        }
        told = told_groups(known, int(known_B.sum()), smallest_group)
        if told:
            earlier.append(known_B)
        for groups in members.values():
            for key in (k for k in groups if k in told):
                chosen_B = groups[key]
                of_group = {name: value[chosen_B] for name, value in labels.items()}
                sums.setdefault(key, {})[outcome] = statistics.sums_of(
                    predictions[outcome][chosen_B], of_group
                )
    return sums


def told_groups(members: Members, num_patients: int, smallest_group: int) -> set[str]:
    """The groups of which one may tell beside all patients.

    The smallest group that gives something away stays untold, until none does.

    Args:
        members: of patients with a known outcome; the groups of one feature share nobody.
    """
    if num_patients < smallest_group:
        return set()
    told = {
        feature: [key for key, of_B in groups.items() if of_B.sum() >= smallest_group]
        for feature, groups in members.items()
    }
    while (breach := _breach(members, told, smallest_group)) is not None:
        keys = [(int(members[f][k].sum()), k, f) for f in breach for k in told[f]]
        _, key, feature = min(keys)
        told[feature].remove(key)
    return set(chain.from_iterable(told.values()))


def _breach(
    members: Members, told: Mapping[str, Sequence[str]], smallest_group: int
) -> tuple[str, ...] | None:
    """The features of which two unions differ by a small group; None where none do.

    Two unions A and B, which may be of nobody, tell the difference of their sums, and with all
    patients that of A and those outside of B.
    """
    groups = {f: np.array([members[f][key] for key in keys], float) for f, keys in told.items()}
    features = [feature for feature, keys in told.items() if keys]
    pairs: Iterator[tuple[str, ...]] = chain(((f,) for f in features), combinations(features, 2))
    for pair in pairs:
        first_GB = groups[pair[0]]
        # Beside one feature alone: nobody.
        second_GB = groups[pair[1]] if len(pair) == 2 else np.zeros((0, first_GB.shape[1]))
        first_UG, second_UG = unions_of(len(first_GB)), unions_of(len(second_GB))
        size_U, size_V = first_UG @ first_GB.sum(axis=1), second_UG @ second_GB.sum(axis=1)
        both_UV = first_UG @ (first_GB @ second_GB.T) @ second_UG.T
        apart_UV = size_U[:, None] + size_V[None] - 2 * both_UV
        rest_UV = first_GB.shape[1] - apart_UV
        for few_UV in (apart_UV, rest_UV):
            if ((few_UV > 0) & (few_UV < smallest_group)).any():
                return pair
    return None


def unions_of(num_groups: int) -> NDArray[np.float64]:
    """Which groups are in each union of them, nobody's among them, shape (2^G, G)."""
    union_UG = np.array(list(product((0.0, 1.0), repeat=num_groups)))
    return union_UG.reshape(2**num_groups, num_groups)
