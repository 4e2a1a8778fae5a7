"""The reader of series: a long table of irregular measurements onto a grid of steps with a mask.

The table is read in chunks and only sums and counts of the grid's cells are kept, so that memory is
that of the grid and one chunk, however many measurements there are.

Letters of shapes: B patients, T steps, F signals, R rows of a chunk.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, warning
from client.sources.long_tables import (
    long_columns,
    minute_findings,
    places_in,
    window_findings,
)
from client.sources.numbers import Floats, NumberCounts, floats_of, number_findings, numbers_of
from client.sources.source import GranularityArrays, Reader, Source, stranger_findings
from client.sources.table_chunks import TABLE_SUFFIXES, read_table_chunks
from common.granularities import SeriesGranularity

_COLUMNS = ("patient_id", "minutes", "signal", "value")

Places = NDArray[np.int64]


def read_series(
    source: Source, granularity: SeriesGranularity
) -> tuple[GranularityArrays, list[Finding]]:
    """The series of each patient on the grid of the study.

    The table has the columns patient_id, minutes, signal and value, in any order of rows.

    Guarantees:
        - A place holds the mean of the patient's values of that signal with start + t · step ≤
          minutes < start + (t + 1) · step, each clipped to the plausible range first.
        - A place without a value is not observed, and holds 0.
        - Rows of strangers, of signals that the study does not know, without a time, and outside of
          [start, end) change nothing.
        - The order of the rows does not matter, but for the last digit of a mean.

    Returns:
        "numeric_BTF" float32 in the signals' units, "observed_BTF" bool, "present_B" bool (anything
        observed); and the findings.
    """
    columns, findings = long_columns(source, _COLUMNS)
    if any(f.severity == "error" for f in findings):
        return absent_series(granularity, len(source.ids)), findings
    grid = _Grid.empty(granularity, len(source.ids))
    for chunk, found in read_table_chunks(source.path, columns):
        findings += found
        if chunk is not None:
            _add(grid, chunk, source, granularity)
    return _arrays(grid), findings + _findings(grid, source, granularity)


def absent_series(granularity: SeriesGranularity, num_patients: int) -> GranularityArrays:
    """The arrays of patients for whom nothing was measured."""
    shape = (num_patients, granularity.num_steps, len(granularity.signals))
    return {
        "numeric_BTF": np.zeros(shape, dtype=np.float32),
        "observed_BTF": np.zeros(shape, dtype=np.bool_),
        "present_B": np.zeros(num_patients, dtype=np.bool_),
    }


SERIES: Reader[SeriesGranularity] = Reader(
    suffixes=TABLE_SUFFIXES, read=read_series, absent=absent_series
)


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """What is known of the rows read so far; the arrays and counters are added to in place.

    Attributes:
        sum_BTF, count_BTF: of the values in each place.
        latest_BF: the minutes of the row last read of each patient's signal.
        numbers: what the values of each signal were.
        rows: how many rows were what.
    """

    sum_BTF: Floats
    count_BTF: NDArray[np.int32]
    latest_BF: Floats
    numbers: dict[str, NumberCounts]
    rows: Counter[str] = field(default_factory=Counter)

    @classmethod
    def empty(cls, granularity: SeriesGranularity, num_patients: int) -> "_Grid":
        shape = (num_patients, granularity.num_steps, len(granularity.signals))
        return cls(
            sum_BTF=np.zeros(shape),
            count_BTF=np.zeros(shape, dtype=np.int32),
            latest_BF=np.full((num_patients, len(granularity.signals)), -np.inf),
            numbers={name: NumberCounts() for name in granularity.signals},
        )


def _add(grid: _Grid, chunk: pd.DataFrame, source: Source, granularity: SeriesGranularity) -> None:
    """Adds the rows of one chunk to the grid."""
    patient_R = places_in(chunk["patient_id"], source.ids)
    signal_R = places_in(chunk["signal"], pd.Index(granularity.signals))
    known_R = (patient_R >= 0) & (signal_R >= 0)
    rows = grid.rows
    rows["all"] += len(chunk)
    rows["strange"] += int((patient_R < 0).sum())
    rows["unknown"] += int(((patient_R >= 0) & (signal_R < 0)).sum())
    minutes_R, num_text = floats_of(chunk["minutes"][known_R])
    cells_R = chunk["value"][known_R]
    patient_R, signal_R = patient_R[known_R], signal_R[known_R]
    is_timed_R = np.isfinite(minutes_R)
    num_infinite = int(np.isinf(minutes_R).sum())
    rows["text"] += num_text
    rows["infinite"] += num_infinite
    rows["untimed"] += int((~is_timed_R).sum()) - num_text - num_infinite
    rows["backwards"] += _num_backwards(
        grid.latest_BF, patient_R[is_timed_R], signal_R[is_timed_R], minutes_R[is_timed_R]
    )
    start, end = granularity.start_minutes, granularity.end_minutes
    is_inside_R = is_timed_R & (minutes_R >= start) & (minutes_R < end)
    rows["inside"] += int(is_inside_R.sum())
    rows["outside"] += int((is_timed_R & ~is_inside_R).sum())
    with np.errstate(invalid="ignore"):
        step_R = np.floor_divide(minutes_R - start, granularity.step_minutes)
    for f, (name, feature) in enumerate(granularity.signals.items()):
        chosen_R = is_inside_R & (signal_R == f)
        values_R, counts = numbers_of(cells_R[chosen_R], feature)
        grid.numbers[name] += counts
        is_value_R = ~np.isnan(values_R)
        # The last step is the last whatever the rounding of a fraction of a minute.
        steps_R = np.minimum(step_R[chosen_R], granularity.num_steps - 1).astype(np.int64)
        place = (patient_R[chosen_R][is_value_R], steps_R[is_value_R], f)
        np.add.at(grid.sum_BTF, place, values_R[is_value_R])
        np.add.at(grid.count_BTF, place, 1)


def _num_backwards(
    latest_BF: Floats, patient_R: Places, signal_R: Places, minutes_R: Floats
) -> int:
    """How many rows are earlier than the row of the same patient's signal that stands before them.

    Within a signal, because a table sorted by signal is in order. `latest_BF` is updated.
    """
    if len(patient_R) == 0:
        return 0
    key_R = patient_R * latest_BF.shape[1] + signal_R
    order_R = np.argsort(key_R, kind="stable")
    key_R, minutes_R = key_R[order_R], minutes_R[order_R]
    is_first_R = np.diff(key_R, prepend=-1) != 0
    before_R = np.where(is_first_R, latest_BF.reshape(-1)[key_R], np.roll(minutes_R, 1))
    is_last_R = np.append(is_first_R[1:], True)
    latest_BF.reshape(-1)[key_R[is_last_R]] = minutes_R[is_last_R]
    return int((minutes_R < before_R).sum())


def _arrays(grid: _Grid) -> GranularityArrays:
    observed_BTF = grid.count_BTF > 0
    mean_BTF = np.divide(grid.sum_BTF, grid.count_BTF, out=grid.sum_BTF, where=observed_BTF)
    return {
        "numeric_BTF": mean_BTF.astype(np.float32),
        "observed_BTF": observed_BTF,
        "present_B": np.asarray(observed_BTF.any(axis=(1, 2))),
    }


def _findings(grid: _Grid, source: Source, granularity: SeriesGranularity) -> list[Finding]:
    file, rows = source.path.name, grid.rows
    findings = stranger_findings(rows["strange"], rows["all"], source.path.name)
    if rows["unknown"]:
        expected = f"signals of granularity {source.granularity}"
        found = f"{rows['unknown']} of {rows['all']} rows of signals that the study does not know"
        findings.append(warning(f"{file}, column signal", expected, found, "They are not used."))
    where = f"{file}, column minutes"
    findings += minute_findings(rows["text"], rows["infinite"], file)
    if rows["untimed"]:
        found = f"{rows['untimed']} rows without one"
        findings.append(warning(where, "a time in every row", found, "They are not used."))
    if rows["backwards"]:
        found = f"{rows['backwards']} rows earlier than the one before"
        action = "The order does not matter here; check that the times are right."
        findings.append(warning(where, "measurements in the order of time", found, action))
    window = f"[{granularity.start_minutes:g}, {granularity.end_minutes:g})"
    findings += window_findings(rows["inside"], rows["outside"], window, file)
    missing = [name for name, counts in grid.numbers.items() if counts == NumberCounts()]
    if missing and rows["inside"]:
        expected = f"all signals of granularity {source.granularity}"
        action = "They count as missing for all patients."
        findings.append(warning(file, expected, f"no value of {', '.join(missing)}", action))
    for name, feature in granularity.signals.items():
        findings += number_findings(
            grid.numbers[name],
            feature,
            column=name,
            where=f"{file}, signal {name}",
            allowed=granularity.max_unusable_fraction,
        )
    return findings
