"""The reader of tables: a CSV file of one row per patient to arrays, with findings.

Every column is read as text and converted here, so that what is wrong is counted by column and no
value ever reaches a message of a parser.

Letters of shapes: B patients, F numeric features, K categorical features.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from common.study import CategoricalFeature, NumericFeature, TabularGranularity

Floats = NDArray[np.float64]

_MISSING = ["", "NA", "N/A", "NaN", "nan", "NULL", "null"]


def read_table(path: Path) -> tuple[pd.DataFrame | None, list[Finding]]:
    """The table as text (missing cells are NA), or None and the finding that says why not."""
    where = path.name
    if not path.is_file():
        return None, [error(where, "a table", "no file", "Add it, or name it in site.toml.")]
    try:
        # The header is read as a row like any other: pandas would rename a repeated column, and
        # take surplus cells as an index, which shifts every column by one, both silently.
        cells = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, skipinitialspace=True
        )
    except pd.errors.EmptyDataError:
        return None, [error(where, "a header and rows", "an empty file", "Export it again.")]
    except UnicodeDecodeError:
        return None, [error(where, "UTF-8 text", "another encoding", "Save it as UTF-8.")]
    except (pd.errors.ParserError, ValueError, OSError) as fault:
        # The parser's own text may quote the file, so only its class is told.
        found = f"what the CSV parser refuses ({type(fault).__name__})"
        return None, [error(where, "rows of equal length", found, "Export it again as CSV.")]
    findings: list[Finding] = []
    num_short = _num_short_rows(path, num_columns=cells.shape[1])
    if num_short:
        found = f"{num_short} rows with fewer cells than the header"
        action = "The rest counts as missing; check that the export is whole."
        findings.append(warning(where, "rows of equal length", found, action))
    cells = cells.apply(lambda column: column.str.strip())
    header = cells.iloc[0].fillna("")
    num_repeated = int(header[header != ""].duplicated().sum())
    if num_repeated:
        # Counted and not named: without a header, these are the values of the first patient.
        found = f"{num_repeated} names that repeat another"
        return None, [error(where, "a header of different names", found, "Rename them.")]
    if len(cells) == 1:
        return None, [error(where, "one patient or more", "0 rows", "Export it again.")]
    table = cells.iloc[1:].reset_index(drop=True).replace(_MISSING, pd.NA)
    return table.set_axis(header.tolist(), axis=1), findings


def _num_short_rows(path: Path, *, num_columns: int) -> int:
    """Rows with fewer cells than the header: pandas fills them up without a word."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return sum(0 < len(row) < num_columns for row in csv.reader(file))
        except (csv.Error, UnicodeDecodeError):  # what pandas has read in its more lenient way
            return 0


def read_tabular(
    table: pd.DataFrame, granularity: TabularGranularity, *, name: str, file: str
) -> tuple[dict[str, NDArray[Any]], list[Finding]]:
    """The arrays of one tabular granularity, and what is wrong with its columns.

    Guarantees:
        - A missing value is False in "observed_BF", or code 0, and its place holds no value.
        - A patient for whom no feature of the granularity was observed is not "present_B".
        - Values outside the plausible range are clipped to it, and counted.

    Returns:
        "numeric_BF" float32 in the feature's unit, "observed_BF" bool, "codes_BK" int64 (0 is
        missing, c+1 is category c), "present_B" bool; and the findings.
    """
    findings = _missing_columns(table, granularity, name=name, file=file)
    allowed = granularity.max_unusable_fraction
    numbers, codes = [], []
    for column, feature in granularity.numeric.items():
        values_B, found = _numeric(table, column, feature, allowed, file)
        numbers.append(values_B)
        findings += found
    for column, category in granularity.categorical.items():
        codes_B, found = _categorical(table, column, category, allowed, file)
        codes.append(codes_B)
        findings += found
    num_patients = len(table)
    numeric_BF: Floats = np.array(numbers).T.reshape(num_patients, len(numbers))
    codes_BK = np.array(codes, dtype=np.int64).T.reshape(num_patients, len(codes))
    observed_BF: NDArray[np.bool_] = ~np.isnan(numeric_BF)
    present_B: NDArray[np.bool_] = np.any(np.hstack([observed_BF, codes_BK > 0]), axis=1)
    arrays: dict[str, NDArray[Any]] = {
        "numeric_BF": np.where(observed_BF, numeric_BF, 0.0).astype(np.float32),
        "observed_BF": observed_BF,
        "codes_BK": codes_BK,
        "present_B": present_B,
    }
    return arrays, findings


def _missing_columns(
    table: pd.DataFrame, granularity: TabularGranularity, *, name: str, file: str
) -> list[Finding]:
    absent = [column for column in granularity.features if column not in table.columns]
    if not absent:
        return []
    if len(absent) == len(granularity.features):
        found, action = "none", "This site takes part without it."
    else:
        found, action = f"no column {', '.join(absent)}", "They count as missing for all patients."
    return [warning(file, f"all columns of granularity {name}", found, action)]


def _numeric(
    table: pd.DataFrame, column: str, feature: NumericFeature, allowed: float, file: str
) -> tuple[Floats, list[Finding]]:
    """The values in the feature's unit, clipped to its range; NaN where missing or unusable."""
    if column not in table.columns:
        return np.full(len(table), np.nan), []
    where = f"{file}, column {column}"
    parsed = pd.to_numeric(table[column], errors="coerce").astype("float64")
    values_B: Floats = np.asarray(parsed.to_numpy(dtype=np.float64, na_value=np.nan))
    findings: list[Finding] = []
    num_text = int((np.isnan(values_B) & table[column].notna().to_numpy()).sum())
    if num_text:
        found = f"{num_text} cells of text"
        findings.append(error(where, f"numbers in {feature.unit}", found, "Fix the column."))
    num_infinite = int(np.isinf(values_B).sum())
    if num_infinite:
        found = f"{num_infinite} infinite values"
        findings.append(error(where, "finite numbers", found, "Leave such cells empty."))
    unusable_B = np.isinf(values_B) | np.isin(values_B, feature.missing_codes)
    values_B = np.where(unusable_B, np.nan, values_B)
    low, high = feature.range
    outside = f"{column} in [{low:g}, {high:g}] {feature.unit}"
    num_outside = int(((values_B < low) | (values_B > high)).sum())
    action = "Fix the file or widen the range in the study."
    findings += _unusable(values_B, num_outside, allowed, where, outside, "outside", action)
    return np.clip(values_B, low, high), findings


def _categorical(
    table: pd.DataFrame, column: str, feature: CategoricalFeature, allowed: float, file: str
) -> tuple[NDArray[np.int64], list[Finding]]:
    """The code of each category, 1…; 0 where missing or unknown."""
    if column not in table.columns:
        return np.zeros(len(table), dtype=np.int64), []
    # A whole number becomes "3.0" in any table that once held a missing cell.
    code_of: Mapping[str, int] = {
        form: code
        for code, category in enumerate(feature.categories, start=1)
        for form in (category, f"{category}.0")
    }
    known_B = table[column].map(code_of)
    codes_B: NDArray[np.int64] = np.asarray(known_B.fillna(0), dtype=np.int64)
    answered_B = table[column].notna().to_numpy()
    num_unknown = int((answered_B & (codes_B == 0)).sum())
    where = f"{file}, column {column}"
    expected = f"one of the {len(feature.categories)} categories of the study"
    values_B = np.where(answered_B, 1.0, np.nan)
    action = "Recode the column or add the category to the study."
    return codes_B, _unusable(values_B, num_unknown, allowed, where, expected, "unknown", action)


def _unusable(
    values_B: Floats,
    num_unusable: int,
    allowed: float,
    where: str,
    expected: str,
    adjective: str,
    action: str,
) -> list[Finding]:
    num_answered = int((~np.isnan(values_B)).sum())
    if num_unusable == 0:
        return []
    found = f"{num_unusable} of {num_answered} values {adjective}"
    if num_unusable > allowed * num_answered:
        return [error(where, expected, found, action)]
    consequence = "They are clipped." if adjective == "outside" else "They count as missing."
    return [warning(where, expected, found, consequence)]
