"""The sections of outcomes: what a study may say is predicted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome, SurvivalOutcome

LEAST: dict[str, dict[str, Any]] = {
    "binary": {"kind": "binary", "column": "event", "classes": ["no", "yes"]},
    "multiclass": {"kind": "multiclass", "column": "stage", "classes": ["a", "b", "c"]},
    "regression": {"kind": "regression", "column": "days", "unit": "days", "range": [0, 60]},
    "survival": {
        "kind": "survival",
        "time_column": "days",
        "event_column": "died",
        "unit": "days",
        "cut_points": [30, 90],
    },
}
CLASS_OF = {
    "binary": ClassOutcome,
    "multiclass": ClassOutcome,
    "regression": RegressionOutcome,
    "survival": SurvivalOutcome,
}
KINDS = sorted(LEAST)


def section(kind: str, **fields: object) -> Any:
    return TypeAdapter(AnyOutcome).validate_python({**LEAST[kind], **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_chooses_the_section(kind: str) -> None:
    assert type(section(kind)) is CLASS_OF[kind]
    assert section(kind).kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_section_reads_back_from_its_own_dump(kind: str) -> None:
    found = section(kind)
    assert TypeAdapter(AnyOutcome).validate_python(found.model_dump(mode="json")) == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_no_section_knows_is_an_error(kind: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        section(kind, colour="red")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf")])
def test_the_weight_of_an_outcome_is_positive_and_finite(kind: str, weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        section(kind, weight=weight)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_most_outcomes_have_one_column(kind: str) -> None:
    assert section(kind).columns == (section(kind).column,)


def test_survival_has_a_column_of_times_and_one_of_events() -> None:
    assert section("survival").columns == ("days", "died")


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("binary", ["no"]),
        ("binary", ["no", "yes", "maybe"]),
        ("multiclass", ["no", "yes"]),
        ("multiclass", []),
    ],
)
def test_the_number_of_classes_fits_the_kind(kind: str, classes: list[str]) -> None:
    with pytest.raises(ValidationError, match=f"kind = '{kind}', found {len(classes)}"):
        section(kind, classes=classes)


@pytest.mark.parametrize("classes", [["no", "no"], ["no", ""], ["no", "NA"], ["nan", "yes"]])
def test_classes_differ_and_none_reads_as_missing(classes: list[str]) -> None:
    with pytest.raises(ValidationError, match="expected categories"):
        section("binary", classes=classes)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0, 4.0]])
def test_there_is_a_weight_for_each_class_or_none(weights: list[float]) -> None:
    with pytest.raises(ValidationError, match=f"each of the 3 classes, found {len(weights)}"):
        section("multiclass", class_weights=weights)


def test_class_weights_are_positive() -> None:
    with pytest.raises(ValidationError, match="class_weights"):
        section("binary", class_weights=[1.0, 0.0])


def test_the_focal_gamma_is_not_negative() -> None:
    assert section("binary", focal_gamma=0.0).focal_gamma == 0.0
    with pytest.raises(ValidationError, match="focal_gamma"):
        section("binary", focal_gamma=-0.5)


@pytest.mark.parametrize("bounds", [[1, 1], [2, 1], [0, float("inf")]])
def test_a_range_is_finite_and_ascends(bounds: list[float]) -> None:
    with pytest.raises(ValidationError, match="range"):
        section("regression", range=bounds)


def test_a_logarithm_needs_values_of_0_or_more() -> None:
    assert section("regression", scale="log").scale == "log"
    assert section("regression", range=[-1, 1]).range == (-1, 1)
    with pytest.raises(ValidationError, match="scale = 'log', found -1"):
        section("regression", range=[-1, 1], scale="log")


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=20))
def test_cut_points_are_accepted_exactly_if_they_ascend(points: list[float]) -> None:
    if points == sorted(set(points)):
        assert section("survival", cut_points=points).cut_points == tuple(points)
    else:
        with pytest.raises(ValidationError, match="ascend"):
            section("survival", cut_points=points)


@pytest.mark.parametrize(
    "points", [[], [0.0, 1.0], [-1.0], [float("inf")], [float(i + 1) for i in range(201)]]
)
def test_cut_points_are_positive_finite_and_at_most_200(points: list[float]) -> None:
    with pytest.raises(ValidationError, match="cut_points"):
        section("survival", cut_points=points)


UNFIT = [
    ("range", [0, 1e39]),
    ("range", [0, 1e-46]),
    ("range", [1e9, 1e9 + 1]),
    ("range", [-1e308, 1e308]),
    ("range", [1e16, 1e16 + 2]),
]


@pytest.mark.parametrize(("key", "value"), UNFIT)
def test_a_range_that_32_bits_cannot_hold_is_refused(key: str, value: list[float]) -> None:
    table = {"kind": "regression", "column": "days", "unit": "days", key: value}
    with pytest.raises(ValidationError, match="differ in 32 bits"):
        RegressionOutcome.model_validate(table)


def test_a_range_may_differ_in_32_bits_and_not_on_the_log_scale() -> None:
    table = {"kind": "regression", "column": "c", "unit": "EUR", "range": [1e11, 1e11 + 2e4]}
    RegressionOutcome.model_validate(table)
    with pytest.raises(ValidationError, match="on scale = 'log'"):
        RegressionOutcome.model_validate(table | {"scale": "log"})


@pytest.mark.parametrize("cuts", [[1.0, 1.00000000001, 2.0], [1.0, 1e13], [1e-46, 1.0]])
def test_cut_points_that_32_bits_cannot_hold_are_refused(cuts: list[float]) -> None:
    table = {"kind": "survival", "time_column": "t", "event_column": "e", "unit": "d"}
    with pytest.raises(ValidationError, match="differ in 32 bits"):
        SurvivalOutcome.model_validate(table | {"cut_points": cuts})
