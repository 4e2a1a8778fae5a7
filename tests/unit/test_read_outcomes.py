"""Outcomes from the columns of the patients' table: arrays by hand, and every finding."""

import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from client.findings import Finding
from client.outcomes import LabelArrays, read_outcome, read_outcomes, without_rare
from client.sources.tables import read_table
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome

FILE = "patients.csv"


def outcome(**fields: object) -> AnyOutcome:
    return TypeAdapter[AnyOutcome](AnyOutcome).validate_python(fields)


CLASSES = outcome(kind="multiclass", column="stage", classes=["0", "1", "late"])
DAYS = outcome(kind="regression", column="days", unit="days", range=[0, 60])
SURVIVAL = outcome(
    kind="survival", time_column="days", event_column="died", unit="days", cut_points=[30, 90]
)


def table(**columns: list[str | None]) -> pd.DataFrame:
    """As `read_table` returns one: text, and NA where nothing stands."""
    return pd.DataFrame(columns, dtype="string")


def read(kind: AnyOutcome, **columns: list[str | None]) -> tuple[LabelArrays, list[Finding]]:
    return read_outcome(table(**columns), kind, file=FILE)


def sentences(findings: list[Finding]) -> list[str]:
    return [f"{f.severity}: {f.sentence()}" for f in findings]


def test_classes_become_their_place_in_the_study() -> None:
    arrays, findings = read(CLASSES, stage=["late", "0", "1"])
    assert findings == []
    assert arrays["label_B"].dtype == np.int64
    assert arrays["label_B"].tolist() == [2, 0, 1]
    assert arrays["known_B"].all()


def test_a_class_that_is_a_whole_number_may_be_written_as_a_float() -> None:
    arrays, findings = read(CLASSES, stage=["1.0", "0.0", "1"])
    assert findings == []
    assert arrays["label_B"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("classes", [["1", "1.0"], ["1.0", "1"]])
def test_a_class_named_like_the_float_of_another_is_itself(classes: list[str]) -> None:
    kind = outcome(kind="binary", column="y", classes=classes)
    arrays, _ = read(kind, y=["1", "1.0"])
    assert [classes[label] for label in arrays["label_B"]] == ["1", "1.0"]


def test_other_classes_are_counted_and_unknown() -> None:
    arrays, findings = read(CLASSES, stage=["late", "LATE", "2", " 0", "0"])
    assert sentences(findings) == [
        "error: Expected one of 0, 1, late, found 3 other values (patients.csv, column stage). "
        "Recode the column."
    ]
    assert arrays["label_B"].tolist() == [2, -1, -1, -1, 0]
    assert arrays["known_B"].tolist() == [True, False, False, False, True]


def test_missing_classes_are_unknown_and_a_warning() -> None:
    arrays, findings = read(CLASSES, stage=["late", None, None])
    assert sentences(findings) == [
        "warning: Expected an outcome, found 2 patients without one (patients.csv, column stage). "
        "It is not learned from them."
    ]
    assert arrays["label_B"].tolist() == [2, -1, -1]


@pytest.mark.parametrize("kind", [CLASSES, DAYS, SURVIVAL])
def test_a_column_that_is_not_there_is_an_error(kind: AnyOutcome) -> None:
    arrays, findings = read(kind, patient_id=["a", "b"])
    (finding,) = findings
    assert finding.severity == "error"
    assert finding.where == FILE
    assert finding.expected == f"the outcome column {', '.join(kind.columns)}"
    assert not arrays["known_B"].any()
    assert len(arrays["known_B"]) == 2


def test_only_the_absent_one_of_two_columns_is_named() -> None:
    _, findings = read(SURVIVAL, days=["1", "2"])
    assert [f.expected for f in findings] == ["the outcome column died"]


@pytest.mark.parametrize("kind", [CLASSES, DAYS])
def test_an_empty_column_is_an_error(kind: AnyOutcome) -> None:
    _, findings = read(kind, stage=[None, None], days=[None, None])
    assert [(f.severity, f.expected, f.found) for f in findings] == [("error", "outcomes", "none")]


@pytest.mark.parametrize(
    ("days", "died"), [([None, None], ["1", "0"]), (["3", "4"], [None, None]), ([None] * 2,) * 2]
)
def test_an_empty_column_of_times_or_events_is_an_error(
    days: list[str | None], died: list[str | None]
) -> None:
    arrays, findings = read(SURVIVAL, days=days, died=died)
    assert "error" in {f.severity for f in findings}
    assert not arrays["known_B"].any()


def test_quantities_are_read_in_every_way_that_numbers_are_written() -> None:
    arrays, findings = read(DAYS, days=["3", "3.0", "+3", "0.3e1", "300E-2"])
    assert findings == []
    assert arrays["value_B"].dtype == np.float32
    assert arrays["value_B"].tolist() == [3.0] * 5


def test_quantities_outside_the_range_are_clipped_and_counted() -> None:
    arrays, findings = read(DAYS, days=["-1", "61", "1e9", "60", None])
    assert sentences(findings) == [
        "warning: Expected an outcome, found 1 patients without one (patients.csv, column days). "
        "It is not learned from them.",
        "error: Expected values in [0, 60] days, found 3 of 4 values outside (patients.csv, "
        "column days). Check the unit, or widen the range in the study.",
    ]
    assert arrays["value_B"].tolist() == [0.0, 60.0, 60.0, 60.0, 0.0]
    assert arrays["known_B"].tolist() == [True, True, True, True, False]


def test_text_and_infinity_are_no_quantities() -> None:
    arrays, findings = read(DAYS, days=["ten", "inf", "-inf", "1e999", "5"])
    assert sentences(findings) == [
        "error: Expected numbers in days, found 4 cells of text or infinity (patients.csv, column "
        "days). Fix the column."
    ]
    assert arrays["known_B"].tolist() == [False, False, False, False, True]


def test_times_and_events_are_read_together() -> None:
    arrays, findings = read(SURVIVAL, days=["0", "30", "1e3"], died=["1", "0.0", "1.0"])
    assert findings == []
    assert arrays["time_B"].dtype == np.float32
    assert arrays["time_B"].tolist() == [0.0, 30.0, 1000.0]
    assert arrays["event_B"].tolist() == [True, False, True]
    assert arrays["known_B"].all()


def test_half_an_outcome_is_unknown_and_counted() -> None:
    arrays, findings = read(SURVIVAL, days=["1", "2", None, None], died=["1", None, "1", None])
    assert sentences(findings)[1:] == [
        "warning: Expected time and event together, found 2 patients with one of them "
        "(patients.csv, column died). These patients count as unknown."
    ]
    assert arrays["known_B"].tolist() == [True, False, False, False]
    assert arrays["time_B"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert arrays["event_B"].tolist() == [True, False, False, False]


@pytest.mark.parametrize("cell", ["yes", "2", "True", "-1", "0.5", "1.00"])
def test_an_event_that_is_neither_1_nor_0_is_an_error(cell: str) -> None:
    _, findings = read(SURVIVAL, days=["1", "2"], died=["1", cell])
    found = [f for f in findings if f.severity == "error"]
    assert [(f.expected, f.found) for f in found] == [
        ("1 (event) or 0 (censored)", "1 other values")
    ]


def test_a_negative_time_is_an_error() -> None:
    _, findings = read(SURVIVAL, days=["-0.5", "-3", "2"], died=["1", "0", "1"])
    assert sentences(findings) == [
        "error: Expected times of 0 or more, found 2 below (patients.csv, column days). Count time "
        "from the start of observation."
    ]


def test_infinite_and_written_out_times_are_an_error() -> None:
    _, findings = read(SURVIVAL, days=["inf", "soon", "2"], died=["1", "0", "1"])
    assert findings[0].severity == "error"
    assert findings[0].found == "2 cells of text or infinity"


def test_a_site_without_an_event_is_told() -> None:
    _, findings = read(SURVIVAL, days=["1", "2"], died=["0", "0"])
    assert sentences(findings) == [
        "warning: Expected an event or more, found none (patients.csv, column died). Training goes "
        "on; the C-index is undefined for this site."
    ]


# Words and numbers that stand in no message of ours unless a cell was copied into it.
CELL_WORD = "Qzx"
secret_cells = st.one_of(
    st.just(f"{CELL_WORD}, born 1941"),
    st.floats(7_000_000, 8_000_000).map(lambda x: f"{x:.3f}"),
    st.floats(-8_000_000, -7_000_000).map(lambda x: f"{x:.3f}"),
    st.sampled_from(["0", "1", "late", "inf"]),
    st.none(),
)


@pytest.mark.parametrize("kind", [CLASSES, DAYS, SURVIVAL], ids=["classes", "days", "survival"])
@given(cells=st.lists(st.tuples(secret_cells, secret_cells), min_size=1, max_size=8))
def test_no_cell_is_in_any_message_and_no_value_in_an_unknown_place(
    kind: AnyOutcome, cells: list[tuple[str | None, str | None]]
) -> None:
    one, other = (list(column) for column in zip(*cells, strict=True))
    arrays, findings = read(kind, stage=one, days=one, died=other)
    for sentence in sentences(findings):
        assert CELL_WORD not in sentence
        assert not re.search(r"\d{4}", sentence)
    unknown_B = ~arrays["known_B"]
    empty: dict[str, Any] = {"label_B": -1, "value_B": 0.0, "time_B": 0.0, "event_B": False}
    for name, value in empty.items():
        if name in arrays:
            assert (arrays[name][unknown_B] == value).all()
    assert all(np.isfinite(values).all() for values in arrays.values())


def test_typed_cells_of_parquet_read_as_the_text_of_csv(tmp_path: Path) -> None:
    # Integers, doubles with a null among them, and doubles that are events.
    typed = """SELECT * FROM (VALUES ('a', 0, 3.5::DOUBLE, 1.0::DOUBLE), ('b', 1, NULL, 0.0),
        ('c', NULL, 60.0, 0.0), ('d', 1, 0.0, NULL)) AS t(patient_id, stage, days, died)"""
    file = tmp_path / "patients.parquet"
    duckdb.sql(f"COPY ({typed}) TO '{file}' (FORMAT parquet)")
    cells, findings = read_table(file)
    assert cells is not None
    assert findings == []
    written: dict[str, list[str | None]] = {
        "stage": ["0", "1", None, "1"],
        "days": ["3.5", None, "60", "0"],
        "died": ["1", "0", "0", None],
    }
    for kind in (CLASSES, DAYS, SURVIVAL):
        arrays, findings = read_outcome(cells, kind, file=FILE)
        expected, expected_findings = read(kind, **written)
        assert sentences(findings) == sentences(expected_findings)
        for name, values in expected.items():
            np.testing.assert_array_equal(arrays[name], values)


@pytest.mark.parametrize("kind", [CLASSES, DAYS, SURVIVAL])
def test_a_table_without_rows_gives_empty_arrays_and_no_finding(kind: AnyOutcome) -> None:
    arrays, findings = read(kind, stage=[], days=[], died=[])
    assert findings == []
    assert {len(values) for values in arrays.values()} == {0}


def test_of_several_outcomes_a_hospital_may_lack_one() -> None:
    table = pd.DataFrame({"died": ["yes", "no"], "days": [pd.NA, pd.NA]}, dtype="object")
    arrays, findings = read_outcomes(
        table, {"death": _DIED, "stay": _DAYS, "cost": _COST}, file="patients.csv"
    )
    assert arrays["death"]["known_B"].all()
    assert not arrays["stay"]["known_B"].any()
    assert not arrays["cost"]["known_B"].any()
    assert [f.severity for f in findings] == ["warning", "warning"]
    assert "takes part without it" in findings[0].sentence()


def test_a_hospital_without_any_outcome_is_told_so() -> None:
    table = pd.DataFrame({"other": ["1"]}, dtype="object")
    _, findings = read_outcomes(table, {"death": _DIED, "stay": _DAYS}, file="patients.csv")
    assert [f.severity for f in findings] == ["error", "error"]


_DIED = ClassOutcome(kind="binary", column="died", classes=("no", "yes"))
_DAYS = RegressionOutcome(kind="regression", column="days", unit="days", range=(0, 9))
_COST = RegressionOutcome(kind="regression", column="cost", unit="EUR", range=(0, 9))


@pytest.mark.parametrize(("num_outside", "severity"), [(5, "warning"), (6, "error")])
def test_more_than_a_twentieth_of_quantities_outside_the_range_is_an_error(
    num_outside: int, severity: str
) -> None:
    days: list[str | None] = ["61"] * num_outside + ["30"] * (100 - num_outside)
    _, findings = read(DAYS, days=days)
    assert [(f.severity, f.found) for f in findings] == [
        (severity, f"{num_outside} of 100 values outside")
    ]


@pytest.mark.parametrize(
    ("time", "num", "told"),
    [
        ("2", 96, ["96 of 100 in the first interval (to 30)"]),
        ("2", 95, []),
        ("3000", 96, ["96 of 100 beyond the last one (90)"]),
        ("3000", 95, []),
    ],
)
def test_times_that_tell_nothing_by_the_intervals_are_told(
    time: str, num: int, told: list[str]
) -> None:
    days: list[str | None] = [time] * num + ["60"] * (100 - num)
    _, findings = read(SURVIVAL, days=days, died=["1"] * 100)
    assert [f.found for f in findings] == told
    assert {f.severity for f in findings} <= {"warning"}


def test_an_outcome_of_too_few_training_patients_is_unknown_in_training_alone() -> None:
    known_B = np.array([True] * 4 + [False] * 8)
    rare = {"known_B": known_B, "label_B": np.where(known_B, 1, -1)}
    is_train_B = np.array([True] * 3 + [False] + [True] * 8)
    common = {"known_B": np.ones(12, dtype=bool), "value_B": np.full(12, 2.0, dtype=np.float32)}
    both = {"stage": rare, "days": common}
    arrays, findings = without_rare(both, is_train_B, 4, file=FILE)
    assert arrays["stage"]["known_B"].tolist() == [False] * 3 + [True] + [False] * 8
    assert arrays["stage"]["label_B"].tolist() == [-1] * 3 + [1] + [-1] * 8
    assert arrays["days"] is common
    (finding,) = findings
    assert (finding.severity, finding.found) == ("warning", "3")
    # Enough of them, none of them, or one outcome alone: nothing to do.
    assert without_rare(both, is_train_B, 3, file=FILE) == (both, [])
    assert without_rare(both, ~known_B, 4, file=FILE) == (both, [])
    assert without_rare({"stage": rare}, is_train_B, 4, file=FILE) == ({"stage": rare}, [])
