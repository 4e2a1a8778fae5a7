"""Canaries in the cells of a table: words and numbers, in columns that are read and in all others.

What is planted passes the hospital's own checks: a number near the one that stood there and within
the study's range, and no more unknown words than the study lets pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from client.config import SiteConfig
from common.features import CategoricalFeature, Feature, NumericFeature
from common.granularities import SeriesGranularity
from common.study import Study
from simulations.canaries import Canaries

_MOST_OF_A_TABLE = 3000
_FEWEST_OF_A_COLUMN = 2
_LARGEST_MINUTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Planting:
    """One copy in the making.

    Attributes:
        ids: the word that stands for each patient's id; who has none is not copied.
        most_patients: of others, nothing is copied.
    """

    study: Study
    config: SiteConfig
    target: Path
    canaries: Canaries
    random: np.random.Generator
    most_patients: int
    ids: dict[str, str] = field(default_factory=dict)

    def admit(self, patient_ids: "pd.Series[str]", file: str) -> None:
        """Gives a word to each of these ids, as long as there is room."""
        for patient_id in patient_ids.dropna():
            if len(self.ids) >= self.most_patients:
                return
            if patient_id not in self.ids:
                self.ids[patient_id] = self.canaries.word(f"{file}, column patient_id")

    def cells(self, table: pd.DataFrame, column: str, num_columns: int) -> pd.Index:
        """The rows of which a column gets a canary, at random among those that are filled in."""
        filled = table.index[table[column].notna()]
        most = max(_FEWEST_OF_A_COLUMN, _MOST_OF_A_TABLE // max(1, num_columns))
        if len(filled) <= most:
            return filled
        return filled[np.sort(self.random.permutation(len(filled))[:most])]


def plant_features(
    planting: Planting,
    table: pd.DataFrame,
    features: Mapping[str, Feature],
    allowed: float,
    file: str,
) -> None:
    """Plants numbers and unknown words in the columns of features.

    Args:
        allowed: the part of a column's cells that may be no category, from 0 to 1.
        file: the table's name, to say where a canary stood.
    """
    there = {column: feature for column, feature in features.items() if column in table}
    for column, feature in there.items():
        where = f"{file}, column {column}"
        rows = planting.cells(table, column, len(there))
        if isinstance(feature, CategoricalFeature):
            # As many words that are no category as the study lets pass, and no more.
            num_words = int(allowed * int(table[column].notna().sum()) / 2)
            words = {row: planting.canaries.word(where) for row in rows[:num_words]}
            put(table, column, words)
        else:
            _plant_numbers(planting, table, column, rows, feature, where)


def _plant_numbers(
    planting: Planting,
    table: pd.DataFrame,
    column: str,
    rows: pd.Index,
    feature: NumericFeature,
    where: str,
) -> None:
    """Numbers near those that stand there; codes for missing, and what is no number, stay."""
    values = pd.to_numeric(table.loc[rows, column], errors="coerce")
    planted = {
        row: planting.canaries.number(float(value), *feature.range, where)
        for row, value in values.items()
        if np.isfinite(value) and value not in feature.missing_codes
    }
    put(table, column, planted)


def plant_series(
    planting: Planting, table: pd.DataFrame, granularity: SeriesGranularity, file: str
) -> None:
    """Plants numbers in the values and minutes of a long table of signals."""
    if not {"minutes", "signal", "value"} <= set(table.columns):
        return
    rows = planting.cells(table, "value", 2)
    for signal, feature in granularity.signals.items():
        of_signal = rows[table.loc[rows, "signal"].eq(signal).fillna(False).to_numpy(dtype=bool)]
        where = f"{file}, column value ({signal})"
        if isinstance(feature, NumericFeature):
            _plant_numbers(planting, table, "value", of_signal, feature, where)
    rows = planting.cells(table, "minutes", 2)
    minutes = pd.to_numeric(table.loc[rows, "minutes"], errors="coerce")
    planted = {}
    for row, minute in minutes.items():
        if np.isfinite(minute) and abs(minute) < _LARGEST_MINUTE:
            start = float(np.floor(minute))  # a window that begins or ends does so at whole ones
            where = f"{file}, column minutes"
            planted[row] = planting.canaries.number(minute, start, start + 1, where)
    put(table, "minutes", planted)


def plant_unread(planting: Planting, table: pd.DataFrame, known: set[str], file: str) -> None:
    """Words in every column that nobody asked for, and one more column, whose name is a word."""
    unread = [column for column in table.columns if column not in known]
    # Not the name of the column: without a header, it is a patient's value.
    where = f"{file}, a column that is not read"
    for column in unread:
        rows = planting.cells(table, column, len(unread))
        put(table, column, {row: planting.canaries.word(where) for row in rows})
    name = planting.canaries.word(f"{file}, the header")
    table[name] = pd.Series(pd.NA, index=table.index, dtype="object")
    put(table, name, {r: planting.canaries.word(where) for r in table.index[:_MOST_OF_A_TABLE]})


def put(table: pd.DataFrame, column: str, cells: Mapping[Any, str]) -> None:
    """Puts texts into cells of a column, by row."""
    texts = table[column].astype("object").to_dict() | dict(cells)
    table[column] = pd.Series(texts, dtype="object").reindex(table.index)
