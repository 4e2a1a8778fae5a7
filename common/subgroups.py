"""Groups of patients by which a model is also judged: the categories of a feature, or its bands.

A study names the features, so that everybody agrees beforehand; what a group is, is public.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from common.contract import Section
from common.features import CategoricalFeature, Feature
from common.fields import Finite, Name

# A hospital looks at every pair of unions of groups before it tells of any.
MOST_GROUPS = 8
MOST_FEATURES = 4


class Subgroup(Section):
    """A feature of a table whose categories, or bands between `edges`, are groups of patients.

    Attributes:
        edges: of a numeric feature: the first band is below the first edge, the last from the last
            edge on. None of a categorical one.
    """

    feature: Name
    edges: Annotated[tuple[Finite, ...], Field(max_length=MOST_GROUPS - 1)] = ()

    @field_validator("edges")
    @classmethod
    def _ascend(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise ValueError("expected edges that ascend")
        return value


def _named(value: Any) -> Any:
    return {"feature": value} if isinstance(value, str) else value


# In a study, the name of a feature alone stands for its categories.
AnySubgroup = Annotated[Subgroup, BeforeValidator(_named)]


def check_subgroups(subgroups: tuple[Subgroup, ...], features: Mapping[str, Feature]) -> None:
    """Nothing. Raises ValueError unless each is of another feature, and fits its kind.

    Args:
        features: of the study's tables, by name.
    """
    names = [s.feature for s in subgroups]
    unknown = sorted(set(names) - set(features))
    if unknown:
        raise ValueError(
            "expected features of tabular granularities in evaluation.subgroups, found "
            f"{', '.join(unknown)}"
        )
    if len(set(names)) != len(names):
        raise ValueError("expected each feature once in evaluation.subgroups, found one repeated")
    for subgroup in subgroups:
        _check_fit(subgroup, features[subgroup.feature])


def _check_fit(subgroup: Subgroup, feature: Feature) -> None:
    name = subgroup.feature
    if isinstance(feature, CategoricalFeature):
        if subgroup.edges:
            raise ValueError(f"expected no edges of the categories of {name}, found some")
        if len(feature.categories) > MOST_GROUPS:
            raise ValueError(
                f"expected at most {MOST_GROUPS} categories of {name} in evaluation.subgroups, "
                f"found {len(feature.categories)}"
            )
        return
    low, high = feature.range
    if not subgroup.edges:
        raise ValueError(
            f"expected edges of the bands of {name}, which is numeric, found none: write "
            f'{{ feature = "{name}", edges = [...] }}'
        )
    if not low < subgroup.edges[0] <= subgroup.edges[-1] < high:
        raise ValueError(f"expected edges of {name} within its range [{low:g}, {high:g}]")


def labels_of(subgroup: Subgroup, feature: Feature) -> tuple[str, ...]:
    """What each group is called, in order.

    >>> from common.features import NumericFeature
    >>> age = NumericFeature(unit="years", range=(0, 100))
    >>> labels_of(Subgroup(feature="age", edges=(45, 65)), age)
    ('below 45 years', '45 to < 65 years', 'from 65 years on')
    """
    if isinstance(feature, CategoricalFeature):
        return feature.categories
    edges = [f"{edge:g}" for edge in subgroup.edges]
    between = [f"{low} to < {high} {feature.unit}" for low, high in pairwise(edges)]
    return (f"below {edges[0]} {feature.unit}", *between, f"from {edges[-1]} {feature.unit} on")
