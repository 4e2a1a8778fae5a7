"""The eICU demo as site folders: first day in intensive care, at 4 regions or at 186 hospitals.

One example is one patient: their first stay. What is written was known by the end of the first day
in the unit, or by the end of the stay if that came first. This module must never write a field that
was filled in at discharge or that says how the stay ended, except as an outcome.

Not read at all, because they tell of the outcome: `apachepatientresult` (but by the anchors), the
care plans (limits of care), discharge fields, `diedinhospital`, `dischargelocation` and
`var03hspxlos` of `apachepredvar`, and everything said to be active upon discharge.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd

from simulations.datasets.dealing import deal
from simulations.datasets.eicu_demo_events import notes_of, vitals_of
from simulations.datasets.eicu_demo_patients import features_of, first_stays, outcomes_of
from simulations.datasets.source_files import require_files
from simulations.site_folder import write_site_folder

SOURCE: Final = (
    "eICU Collaborative Research Database Demo 2.0 (Pollard et al. 2018),"
    " doi:10.1038/sdata.2018.178, ODbL 1.0"
)
FILES: Final = tuple(
    f"{name}.csv.gz"
    for name in (
        *("patient", "hospital", "apacheapsvar", "apachepredvar", "admissiondx", "diagnosis"),
        *("treatment", "pasthistory", "vitalaperiodic", "respiratorycharting", "physicalexam"),
    )
)
NUM_FOLDS: Final = 5
Sites = Literal["region", "hospital"]

logger = logging.getLogger(__name__)


def import_eicu_demo(
    source: Path, out: Path, *, sites: Sites = "region", test_fold: int = 0
) -> list[Path]:
    """Returns the site folders written under `out`, in the order of their names.

    Guarantees:
        - One row is one patient; those whose hospital outcome is unknown are left out.
        - No event later than 1440 minutes after admission to the unit, or than the end of the stay,
          is written, by any of the times that its record bears.
        - With sites = "region", all patients of a hospital are in one fold: the held-out hospitals
          are unseen in training. With sites = "hospital", each hospital's patients are dealt to the
          folds.
        - The folds do not depend on the outcome, nor on `test_fold`.
        - The same source gives the same bytes.

    Args:
        source: the folder with the demo's files (FILES).
        sites: one site for each region (and "unknown"), or for each hospital.
        test_fold: 0…4, the fold that column `split` marks as test.

    Raises:
        DataError: a source file is missing or cannot be read.
        ValueError: there is no such fold.
    """
    if not 0 <= test_fold < NUM_FOLDS:
        raise ValueError(f"expected test_fold in 0…{NUM_FOLDS - 1}, found {test_fold}")
    require_files(source, FILES, dataset="the eICU demo")
    stays = first_stays(source)
    stays = stays[stays["hospitaldischargestatus"].notna()].reset_index(drop=True)
    patients = _patients_of(source, stays, sites=sites, test_fold=test_fold)
    site_B = stays["region"] if sites == "region" else "hospital-" + stays["hospitalid"]
    tables = {"vitals": vitals_of(source, stays), "notes": notes_of(source, stays)}
    by_site = _divided(
        {"patients": patients, **tables}, dict(zip(stays["uniquepid"], site_B, strict=True))
    )
    folders = []
    for site, data in by_site.items():
        folder = write_site_folder(
            out / site,
            site=site,
            # The same patients under either division: one data set each, and so one ledger.
            dataset_id=f"eicu-demo-{site}",
            patients=data.pop("patients"),
            tables=data,
            # Ten patients a hospital is what the demo has.
            min_patients=20 if sites == "region" else 4,
            smallest_group=10 if sites == "region" else 1,
            source=SOURCE,
        )
        folders.append(folder)
    logger.info("wrote %d sites: %d patients", len(folders), len(patients))
    return folders


def _divided(
    tables: Mapping[str, pd.DataFrame], site_of: Mapping[str, str]
) -> dict[str, dict[str, pd.DataFrame]]:
    """The rows of each table by site and then by table, sites in the order of their names."""
    by_site: dict[str, dict[str, pd.DataFrame]] = {
        site: {} for site in sorted(set(site_of.values()))
    }
    for name, table in tables.items():
        for site, rows in table.groupby(table["patient_id"].map(site_of)):
            by_site[str(site)][name] = rows
    return by_site


def _patients_of(
    source: Path, stays: pd.DataFrame, *, sites: Sites, test_fold: int
) -> pd.DataFrame:
    """The patients' table, in the order of `stays`."""
    # By hospitals within a region, or by patients within a hospital.
    ids, strata = ("hospitalid", "region") if sites == "region" else ("uniquepid", "hospitalid")
    fold_B = deal(stays[ids], stays[strata], num_parts=NUM_FOLDS, purpose="eicu-demo fold")
    head = pd.DataFrame(
        {
            "patient_id": stays["uniquepid"],
            "split": np.where(fold_B == test_fold, "test", "train"),
            "fold": fold_B,
            "hospital": stays["hospitalid"],
        }
    )
    return pd.concat([head, outcomes_of(stays), features_of(source, stays)], axis=1)
