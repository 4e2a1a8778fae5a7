"""The outcomes of a study: what is predicted of a patient, by kind.

Each kind has one section here, one head in `common/models/heads.py` and its mergeable statistics in
`common/metrics`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.contract import Section
from common.fields import (
    Finite,
    Name,
    NonNegative,
    Positive,
    check_categories,
    check_cut_points,
    check_log_range,
    check_range,
)


class ClassOutcome(Section):
    """A column with one of the classes, in the order of their labels.

    Attributes:
        weight: of this outcome's loss, where a study has several.
        class_weights: of each class in the loss, public; none: all alike.
        focal_gamma: γ of the focal loss (Lin et al. 2017, equation 4), which turns the loss towards
            patients who are hard to tell; 0 is the cross entropy.
    """

    kind: Literal["binary", "multiclass"]
    column: Name
    classes: tuple[str, ...]
    class_weights: tuple[Positive, ...] = ()
    focal_gamma: NonNegative = 0.0
    weight: Positive = 1.0

    _differ = field_validator("classes")(check_categories)

    @model_validator(mode="after")
    def _classes_fit_the_kind(self) -> Self:
        num_expected = "2" if self.kind == "binary" else "3 or more"
        fits = len(self.classes) == 2 if self.kind == "binary" else len(self.classes) >= 3
        if not fits:
            raise ValueError(
                f"expected {num_expected} different, non-empty classes for kind = '{self.kind}', "
                f"found {len(self.classes)}"
            )
        if self.class_weights and len(self.class_weights) != len(self.classes):
            raise ValueError(
                f"expected one of class_weights for each of the {len(self.classes)} classes, found "
                f"{len(self.class_weights)}"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the patients' table that belong to this outcome."""
        return (self.column,)


class RegressionOutcome(Section):
    """A quantity, such as a length of stay or a cost.

    Attributes:
        range: plausible; values outside are clipped to it, and counted.
        scale: on which scale errors are squared in training: "log" is log(1 + value), for
            quantities of many magnitudes, whose range must then start at 0 or more.
    """

    kind: Literal["regression"]
    column: Name
    unit: str
    range: tuple[Finite, Finite]
    scale: Literal["linear", "log"] = "linear"
    weight: Positive = 1.0

    _ascending = field_validator("range")(check_range)

    @model_validator(mode="after")
    def _log_of_what_is_not_negative(self) -> Self:
        if self.scale == "log":
            check_log_range(self.range)
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the patients' table that belong to this outcome."""
        return (self.column,)


class SurvivalOutcome(Section):
    """The time to an event, or to the end of observation (censoring).

    Attributes:
        time_column: time since the start of observation, in `unit`, 0 or more.
        event_column: 1 where the event happened at that time, 0 where observation ended.
        cut_points: ends of the intervals of discrete time, ascending; the first starts at 0.
        loss: "discrete_time": the likelihood of the hazard in each interval, a sum over patients,
            so that it can be made private; "cox": the partial likelihood, in which patients are
            compared with one another, and which can not.
        proportional: one risk for all intervals, beside a baseline hazard for each
            ("discrete_time"); otherwise each interval has a risk of its own.
    """

    kind: Literal["survival"]
    time_column: Name
    event_column: Name
    unit: str
    cut_points: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=200)]
    loss: Literal["discrete_time", "cox"] = "discrete_time"
    proportional: bool = True
    weight: Positive = 1.0

    _ascend = field_validator("cut_points")(check_cut_points)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the patients' table that belong to this outcome."""
        return (self.time_column, self.event_column)


AnyOutcome = Annotated[
    ClassOutcome | RegressionOutcome | SurvivalOutcome, Field(discriminator="kind")
]
