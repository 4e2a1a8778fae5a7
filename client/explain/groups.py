"""How well the model does by group of patients: by sex, by age, by any feature that is asked for.

A group of fewer patients than the policy's `smallest_group` is not judged.

Letters of shapes: B patients, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from client.explain.subject import Part, Subject
from common.errors import StudyError
from common.features import CategoricalFeature, NumericFeature
from common.granularities import TabularGranularity
from common.metrics.resampling import (
    Estimate,
    Floats,
    auroc,
    concordance,
    draws,
    estimate,
    mean,
)
from common.metrics.survival import risk_of
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.study import Study

# What is looked at where nobody names features.
_SEX = ("sex", "gender")
_AGE = ("age", "age_years")
_AGE_EDGES = (40.0, 60.0, 80.0)
NOT_KNOWN = "not known"


@dataclass(frozen=True, kw_only=True)
class Group:
    """The held-out patients with one value of a feature.

    Attributes:
        num_patients: None where the group is too small to be judged.
        measures: by name; empty where the group is too small.
    """

    feature: str
    name: str
    num_patients: int | None
    measures: dict[str, Estimate]


def grouping_features(study: Study, asked: Sequence[str]) -> list[str]:
    """Those asked for, or else sex and age as far as the study has them.

    Raises:
        StudyError: the study has no such tabular feature.
    """
    features = _tabular_features(study)
    unknown = [name for name in asked if name not in features]
    if unknown:
        raise StudyError(
            f"Expected features of the study in --by ({', '.join(features)}), found "
            f"{', '.join(unknown)}. Name one of them."
        )
    if asked:
        return list(dict.fromkeys(asked))
    return [name for name in (*_SEX, *_AGE) if name in features]


def groups_of(subject: Subject, outcome: str, features: Sequence[str]) -> list[Group]:
    """All groups of each feature, and who the feature is not known of.

    Guarantees:
        - A group below the policy's `smallest_group` has no number at all.
        - Where the groups are of a number, their edges depend on no held-out patient.
    """
    test = subject.test
    known_B = test.known(outcome)
    groups = []
    for feature in features:
        names, place_B = _places(subject, feature)
        for place, name in enumerate(names):
            chosen_B = known_B & (place_B == place)
            if name == NOT_KNOWN and not chosen_B.any():
                continue
            is_enough = int(chosen_B.sum()) >= subject.smallest_group
            groups.append(
                Group(
                    feature=feature,
                    name=name,
                    num_patients=int(chosen_B.sum()) if is_enough else None,
                    measures=measures_of(subject, outcome, chosen_B) if is_enough else {},
                )
            )
    return groups


def measures_of(subject: Subject, name: str, chosen_B: NDArray[np.bool_]) -> dict[str, Estimate]:
    """What is measured of some held-out patients, by kind of outcome, with intervals."""
    part, outcome = subject.test, subject.study.outcomes[name]
    predicted_BP = part.predictions[name][chosen_B]
    arrays = {key: value[chosen_B] for key, value in part.cohort.outcomes[name].items()}
    drawn_RB = draws(len(predicted_BP))
    values = _values(outcome, predicted_BP, arrays, drawn_RB)
    return {measure: estimate(values_R) for measure, values_R in values.items()}


def _values(
    outcome: AnyOutcome,
    predicted_BP: Floats,
    arrays: dict[str, NDArray[np.generic]],
    drawn_RB: Floats,
) -> dict[str, Floats]:
    if isinstance(outcome, RegressionOutcome):
        error_B = predicted_BP[:, 0] - arrays["value_B"].astype(np.float64)
        return {
            f"mean absolute error, {outcome.unit}": mean(np.abs(error_B), drawn_RB),
            f"mean predicted minus observed, {outcome.unit}": mean(error_B, drawn_RB),
        }
    if not isinstance(outcome, ClassOutcome):
        event_B = arrays["event_B"].astype(np.bool_)
        time_B = arrays["time_B"].astype(np.float64)
        return {
            "C-index": concordance(risk_of(predicted_BP), time_B, event_B, drawn_RB),
            "observed events": mean(event_B.astype(np.float64), drawn_RB),
        }
    label_B = arrays["label_B"].astype(np.int64)
    right_B = (predicted_BP.argmax(axis=1) == label_B).astype(np.float64)
    if outcome.kind == "multiclass":
        aurocs = [
            auroc(predicted_BP[:, c], label_B == c, drawn_RB) for c in range(len(outcome.classes))
        ]
        return {
            "AUROC, mean of each class against the rest": np.mean(aurocs, axis=0),
            "accuracy": mean(right_B, drawn_RB),
        }
    p_B, is_positive_B = predicted_BP[:, 1], label_B == 1
    return {
        "AUROC": auroc(p_B, is_positive_B, drawn_RB),
        "accuracy": mean(right_B, drawn_RB),
        "mean predicted": mean(p_B, drawn_RB),
        "observed": mean(is_positive_B.astype(np.float64), drawn_RB),
    }


def _tabular_features(study: Study) -> dict[str, tuple[str, CategoricalFeature | NumericFeature]]:
    """The features of tabular granularities, with the granularity of each."""
    return {
        name: (granularity, feature)
        for granularity, plan in study.granularities.items()
        if isinstance(plan, TabularGranularity)
        for name, feature in plan.features.items()
    }


def _places(subject: Subject, name: str) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the groups of a feature, the last of them `NOT_KNOWN`; and who is in which."""
    granularity, feature = _tabular_features(subject.study)[name]
    plan = subject.study.granularities[granularity]
    if isinstance(feature, CategoricalFeature) and isinstance(plan, TabularGranularity):
        column = list(plan.categorical).index(name)
        code_B = subject.test.cohort.arrays[granularity]["codes_BK"][:, column]
        names = [*feature.categories, NOT_KNOWN]
        return names, np.where(code_B == 0, len(names) - 1, code_B - 1)
    column = list(plan.numeric).index(name)
    value_B, is_known_B = _numbers(subject.test, granularity, column)
    edges = _AGE_EDGES if name in _AGE else _thirds(*_numbers(subject.train, granularity, column))
    names = _band_names(edges)
    place_B = np.searchsorted(np.array(edges), value_B, side="right")
    return [*names, NOT_KNOWN], np.where(is_known_B, place_B, len(names))


def _numbers(part: Part, granularity: str, column: int) -> tuple[Floats, NDArray[np.bool_]]:
    arrays = part.cohort.arrays[granularity]
    return arrays["numeric_BF"][:, column].astype(np.float64), arrays["observed_BF"][:, column]


def _thirds(value_B: Floats, is_known_B: NDArray[np.bool_]) -> tuple[float, ...]:
    """Edges between thirds, of training patients; none where there is nobody to tell them."""
    if not is_known_B.any():
        return ()
    return tuple(float(q) for q in np.unique(np.quantile(value_B[is_known_B], [1 / 3, 2 / 3])))


def _band_names(edges: Sequence[float]) -> list[str]:
    """Names of the bands between edges.

    >>> _band_names((40.0, 60.0))
    ['below 40', '40 to below 60', '60 and above']
    """
    if not edges:
        return ["known"]
    inner = [f"{a:g} to below {b:g}" for a, b in pairwise(edges)]
    return [f"below {edges[0]:g}", *inner, f"{edges[-1]:g} and above"]
