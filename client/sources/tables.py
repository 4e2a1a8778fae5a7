"""The reader of tables: a file of one row per patient to arrays, with findings.

Every column is read as text and converted here, so that what is wrong is counted by column and no
value ever reaches a message of a parser.

Letters of shapes: B patients, F numeric features, K categorical features.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from client.sources.identifiers import column_findings
from client.sources.numbers import (
    Floats,
    categories_of,
    number_findings,
    numbers_of,
    unusable_findings,
)
from client.sources.source import GranularityArrays, Reader, Source, places_of
from client.sources.table_chunks import TABLE_SUFFIXES, column_names, read_table_chunks
from common.features import CategoricalFeature, NumericFeature
from common.granularities import TabularGranularity


def read_table(
    path: Path, columns: Collection[str] | None = None
) -> tuple[pd.DataFrame | None, list[Finding]]:
    """The table as text (missing cells are NA), or None and the finding that says why not.

    Args:
        path: .parquet, .csv.gz, or anything else, which is read as CSV.
        columns: those to give, where the file has them; none: all.
    """
    chunks: list[pd.DataFrame] = []
    findings: list[Finding] = []
    for chunk, found in read_table_chunks(path, columns):
        findings += found
        if chunk is None:
            return None, found
        if len(chunk):
            chunks.append(chunk)
    return (chunks[0] if len(chunks) == 1 else pd.concat(chunks, ignore_index=True)), findings


def read_tabular(
    table: pd.DataFrame, granularity: TabularGranularity, *, name: str, file: str
) -> tuple[GranularityArrays, list[Finding]]:
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
    arrays: GranularityArrays = {
        "numeric_BF": np.where(observed_BF, numeric_BF, 0.0).astype(np.float32),
        "observed_BF": observed_BF,
        "codes_BK": codes_BK,
        "present_B": present_B,
    }
    return arrays, findings


def absent_tabular(granularity: TabularGranularity, num_patients: int) -> GranularityArrays:
    """The arrays of patients for whom nothing of the granularity was observed."""
    num_features, num_categorical = len(granularity.numeric), len(granularity.categorical)
    return {
        "numeric_BF": np.zeros((num_patients, num_features), dtype=np.float32),
        "observed_BF": np.zeros((num_patients, num_features), dtype=np.bool_),
        "codes_BK": np.zeros((num_patients, num_categorical), dtype=np.int64),
        "present_B": np.zeros(num_patients, dtype=np.bool_),
    }


def read_tabular_file(
    source: Source, granularity: TabularGranularity
) -> tuple[GranularityArrays, list[Finding]]:
    """The arrays of a tabular granularity that has a table of its own, keyed by patient_id.

    Guarantees:
        - The order of the rows does not matter, and a patient without a row is absent.
        - Rows of strangers are counted and not used; an id that stands in two rows is an error.
    """
    absent = absent_tabular(granularity, len(source.ids))
    file = source.path.name
    names, findings = column_names(source.path)
    if findings:
        return absent, findings
    used = ["patient_id", *granularity.columns]
    table, findings = read_table(source.path, used)
    if table is None:
        return absent, findings
    if "patient_id" not in names:
        action = "Add one, and check that cells are separated by commas."
        return absent, [*findings, error(file, "a column patient_id", "none", action)]
    findings += column_findings(names, exempt=used, file=file, identifiers=source.identifiers)
    ids = table["patient_id"]
    num_repeated = int(ids.dropna().duplicated().sum())
    if num_repeated:
        found = f"{num_repeated} rows that repeat an id"
        action = "Merge the rows of each patient: one row is one patient."
        where = f"{file}, column patient_id"
        return absent, [*findings, error(where, "every patient once", found, action)]
    places, found_strange = places_of(ids, source)
    row_B = np.full(len(source.ids), -1, dtype=np.int64)
    row_B[places[places >= 0]] = np.flatnonzero(places >= 0)
    features = table[[column for column in granularity.columns if column in table.columns]]
    aligned = features.reindex(row_B)  # row -1 is nobody's: its cells are missing
    arrays, found_tabular = read_tabular(aligned, granularity, name=source.granularity, file=file)
    return arrays, [*findings, *found_strange, *found_tabular]


TABULAR: Reader[TabularGranularity] = Reader(
    suffixes=TABLE_SUFFIXES, read=read_tabular_file, absent=absent_tabular
)


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
    values_B, counts = numbers_of(table[column], feature)
    where = f"{file}, column {column}"
    return values_B, number_findings(counts, feature, column=column, where=where, allowed=allowed)


def _categorical(
    table: pd.DataFrame, column: str, feature: CategoricalFeature, allowed: float, file: str
) -> tuple[NDArray[np.int64], list[Finding]]:
    """The code of each category, 1…; 0 where missing or unknown."""
    if column not in table.columns:
        return np.zeros(len(table), dtype=np.int64), []
    codes_B = categories_of(table[column], feature.categories) + 1
    answered_B = table[column].notna().to_numpy()
    return codes_B, unusable_findings(
        int((answered_B & (codes_B == 0)).sum()),
        int(answered_B.sum()),
        allowed=allowed,
        where=f"{file}, column {column}",
        expected=f"one of the {len(feature.categories)} categories of the study",
        adjective="unknown",
        action="Recode the column or add the category to the study.",
        consequence="They count as missing.",
    )
