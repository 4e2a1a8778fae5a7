"""The reader of series: the grid by hand, laws of the mask, and what is counted."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.findings import Finding
from client.sources import table_cells
from client.sources.series import SERIES, absent_series
from client.sources.source import Identifiers, Source
from common.granularities import SeriesGranularity

VITALS = SeriesGranularity.model_validate(
    {
        "kind": "series",
        "start_minutes": 0,
        "end_minutes": 180,
        "step_minutes": 60,
        "max_unusable_fraction": 0.25,
        "signals": {
            "heart_rate": {"kind": "numeric", "unit": "bpm", "range": [20, 300]},
            "sbp": {
                "kind": "numeric",
                "unit": "mmHg",
                "range": [30, 300],
                "missing_codes": [0, -9],
                "infinite": "clip",
            },
        },
    }
)
IDS = ["a", "b", "c"]
HEADER = "patient_id,minutes,signal,value\n"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "vitals.csv"


def source_of(path: Path, identifiers: Identifiers = "mask") -> Source:
    return Source(granularity="vitals", path=path, ids=pd.Index(IDS), identifiers=identifiers)


def vitals(csv: Path, rows: str, header: str = HEADER) -> tuple[dict, list[Finding]]:
    csv.write_text(header + rows, encoding="utf-8")
    return SERIES.read(source_of(csv), VITALS)


def quiet(csv: Path, rows: str) -> dict:
    """The arrays of rows that hold both signals, so that there is nothing to say."""
    arrays, findings = vitals(csv, rows + "c,0,heart_rate,99\nc,0,sbp,99\n")
    assert findings == []
    return arrays


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.severity, f.found) for f in findings]


def test_a_place_is_the_mean_of_its_step_and_holds_zero_where_nothing_was_measured(
    csv: Path,
) -> None:
    # Steps [0, 60), [60, 120), [120, 180): 0 and 59.9 belong together, 60 to the next.
    arrays = quiet(
        csv, "a,0,heart_rate,60\na,59.9,heart_rate,80\na,60,heart_rate,90\nb,179,sbp,120\n"
    )
    assert arrays["numeric_BTF"][0].tolist() == [[70, 0], [90, 0], [0, 0]]
    assert arrays["numeric_BTF"][1].tolist() == [[0, 0], [0, 0], [0, 120]]
    assert arrays["observed_BTF"][0].tolist() == [[True, False], [True, False], [False, False]]
    assert arrays["present_B"].tolist() == [True, True, True]
    assert arrays["numeric_BTF"].dtype == np.float32
    assert arrays["observed_BTF"].dtype == arrays["present_B"].dtype == np.bool_


def test_the_same_minute_twice_is_a_mean_of_both(csv: Path) -> None:
    arrays = quiet(csv, "a,5,heart_rate,60\na,5,heart_rate,61\n")
    assert arrays["numeric_BTF"][0, 0, 0] == 60.5


def test_the_last_step_may_be_cut_by_the_end_of_the_window(csv: Path) -> None:
    cut = VITALS.model_copy(update={"end_minutes": 130.0})
    csv.write_text(HEADER + "a,129,sbp,100\na,130,sbp,200\na,5,heart_rate,70\n", encoding="utf-8")
    arrays, findings = SERIES.read(source_of(csv), cut)
    assert findings == []
    assert arrays["numeric_BTF"][0, :, 1].tolist() == [0, 0, 100]


def test_a_window_may_start_before_the_admission(csv: Path) -> None:
    early = VITALS.model_copy(update={"start_minutes": -60.0})
    csv.write_text(HEADER + "a,-60,sbp,100\na,-1,sbp,110\na,-61,sbp,50\na,0,heart_rate,70\n")
    arrays, _ = SERIES.read(source_of(csv), early)
    assert arrays["numeric_BTF"][0, :, 1].tolist() == [105, 0, 0, 0]


measurements = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "stranger", ""]),
        st.sampled_from(["", "-5", "180", "1e9"]) | st.integers(0, 179).map(str),
        st.sampled_from(["heart_rate", "sbp", "spo2", ""]),
        st.sampled_from(["", "NA", "5", "999"]) | st.integers(20, 300).map(str),
    ),
    min_size=1,
    max_size=40,
)


def read(path: Path, rows: list[tuple[str, ...]]) -> tuple[dict, list[Finding]]:
    path.write_text(HEADER + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    return SERIES.read(source_of(path), VITALS)


def grid_by_hand(rows: list[tuple[str, ...]]) -> np.ndarray:
    """Another implementation: one dict of lists, one row at a time."""
    values: dict[tuple[int, int, int], list[float]] = {}
    signals = list(VITALS.signals)
    for patient, minutes, signal, value in rows:
        is_known = patient in IDS and signal in signals and minutes and value not in ("", "NA")
        if not is_known or not 0 <= float(minutes) < 180:
            continue
        place = (IDS.index(patient), int(float(minutes) // 60), signals.index(signal))
        low, high = VITALS.signals[signal].range
        values.setdefault(place, []).append(min(max(float(value), low), high))
    grid = np.zeros((3, 3, 2), dtype=np.float32)
    for place, found in values.items():
        grid[place] = sum(found) / len(found)
    return grid


@settings(max_examples=100, deadline=None)
@given(rows=measurements)
def test_the_grid_is_that_of_a_loop_over_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    arrays, _ = read(path, rows)
    assert np.array_equal(arrays["numeric_BTF"], grid_by_hand(rows))
    assert np.array_equal(arrays["observed_BTF"], grid_by_hand(rows) > 0)
    assert np.array_equal(arrays["present_B"], arrays["observed_BTF"].any(axis=(1, 2)))


@settings(max_examples=50, deadline=None)
@given(rows=measurements, data=st.data())
def test_the_order_of_the_rows_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    arrays, _ = read(path, rows)
    other, _ = read(path, data.draw(st.permutations(rows)))
    for key, value in arrays.items():
        assert np.array_equal(value, other[key])


def test_arrays_and_findings_do_not_depend_on_where_a_chunk_ends(
    csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    rows = "".join(
        f"{random.choice([*IDS, 'x'])},{random.integers(-50, 250)},"
        f"{random.choice(['heart_rate', 'sbp', 'spo2'])},{random.choice([10, 50, 200, 500])}\n"
        for _ in range(120)
    )
    whole, findings = vitals(csv, rows)
    for size in (1, 7, 119):
        monkeypatch.setattr(table_cells, "CHUNK_ROWS", size)
        arrays, found = vitals(csv, rows)
        assert found == findings
        assert all(np.array_equal(arrays[key], whole[key]) for key in whole)


def test_a_gzipped_table_is_the_same_table(csv: Path) -> None:
    rows = "a,0,heart_rate,60\nb,5,sbp,100\n"
    plain, _ = vitals(csv, rows)
    path = csv.with_name("vitals.csv.gz")
    path.write_bytes(gzip.compress((HEADER + rows).encode()))
    zipped, findings = SERIES.read(source_of(path), VITALS)
    assert findings == []
    assert all(np.array_equal(zipped[key], plain[key]) for key in plain)


@pytest.mark.parametrize("column", ["patient_id", "minutes", "signal", "value"])
def test_a_missing_column_is_an_error(csv: Path, column: str) -> None:
    _, findings = vitals(csv, "a,0,heart_rate,60\n", HEADER.replace(column, "other"))
    assert told(findings) == [("error", f"no column {column}")]


@pytest.mark.parametrize("cell", ["noon", "5:30", "2020-01-01 12:00"])
def test_text_for_a_time_is_an_error(csv: Path, cell: str) -> None:
    _, findings = vitals(csv, f"a,{cell},heart_rate,60\na,1,heart_rate,60\na,1,sbp,60\n")
    assert told(findings) == [("error", "1 cells of text")]
    assert findings[0].where == "vitals.csv, column minutes"


def test_an_infinite_time_is_an_error(csv: Path) -> None:
    _, findings = vitals(csv, "a,inf,heart_rate,60\na,1,heart_rate,60\na,1,sbp,60\n")
    assert told(findings) == [("error", "1 infinite values")]


def test_a_row_without_a_time_is_counted_and_not_used(csv: Path) -> None:
    arrays, findings = vitals(csv, "a,,heart_rate,60\nb,1,heart_rate,60\nb,1,sbp,60\n")
    assert told(findings) == [("warning", "1 rows without one")]
    assert arrays["present_B"].tolist() == [False, True, False]


def test_text_for_a_value_is_an_error_of_its_signal(csv: Path) -> None:
    _, findings = vitals(csv, "a,0,heart_rate,fast\na,1,heart_rate,60\na,1,sbp,60\n")
    assert told(findings) == [("error", "1 cells of text")]
    assert findings[0].where == "vitals.csv, signal heart_rate"


def test_an_infinite_value_is_an_error_unless_the_study_clips_it(csv: Path) -> None:
    _, findings = vitals(csv, "a,0,heart_rate,inf\na,1,sbp,60\n")
    assert told(findings) == [("error", "1 infinite values")]
    arrays, findings = vitals(csv, "a,0,heart_rate,60\na,1,sbp,inf\na,60,sbp,-inf\n")
    assert told(findings) == [("warning", "2 of 2 values infinite")]
    assert arrays["numeric_BTF"][0, :, 1].tolist() == [300, 30, 0]


# Four values: one outside is .25, as much as allowed; two are more.
@pytest.mark.parametrize(("num_outside", "severity"), [(1, "warning"), (2, "error")])
def test_values_outside_the_range_are_clipped_and_counted_by_signal(
    csv: Path, num_outside: int, severity: str
) -> None:
    rows = "".join(f"a,{i},heart_rate,{500 if i < num_outside else 100}\n" for i in range(4))
    arrays, findings = vitals(csv, rows + "".join(f"a,{i},sbp,100\n" for i in range(99)))
    assert told(findings) == [(severity, f"{num_outside} of 4 values outside")]
    # By hand: (300 + 3 · 100) / 4 = 150, (2 · 300 + 2 · 100) / 4 = 200.
    assert arrays["numeric_BTF"][0, 0, 0] == {1: 150, 2: 200}[num_outside]


def test_a_missing_code_is_not_a_value(csv: Path) -> None:
    arrays = quiet(csv, "a,0,sbp,0\na,1,sbp,-9.0\nb,0,sbp,0\nb,2,sbp,100\n")
    assert arrays["present_B"].tolist() == [False, True, True]
    assert arrays["numeric_BTF"][1, 0, 1] == 100


def test_signals_that_the_study_does_not_know_are_counted_and_not_used(csv: Path) -> None:
    rows = "a,0,heart_rate,60\na,1,sbp,100\na,2,spo2,fast\na,2,,99\n"
    arrays, findings = vitals(csv, rows)
    assert told(findings) == [("warning", "2 of 4 rows of signals that the study does not know")]
    assert arrays["observed_BTF"].sum() == 2


def test_a_signal_without_any_value_is_told(csv: Path) -> None:
    _, findings = vitals(csv, "a,0,heart_rate,60\n")
    assert told(findings) == [("warning", "no value of sbp")]


def test_rows_of_strangers_are_counted_and_not_used(csv: Path) -> None:
    arrays, findings = vitals(csv, "x,0,heart_rate,fast\na,0,heart_rate,60\na,0,sbp,60\n,0,sbp,9\n")
    assert told(findings) == [("warning", "2 of 4 rows of nobody in the patients' table")]
    assert arrays["present_B"].tolist() == [True, False, False]


def test_rows_outside_of_the_window_are_told_only_if_all_are(csv: Path) -> None:
    arrays, findings = vitals(csv, "a,-1,heart_rate,999\nb,180,sbp,60\n")
    assert told(findings) == [("warning", "all 2 rows outside")]
    assert not arrays["present_B"].any()
    quiet(csv, "a,-1,heart_rate,999\nb,180,sbp,60\n")


# Of the signal heart_rate of a: 50 is before 60, 40 before 50; 55 is after 40.
def test_time_that_goes_backwards_within_a_signal_is_counted(csv: Path) -> None:
    minutes = [60, 50, 40, 55]
    rows = "".join(f"a,{m},heart_rate,60\nb,5,sbp,100\n" for m in minutes)
    _, findings = vitals(csv, rows)
    assert told(findings) == [("warning", "2 rows earlier than the one before")]


def test_a_table_in_the_order_of_signals_does_not_go_backwards(csv: Path) -> None:
    quiet(csv, "a,0,heart_rate,60\na,90,heart_rate,60\na,0,sbp,60\na,90,sbp,60\n")


def test_columns_that_say_who_a_patient_is_are_not_read(csv: Path) -> None:
    csv.write_text("name," + HEADER + "Meier,a,0,heart_rate,60\nMeier,a,0,sbp,60\n")
    for identifiers, severity in (("mask", "warning"), ("refuse", "error")):
        _, findings = SERIES.read(source_of(csv, identifiers), VITALS)
        assert told(findings) == [(severity, "column 1 (name)")]


def test_a_file_that_is_not_there_is_one_error(csv: Path) -> None:
    _, findings = SERIES.read(source_of(csv), VITALS)
    assert told(findings) == [("error", "no file")]


def test_absent_series_have_the_shapes_of_present_ones_and_nobody(csv: Path) -> None:
    present, _ = vitals(csv, "a,0,heart_rate,60\n")
    absent = absent_series(VITALS, 3)
    assert {k: (v.shape, v.dtype) for k, v in absent.items()} == {
        k: (v.shape, v.dtype) for k, v in present.items()
    }
    assert not any(value.any() for value in absent.values())


def test_a_site_without_any_patient_of_the_table_has_arrays_all_the_same(csv: Path) -> None:
    csv.write_text(HEADER + "a,0,heart_rate,60\n", encoding="utf-8")
    source = Source(granularity="vitals", path=csv, ids=pd.Index([], dtype="str"))
    arrays, findings = SERIES.read(source, VITALS)
    assert arrays["numeric_BTF"].shape == (0, 3, 2)
    assert told(findings) == [("error", "none: all 1 rows are of others")]
