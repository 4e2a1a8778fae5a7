"""Site folders on disk, in the very form that a hospital writes: simulation is no special case."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import tomli_w
from numpy.typing import NDArray
from PIL import Image

from common.files import write_atomically

Pixels = NDArray[np.uint8]
NO_TABLES: Final[Mapping[str, pd.DataFrame]] = {}
NO_IMAGES: Final[Mapping[str, Mapping[str, Pixels]]] = {}


def write_site_folder(
    folder: Path,
    *,
    site: str,
    dataset_id: str,
    patients: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame] = NO_TABLES,
    images: Mapping[str, Mapping[str, Pixels]] = NO_IMAGES,
    min_patients: int = 20,
    smallest_group: int = 10,
    source: str,
) -> Path:
    """Writes `patients.csv`, the other files of the data and `site.toml`; returns the folder.

    The policy allows training without a privacy plan, because these are not a real hospital's
    books; missing cells are empty.

    Guarantees:
        - Equal data are written as equal bytes.
        - A table without rows is not written: a site that lacks a granularity has no file of it.

    Args:
        patients: one row per patient, with `patient_id`.
        tables: by granularity, its own table with `patient_id`: NAME.csv.
        images: by granularity, grayscale images (height, width) by file name: NAME/FILE.
        source: where the data come from, written as a comment into `site.toml`.

    Raises:
        ValueError: a table has no `patient_id`, or would replace `patients.csv`.
    """
    _check_tables(patients, tables)
    write_atomically(folder / "patients.csv", _as_csv(patients), durable=False)
    for name, table in tables.items():
        if len(table):
            write_atomically(folder / f"{name}.csv", _as_csv(table), durable=False)
    for name, files in images.items():
        for file, pixels in files.items():
            write_atomically(folder / name / file, _as_png(pixels), durable=False)
    settings = {
        "site": {
            "name": site,
            "dataset_id": dataset_id,
            "state_dir": f"../state/{site}",
            "device": "cpu",
        },
        "data": {"patients": "patients.csv"},
        "policy": {
            "allow_without_privacy": True,
            "min_patients": min_patients,
            "smallest_group": smallest_group,
        },
    }
    text = f"# {source}\n# Written for simulation by Wardround.\n\n{tomli_w.dumps(settings)}"
    write_atomically(folder / "site.toml", text.encode(), durable=False)
    return folder


def _check_tables(patients: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> None:
    if "patients" in tables:
        raise ValueError("expected granularities beside the patients' table, found 'patients'")
    without = [n for n, t in {"patients": patients, **tables}.items() if "patient_id" not in t]
    if without:
        raise ValueError(f"expected a column patient_id in every table, found none in {without}")


def _as_csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def _as_png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()
