"""TCGA-BRCA as six site folders, by region: survival and subtype of breast cancer.

The rows, the 39 clinical features and the train/test split are those of FLamby's Fed-TCGA-BRCA; 219
of its 1088 patients also have mRNA, miRNA and (150 of them) protein expression and a subtype. The
values are kept as published. This module must never move a patient from one side of the split to
the other.
"""

import logging
import re
from pathlib import Path
from typing import Final

import pandas as pd

from common.errors import DataError
from simulations.datasets.source_files import read_source, require_files
from simulations.site_folder import write_site_folder

SOURCE: Final = (
    "TCGA-BRCA as in FLamby (Ogier du Terrail et al. 2022) and mixOmics (Singh et al. 2019);"
    " open-access TCGA data"
)
CLINICAL: Final = "clinical/brca.csv"
SPLIT: Final = "clinical/train_test_split.csv"
OMICS_PATIENTS: Final = "multiomics/patients.csv"
OMICS: Final = ("mrna", "mirna", "protein")
FILES: Final = (CLINICAL, SPLIT, OMICS_PATIENTS, *(f"multiomics/{n}.csv.gz" for n in OMICS))

# FLamby's centre, the last part of fold2 ("train_0"), is the place in this tuple.
REGIONS: Final = ("northeast", "south", "west", "midwest", "europe", "canada")

logger = logging.getLogger(__name__)


def import_tcga_brca(source: Path, out: Path) -> list[Path]:
    """Returns the six site folders written under `out`, in FLamby's order of its centres.

    Guarantees:
        - Every patient of FLamby's split is written once, in its region, on its side of the split.
        - A patient is in mrna.csv, mirna.csv or protein.csv exactly if measured there.
        - The subtype is empty for patients without omics.
        - The same source gives the same bytes.

    Args:
        source: the folder with `clinical/` and `multiomics/` (FILES).

    Raises:
        DataError: a source file is missing, cannot be read, or lacks a patient of another.
    """
    require_files(source, FILES, dataset="TCGA-BRCA")
    omics = read_source(source / OMICS_PATIENTS, ("participant", "pid", "subtype"))
    omics = omics[omics["pid"].notna()]
    patients = _patients_of(source, omics)
    site_of = patients.pop("site").set_axis(patients["patient_id"])
    tables = {name: _markers_of(source, name, omics) for name in OMICS}
    for site in REGIONS:
        here = site_of.index[site_of == site]
        write_site_folder(
            out / site,
            site=site,
            dataset_id=f"tcga-brca-{site}",
            patients=patients[patients["patient_id"].isin(here)],
            tables={name: t[t["patient_id"].isin(here)] for name, t in tables.items()},
            # Canada has 51 patients, and 16 of them a subtype.
            min_patients=10,
            smallest_group=1,
            source=SOURCE,
        )
    logger.info("wrote %d sites: %d patients", len(REGIONS), len(patients))
    return [out / site for site in REGIONS]


def column_name(name: str) -> str:
    """FLamby's name of a feature as a name that a study can hold.

    >>> column_name("ajcc_pathologic_n_N0 (i-)")
    'ajcc_pathologic_n_n0_i'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _patients_of(source: Path, omics: pd.DataFrame) -> pd.DataFrame:
    """The patients' table, in the order of FLamby's split, with the `site` of each."""
    split = read_source(source / SPLIT, ("pid", "fold", "fold2"))
    clinical = read_source(source / CLINICAL).set_index("pid")
    num_unknown = int((~split["pid"].isin(clinical.index)).sum())
    if num_unknown:
        raise DataError(
            f"Expected every patient of {SPLIT} in {CLINICAL}, found {num_unknown} of {len(split)}"
            " who are not. Get both files from the same version of FLamby."
        )
    rows = clinical.loc[split["pid"]].reset_index(drop=True)
    centre = split["fold2"].str.split("_").str[-1].astype("int64")
    head = pd.DataFrame(
        {
            "patient_id": split["pid"],
            "site": centre.map(dict(enumerate(REGIONS))),
            "split": split["fold"],
            "time_days": rows.pop("T").astype("float64").astype("int64"),
            "event": rows.pop("E").astype("float64").astype("int64"),
            "subtype": split["pid"].map(omics.set_index("pid")["subtype"]).str.lower(),
        }
    )
    return pd.concat([head, rows.rename(columns=column_name)], axis=1)


def _markers_of(source: Path, name: str, omics: pd.DataFrame) -> pd.DataFrame:
    """The expression levels of the patients of FLamby's table, keyed by patient_id."""
    table = read_source(source / "multiomics" / f"{name}.csv.gz")
    pid_of = omics.set_index("participant")["pid"]
    table.insert(0, "patient_id", table.pop("participant").map(pid_of))
    return table[table["patient_id"].notna()].sort_values("patient_id")
