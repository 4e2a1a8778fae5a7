"""Site folders on disk, in the very form that a hospital writes: simulation is no special case."""

from pathlib import Path

import pandas as pd
import tomli_w

from common.files import write_atomically


def write_site_folder(
    folder: Path,
    *,
    site: str,
    dataset_id: str,
    patients: pd.DataFrame,
    min_patients: int = 20,
    smallest_group: int = 10,
    source: str,
) -> Path:
    """Writes `patients.csv` and `site.toml` into `folder`; returns the folder.

    The policy allows training without a privacy plan, because these are not a real hospital's
    books; missing cells are empty.

    Args:
        patients: one row per patient, with `patient_id`.
        source: where the data come from, written as a comment into `site.toml`.
    """
    table = patients.to_csv(index=False, lineterminator="\n").encode()
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
    write_atomically(folder / "patients.csv", table, durable=False)
    write_atomically(folder / "site.toml", text.encode(), durable=False)
    return folder
