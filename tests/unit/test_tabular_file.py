"""A tabular granularity with a table of its own: by patient, in any order, strangers counted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.findings import Finding
from client.sources.source import Identifiers, Source
from client.sources.tables import TABULAR
from tests.unit.test_tables import LABS


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "labs.csv"


def own_file(
    csv: Path, content: str, ids: list[str], identifiers: Identifiers = "mask"
) -> tuple[dict, list[Finding]]:
    csv.write_text(content, encoding="utf-8")
    source = Source(granularity="labs", path=csv, ids=pd.Index(ids), identifiers=identifiers)
    return TABULAR.read(source, LABS)


def test_a_table_of_its_own_is_read_by_patient_in_any_order(csv: Path) -> None:
    content = "patient_id,age_years,ldl,stage,colour\nc,30,3,1,blau\na,50,5,2,\n"
    arrays, findings = own_file(csv, content, ["a", "b", "c"])
    assert findings == []
    assert arrays["numeric_BF"].tolist() == [[50, 5], [0, 0], [30, 3]]
    assert arrays["codes_BK"].tolist() == [[2, 0], [0, 0], [1, 2]]
    assert arrays["present_B"].tolist() == [True, False, True]


@given(order=st.permutations(range(6)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_rows_of_a_table_of_its_own_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "ordered.csv"
    lines = [f"p{i},{20 + i},{1 + i},{1 + i % 3},blau\n" for i in range(6)]
    header = "patient_id,age_years,ldl,stage,colour\n"
    ids = [f"p{i}" for i in range(6)]
    sorted_arrays, _ = own_file(path, header + "".join(lines), ids)
    arrays, _ = own_file(path, header + "".join(lines[i] for i in order), ids)
    for key, value in sorted_arrays.items():
        assert np.array_equal(arrays[key], value)


def test_strangers_in_a_table_of_its_own_are_counted_and_not_used(csv: Path) -> None:
    content = "patient_id,age_years,ldl,stage,colour\nx,999,5,1,blau\na,50,5,1,blau\n,60,5,1,\n"
    arrays, findings = own_file(csv, content, ["a"])
    assert arrays["numeric_BF"].tolist() == [[50, 5]]
    assert [(f.severity, f.found) for f in findings] == [
        ("warning", "2 of 3 rows of nobody in the patients' table")
    ]


def test_an_id_in_two_rows_of_a_table_of_its_own_is_an_error(csv: Path) -> None:
    content = "patient_id,age_years,ldl,stage,colour\na,50,5,1,blau\na,51,5,1,blau\n"
    _, findings = own_file(csv, content, ["a"])
    assert [(f.severity, f.found) for f in findings] == [("error", "1 rows that repeat an id")]


def test_a_table_of_its_own_without_ids_is_an_error(csv: Path) -> None:
    _, findings = own_file(csv, "id;age_years\na;50\n", ["a"])
    assert [(f.severity, f.expected) for f in findings] == [("error", "a column patient_id")]


@pytest.mark.parametrize(("identifiers", "severity"), [("mask", "warning"), ("refuse", "error")])
def test_columns_that_say_who_a_patient_is_are_told_by_place(
    csv: Path, identifiers: Identifiers, severity: str
) -> None:
    content = "patient_id,age_years,ldl,stage,colour,Nachname\na,50,5,1,blau,Meier\n"
    _, findings = own_file(csv, content, ["a"], identifiers)
    assert [(f.severity, f.found) for f in findings] == [(severity, "column 6 (name)")]


def test_an_absent_granularity_has_the_shapes_of_a_present_one_and_nobody(csv: Path) -> None:
    content = "patient_id,age_years,ldl,stage,colour\nc,30,3,1,blau\n"
    present, _ = own_file(csv, content, ["a", "b", "c"])
    absent = TABULAR.absent(LABS, 3)
    assert {k: (v.shape, v.dtype) for k, v in absent.items()} == {
        k: (v.shape, v.dtype) for k, v in present.items()
    }
    assert not any(value.any() for value in absent.values())
