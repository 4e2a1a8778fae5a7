"""The features of a patient: numbers with a unit and a range, and categories from a closed list."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from common.contract import Section
from common.fields import Finite, check_categories, check_range


class NumericFeature(Section):
    """A measured quantity. Values outside `range` are clipped to it, and counted.

    Attributes:
        unit: what one unit of the column is, as people write it ("mmHg").
        range: the plausible range, from public knowledge and not from the data.
        missing_codes: values that mean "not measured" (a cholesterol of 0).
        infinite: what an infinite value is taken for, by its sign: an error of the file, or the
            nearer end of the range ("above what the instrument can measure").
    """

    kind: Literal["numeric"] = "numeric"
    unit: str
    range: tuple[Finite, Finite]
    missing_codes: tuple[Finite, ...] = ()
    infinite: Literal["error", "clip"] = "error"

    _ascending = field_validator("range")(check_range)


class CategoricalFeature(Section):
    """A quality with a public, closed list of categories; anything else is unknown, and counted."""

    kind: Literal["categorical"]
    categories: Annotated[tuple[str, ...], Field(min_length=2)]

    _differ = field_validator("categories")(check_categories)


Feature = Annotated[NumericFeature | CategoricalFeature, Field(discriminator="kind")]
