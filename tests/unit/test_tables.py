"""The reader of tables: what it takes, what it counts, and that no value reaches a sentence."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.findings import Finding
from client.sources.tables import read_table, read_tabular
from common.granularities import TabularGranularity

LABS = TabularGranularity.model_validate(
    {
        "kind": "tabular",
        "max_unusable_fraction": 0.25,
        "features": {
            "age_years": {"kind": "numeric", "unit": "years", "range": [18, 100]},
            "ldl": {"kind": "numeric", "unit": "mg/dl", "range": [1, 9], "missing_codes": [0, -9]},
            "stage": {"kind": "categorical", "categories": ["1", "2", "3"]},
            "colour": {"kind": "categorical", "categories": ["red, dark", "blau"]},
        },
    }
)


def table_of(path: Path, content: bytes | str) -> tuple[pd.DataFrame | None, list[Finding]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "patients.csv"


def labs(csv: Path, content: str) -> tuple[dict, list[Finding]]:
    table, findings = table_of(csv, content)
    assert findings == []
    return read_tabular(table, LABS, name="labs", file="patients.csv")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\n\n", "an empty file"),
        (b"patient_id,a\n", "0 rows"),
        ("patient_id,a\n1,M\u00fcller\n".encode("latin-1"), "another encoding"),
        ("patient_id,a\n1,2\n".encode("utf-16"), "another encoding"),
        (b"patient_id,a\n1,2,3\n1,2\n", "parser refuses"),
        (b"patient_id,a\n1,2\n1,2,3\n", "parser refuses"),
        (b"patient_id,a\n1,2,3\n2,3,4\n", "parser refuses"),
        (b"patient_id,a\n1,2,\n2,3,\n", "parser refuses"),
        (b'patient_id,a\n1,"open\n2,3\n', "parser refuses"),
        (b"patient_id,a,a\n1,2,3\n", "1 names that repeat another"),
    ],
)
def test_what_is_no_table_is_one_error_that_says_why(csv: Path, content: bytes, found: str) -> None:
    table, findings = table_of(csv, content)
    assert table is None
    assert [f.severity for f in findings] == ["error"]
    assert found in findings[0].found
    assert findings[0].where == "patients.csv"


def test_a_file_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        table, findings = read_table(path)
        assert table is None
        assert [f.found for f in findings] == ["no file"]


@pytest.mark.parametrize(
    "content",
    [
        b"patient_id,a\n007,2\n008,3\n",
        b"\xef\xbb\xbfpatient_id,a\n007,2\n008,3\n",
        b'\xef\xbb\xbf"patient_id","a"\n"007","2"\n"008","3"\n',
        b"patient_id,a\r\n007,2\r\n008,3\r\n",
        b"patient_id , a \n 007 , 2 \n 008 ,3",
        b"\npatient_id,a\n\n007,2\n\n008,3\n\n",
        b"patient_id,a,\n007,2,\n008,3,\n",
    ],
)
def test_the_same_table_in_another_dress_is_the_same_table(csv: Path, content: bytes) -> None:
    table, findings = table_of(csv, content)
    assert findings == []
    assert table is not None
    assert table["patient_id"].tolist() == ["007", "008"]
    assert table["a"].tolist() == ["2", "3"]


def test_quotes_commas_and_newlines_inside_of_cells_are_part_of_them(csv: Path) -> None:
    table, findings = table_of(csv, 'patient_id,a,b\n1,"x, y\nz ""w""",5\n2,,6\n')
    assert findings == []
    assert table is not None
    assert table["a"].tolist()[0] == 'x, y\nz "w"'
    assert table["b"].tolist() == ["5", "6"]


@pytest.mark.parametrize("cell", ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "  ", " NA "])
def test_a_word_for_missing_is_missing(csv: Path, cell: str) -> None:
    arrays, findings = labs(
        csv, f"patient_id,age_years,ldl,stage,colour\n1,{cell},{cell},{cell},{cell}\n2,50,5,1,blau"
    )
    assert findings == []
    assert arrays["observed_BF"].tolist() == [[False, False], [True, True]]
    assert arrays["codes_BK"].tolist() == [[0, 0], [1, 2]]
    assert arrays["present_B"].tolist() == [False, True]


def test_a_missing_value_leaves_no_value_in_its_place(csv: Path) -> None:
    arrays, _ = labs(csv, "patient_id,age_years,ldl,stage,colour\n1,50,0,1,\n2,51,-9.0,2,blau\n")
    assert arrays["observed_BF"].tolist() == [[True, False], [True, False]]
    assert arrays["numeric_BF"].tolist() == [[50.0, 0.0], [51.0, 0.0]]
    assert arrays["numeric_BF"].dtype == np.float32


def test_a_category_with_a_number_as_its_name_is_known_with_and_without_a_decimal(
    csv: Path,
) -> None:
    rows = "1,50,5,2.0,blau\n2,50,5,2,\n3,50,5,3,blau\n"
    arrays, findings = labs(csv, f"patient_id,age_years,ldl,stage,colour\n{rows}")
    assert findings == []
    assert arrays["codes_BK"].tolist() == [[2, 2], [2, 0], [3, 2]]


# Four values: one outside is .25, as much as allowed; two are more.
@pytest.mark.parametrize(
    ("ages", "severity", "clipped"),
    [
        ([17, 20, 30, 40], "warning", [18, 20, 30, 40]),
        ([17, 20, 30, 140], "error", [18, 20, 30, 100]),
        ([18, 20, 30, 100], None, [18, 20, 30, 100]),
    ],
)
def test_values_outside_the_range_are_clipped_and_counted(
    csv: Path, ages: list[int], severity: str | None, clipped: list[int]
) -> None:
    rows = "".join(f"{i},{age},5,1,blau\n" for i, age in enumerate(ages))
    arrays, findings = labs(csv, f"patient_id,age_years,ldl,stage,colour\n{rows}")
    assert arrays["numeric_BF"][:, 0].tolist() == clipped
    assert [f.severity for f in findings] == ([severity] if severity else [])
    num_outside = sum(not 18 <= age <= 100 for age in ages)
    assert all(f.found == f"{num_outside} of 4 values outside" for f in findings)
    assert all(f.where == "patients.csv, column age_years" for f in findings)


def test_missing_values_do_not_count_as_answers_in_the_unusable_fraction(csv: Path) -> None:
    # One of two answers is outside: .5, although it is one of eight patients.
    rows = "0,17,5,1,blau\n1,20,5,1,blau\n" + "".join(f"{i},,5,1,blau\n" for i in range(2, 8))
    _, findings = labs(csv, f"patient_id,age_years,ldl,stage,colour\n{rows}")
    assert [f.severity for f in findings] == ["error"]


@pytest.mark.parametrize(("num_unknown", "severity"), [(1, "warning"), (2, "error")])
def test_unknown_categories_are_missing_and_counted(
    csv: Path, num_unknown: int, severity: str
) -> None:
    rows = "".join(f"{i},50,5,{9 if i < num_unknown else 1},blau\n" for i in range(4))
    arrays, findings = labs(csv, f"patient_id,age_years,ldl,stage,colour\n{rows}")
    assert arrays["codes_BK"][:num_unknown, 0].tolist() == [0] * num_unknown
    assert [(f.severity, f.where) for f in findings] == [(severity, "patients.csv, column stage")]
    assert findings[0].found == f"{num_unknown} of 4 values unknown"


@pytest.mark.parametrize("cell", ["fifty", "5O", "5,0", "0x1A", "1_000", "true", "NAN", "\u0663"])
def test_text_where_a_number_belongs_is_an_error(csv: Path, cell: str) -> None:
    rows = f'1,"{cell}",5,1,blau\n' + "".join(f"{i},50,5,1,blau\n" for i in range(2, 99))
    _, findings = labs(csv, f"patient_id,age_years,ldl,stage,colour\n{rows}")
    assert [(f.severity, f.found) for f in findings] == [("error", "1 cells of text")]


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e999", "Infinity"])
def test_an_infinite_value_is_an_error(csv: Path, cell: str) -> None:
    rows = f"1,{cell},5,1,blau\n2,50,5,1,blau\n"
    arrays, findings = labs(csv, f"patient_id,age_years,ldl,stage,colour\n{rows}")
    assert [(f.severity, f.found) for f in findings] == [("error", "1 infinite values")]
    assert np.isfinite(arrays["numeric_BF"]).all()


def test_a_missing_column_is_a_warning_and_missing_for_everybody(csv: Path) -> None:
    arrays, findings = labs(csv, "patient_id,age_years,ldl,stage\n1,50,5,1\n")
    assert [(f.severity, f.found) for f in findings] == [("warning", "no column colour")]
    assert arrays["codes_BK"].tolist() == [[1, 0]]
    assert arrays["present_B"].tolist() == [True]


def test_a_granularity_without_any_column_is_a_warning_and_present_for_nobody(csv: Path) -> None:
    arrays, findings = labs(csv, "patient_id,other\n1,50\n")
    assert [(f.severity, f.found) for f in findings] == [("warning", "none")]
    assert arrays["present_B"].tolist() == [False]
    assert arrays["numeric_BF"].shape == arrays["codes_BK"].shape == (1, 2)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=200) | st.text(",\n\"'1a.- \r\x00", max_size=60).map(str.encode))
def test_no_bytes_at_all_make_the_reader_raise(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    table, findings = table_of(path, content)
    assert (table is None) == any(f.severity == "error" for f in findings)


cells = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12),
    st.floats().map(str),
    st.integers().map(str),
    st.sampled_from(["1e400", "0x10", "1.", "true", "-0", " 50", "NA", "2.0"]),
)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(cells, cells, cells, cells), min_size=1, max_size=5))
def test_whatever_stands_in_the_cells_the_arrays_are_finite_and_in_range(rows: list) -> None:
    table = pd.DataFrame(rows, columns=list(LABS.features), dtype="str").replace("", pd.NA)
    arrays, _ = read_tabular(table, LABS, name="labs", file="patients.csv")
    observed_BF, numeric_BF = arrays["observed_BF"], arrays["numeric_BF"]
    assert (numeric_BF[~observed_BF] == 0).all()
    for column, feature in enumerate(LABS.numeric.values()):
        values = numeric_BF[observed_BF[:, column], column]
        assert ((values >= feature.range[0]) & (values <= feature.range[1])).all()
    assert ((arrays["codes_BK"] >= 0) & (arrays["codes_BK"] <= (3, 2))).all()
    expected_B = observed_BF.any(axis=1) | (arrays["codes_BK"] > 0).any(axis=1)
    assert (arrays["present_B"] == expected_B).all()


def test_a_granularity_of_numbers_alone_or_of_categories_alone_has_empty_arrays_for_the_other(
    csv: Path,
) -> None:
    table, _ = table_of(csv, "patient_id,age_years\n1,50\n2,60\n")
    assert table is not None
    only_numbers = LABS.model_copy(update={"features": dict(LABS.numeric)})
    arrays, _ = read_tabular(table, only_numbers, name="labs", file="patients.csv")
    assert arrays["numeric_BF"].shape == (2, 2)
    assert arrays["codes_BK"].shape == (2, 0)
    only_words = LABS.model_copy(update={"features": dict(LABS.categorical)})
    arrays, _ = read_tabular(table, only_words, name="labs", file="patients.csv")
    assert arrays["numeric_BF"].shape == (2, 0)
    assert arrays["codes_BK"].shape == (2, 2)


def test_a_truncated_export_is_a_warning_with_the_number_of_short_rows(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("patient_id,a,b\n1,2,\n2,3\n3\n")
    table, findings = read_table(path)
    assert table is not None
    assert len(table) == 3
    assert [(f.severity, f.found) for f in findings] == [
        ("warning", "2 rows with fewer cells than the header")
    ]


CLIPPED = TabularGranularity.model_validate(
    {
        "kind": "tabular",
        "features": {
            "crp": {"kind": "numeric", "unit": "mg/l", "range": [0, 300], "infinite": "clip"}
        },
    }
)


def test_an_infinite_value_is_the_nearer_end_of_the_range_where_the_study_says_so(
    csv: Path,
) -> None:
    table, _ = table_of(csv, "patient_id,crp\n1,inf\n2,-inf\n3,7\n4,\n")
    assert table is not None
    arrays, findings = read_tabular(table, CLIPPED, name="labs", file="patients.csv")
    assert arrays["numeric_BF"].tolist() == [[300.0], [0.0], [7.0], [0.0]]
    assert arrays["observed_BF"].tolist() == [[True], [True], [True], [False]]
    assert [(f.severity, f.found) for f in findings] == [("warning", "2 of 3 values infinite")]
