"""What every reader is given and gives back: one granularity of a site folder as arrays.

A reader never raises for what stands in a file: it returns findings, by file and column, with
counts and never with values, names or texts of patients.

Letters of shapes: B patients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from common.granularities import Granularity

GranularityArrays = dict[str, NDArray[Any]]
Identifiers = Literal["mask", "refuse"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Pretrained weights at a hospital.

    Attributes:
        folder: where they lie.
        embeddings_dir: where what they made of patients is kept.
        device: as in `site.toml`.
    """

    folder: Path
    embeddings_dir: Path
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where one granularity of a site is read from.

    Attributes:
        granularity: its name in the study.
        path: its file, or the table that lists its files.
        ids: the patients of the site, in the order of axis B; all different.
        identifiers: what to do with text that looks like a direct identifier: mask it, and warn, or
            refuse the file.
        weights: pretrained ones for this granularity, where `site.toml` names some.
    """

    granularity: str
    path: Path
    ids: pd.Index
    identifiers: Identifiers = "mask"
    weights: Weights | None = None


G = TypeVar("G", bound=Granularity)


@dataclass(frozen=True, kw_only=True)
class Reader(Generic[G]):
    """How granularities of one kind are read.

    Attributes:
        suffixes: of the file that is looked for where `site.toml` names none, in this order.
        read: the arrays of a source ("present_B" always among them), and what is wrong with it.
            With an error among the findings the arrays may be anything.
        absent: the arrays, of this many patients, of a site that lacks the granularity.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Source, G], tuple[GranularityArrays, list[Finding]]]
    absent: Callable[[G, int], GranularityArrays]


def places_of(
    patient_ids: "pd.Series[Any]", source: Source, *, noun: str = "rows"
) -> tuple[NDArray[np.int64], list[Finding]]:
    """The place on axis B of each row's patient, -1 for strangers, who are counted.

    Args:
        patient_ids: the column patient_id of a long table; missing cells are nobody.
    """
    places = source.ids.get_indexer(pd.Index(patient_ids.fillna("")))
    num_strange = int((places < 0).sum())
    findings = stranger_findings(num_strange, len(places), source.path.name, noun=noun)
    return places.astype(np.int64), findings


def stranger_findings(
    num_strange: int, num_rows: int, where: str, *, noun: str = "rows"
) -> list[Finding]:
    """What rows of nobody in the patients' table say: an error where all are, else a warning."""
    if num_strange == 0:
        return []
    expected = "patients who are in the patients' table"
    if num_strange == num_rows:
        found = f"none: all {num_rows} {noun} are of others"
        action = "The ids do not match: write them alike in both files, leading zeros included."
        return [error(where, expected, found, action)]
    found = f"{num_strange} of {num_rows} {noun} of nobody in the patients' table"
    action = "They are not used; check that both files are of the same patients."
    return [warning(where, expected, found, action)]
