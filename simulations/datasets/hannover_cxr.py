"""Hannover's COVID-19 X-rays as simulated hospitals: who will need intensive care.

One example is one patient at their first imaged day, because most later images were taken in the
intensive care unit and show it. This module must never let through an image or a value of a later
day, nor the projection (179 of 194 bedside images are of patients of the unit).
"""

import logging
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from common.errors import DataError
from simulations.datasets.dealing import deal
from simulations.datasets.source_files import read_source, require_files
from simulations.site_folder import Pixels, write_site_folder

SOURCE: Final = (
    "COVID-19 Image Repository, Hannover Medical School, doi:10.25835/0090041, CC BY 3.0"
)
FILES: Final = ("data.csv", "images_128.npz")
NUM_FOLDS: Final = 4

# The column of data.csv, without its end _val or _offset → ours. Not factor XIII: by the first
# imaged day it was measured in 4 patients, all of whom came to the unit.
LABS: Final = {
    "crp": "crp_mg_l",
    "d-dimer": "d_dimer_mg_l",
    "ldh": "ldh_u_l",
    "lymphocytes": "lymphocytes_10e9_l",
    "neutrophils": "neutrophils_10e9_l",
    "pco2": "pco2_mmhg",
    "po2": "po2_mmhg",
}

logger = logging.getLogger(__name__)


def import_hannover_cxr(
    source: Path, out: Path, *, num_sites: int = 4, test_fold: int = 0
) -> list[Path]:
    """Returns the folders of `num_sites` simulated hospitals, among which the patients are dealt.

    Guarantees:
        - A patient's images are all of their first imaged day, in the order of data.csv, whatever
          the outcome.
        - Patients who were in the intensive care unit before their first image are left out: what
          is to be predicted has happened.
        - A laboratory value was measured on that day or before; the latest of several counts.
        - Hospitals differ by at most one in patients and in patients of the intensive care unit.
        - Infinite values stay ("above what the instrument measures"): the study says how to read
          them.
        - The same source gives the same bytes.

    Args:
        source: the folder with data.csv and images_128.npz.
        test_fold: 0…3, the part of each hospital's patients that column `split` marks as test.

    Raises:
        DataError: a source file is missing or cannot be read, or the two do not fit.
        ValueError: there is no such fold, or no hospital.
    """
    if not 0 <= test_fold < NUM_FOLDS or num_sites < 1:
        raise ValueError(f"expected a test_fold in 0…{NUM_FOLDS - 1} and a site or more")
    require_files(source, FILES, dataset="the Hannover X-rays")
    rows = _first_days(read_source(source / "data.csv"))
    pixels_of = _pixels_by_image(source / "images_128.npz", rows["image_id"])
    patients, part_B = _patients_of(rows, num_sites, test_fold)
    folders = []
    for part in range(num_sites):
        here = patients[part_B == part]
        shown = rows[rows["patient_id"].isin(here["patient_id"])]
        files = shown["image_id"] + ".png"
        folder = write_site_folder(
            out / f"hospital-{part + 1}",
            site=f"hospital-{part + 1}",
            dataset_id=f"hannover-cxr-{num_sites}-{part + 1}",
            patients=here,
            tables={"imaging": pd.DataFrame({"patient_id": shown["patient_id"], "file": files})},
            images={"imaging": {f"{i}.png": pixels_of[i] for i in shown["image_id"]}},
            min_patients=5,
            smallest_group=1,
            source=SOURCE,
        )
        folders.append(folder)
    logger.info("wrote %d sites: %d patients", num_sites, len(patients))
    return folders


def _first_days(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each patient's first imaged day, by patient and then as they stood.

    Offsets are days from the image to an event, so that the first image is the one from which
    admission lies least in the past.
    """
    until_admission = pd.to_numeric(rows["admission_offset"])
    first = until_admission.groupby(rows["patient_id"]).transform("max")
    was_there_before = pd.to_numeric(rows["icu_admission_offset"]) < 0
    chosen = rows[(until_admission == first) & ~was_there_before]
    return chosen.sort_values("patient_id", kind="stable")


def _pixels_by_image(path: Path, image_ids: "pd.Series[str]") -> dict[str, Pixels]:
    """The images that are used, by id."""
    try:
        with np.load(path) as archive:
            pixels_of = dict(zip(archive["image_id"].tolist(), archive["images"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as fault:
        raise DataError(
            f"Expected arrays image_id and images, found none that can be read"
            f" ({type(fault).__name__}; {path}). Get the file again."
        ) from None
    num_absent = int((~image_ids.isin(list(pixels_of))).sum())
    if num_absent:
        raise DataError(
            f"Expected an image for every row of data.csv, found none for {num_absent} of"
            f" {len(image_ids)} ({path}). Get both files again."
        )
    return pixels_of


def _patients_of(
    rows: pd.DataFrame, num_sites: int, test_fold: int
) -> tuple[pd.DataFrame, "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    """The patients' table, in the order of the ids, and the hospital of each."""
    grouped = rows.groupby("patient_id", sort=True)
    patients = grouped[["sex", "icu_admission_offset"]].first().reset_index()
    care = patients["icu_admission_offset"].notna().map({True: "icu", False: "ward"})
    part_B = deal(patients["patient_id"], care, num_parts=num_sites, purpose="hannover-cxr site")
    strata = pd.Series([f"{part}-{c}" for part, c in zip(part_B, care, strict=True)])
    fold_B = deal(patients["patient_id"], strata, num_parts=NUM_FOLDS, purpose="hannover-cxr fold")
    head = {
        "patient_id": patients["patient_id"],
        "split": np.where(fold_B == test_fold, "test", "train"),
        "fold": fold_B,
        "intensive_care": care.map({"icu": "yes", "ward": "no"}),
        "sex": patients["sex"].map({"f": "female", "m": "male"}),
    }
    return pd.DataFrame({**head, **_labs_of(rows, patients["patient_id"])}), part_B


def _labs_of(rows: pd.DataFrame, ids: "pd.Series[str]") -> "dict[str, pd.Series[float]]":
    """The latest value of each patient that was measured by the day of the image."""
    labs = {}
    for name, ours in LABS.items():
        days = pd.to_numeric(rows[f"{name}_offset"])
        known = rows[days <= 0].assign(days=days).sort_values("days", kind="stable")
        latest = known.drop_duplicates("patient_id", keep="last").set_index("patient_id")
        labs[ours] = pd.to_numeric(ids.map(latest[f"{name}_val"]))
    return labs
