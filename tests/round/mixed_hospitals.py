"""Three hospitals with outcomes of every kind, written by hand: seconds to train on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.study import Study
from simulations.site_folder import write_site_folder

OUTCOMES: dict[str, dict[str, Any]] = {
    "event": {"kind": "binary", "column": "event", "classes": ["no", "yes"]},
    "stage": {"kind": "multiclass", "column": "stage", "classes": ["0", "1", "2"]},
    "stay": {"kind": "regression", "column": "stay_days", "unit": "days", "range": [0, 60]},
    "death": {
        "kind": "survival",
        "time_column": "death_days",
        "event_column": "died",
        "unit": "days",
        "cut_points": [30, 90, 180, 365],
    },
}
SITES = {"alpha": 90, "beta": 120, "gamma": 75}


def mixed_study(*outcomes: str, **sections: dict[str, Any]) -> Study:
    """A study of these outcomes, with fields of some sections replaced.

    A section "outcomes" holds fields of outcomes: `outcomes={"death": {"loss": "cox"}}`.
    """
    changed = sections.pop("outcomes", {})
    table: dict[str, Any] = {
        "study": {"name": "mixed"},
        "outcomes": {name: OUTCOMES[name] | changed.get(name, {}) for name in outcomes},
        "granularities": {
            "labs": {
                "kind": "tabular",
                "hidden": [4],
                "features": {
                    "age_years": {"kind": "numeric", "unit": "years", "range": [18, 100]},
                    "sex": {"kind": "categorical", "categories": ["female", "male"]},
                },
            },
            "lifestyle": {
                "kind": "tabular",
                "hidden": [],
                "features": {
                    "steps_per_day": {"kind": "numeric", "unit": "steps/day", "range": [0, 40000]}
                },
            },
        },
        "model": {"width": 4},
        "evaluation": {"score_bins": 20},
        "training": {"rounds": 3, "local_epochs": 1, "batch_size": 16, "learning_rate": 0.1},
    }
    for section, fields in sections.items():
        table[section] = {**table.get(section, {}), **fields}
    return Study.model_validate(table)


def patients_of(num_patients: int, seed: int, *, missing: float = 0.0) -> pd.DataFrame:
    """Patients whose age, and inactivity, speak for every outcome.

    Args:
        missing: the part of the patients of whom an outcome is not known, for each of them.
    """
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, num_patients)
    steps = rng.uniform(1000, 15000, num_patients)
    risk = (age - 55) / 15 - (steps - 8000) / 5000 + rng.normal(0, 0.5, num_patients)
    death = rng.exponential(200 * np.exp(-risk))
    end = rng.uniform(60, 500, num_patients)
    columns: dict[str, Any] = {
        "patient_id": [f"p{seed}-{i:04d}" for i in range(num_patients)],
        "split": ["test" if i % 3 == 2 else "train" for i in range(num_patients)],
        "age_years": age.round(1),
        "sex": rng.choice(["female", "male"], num_patients),
        "steps_per_day": steps.round(),
        "event": np.where(risk > 0.5, "yes", "no"),
        "stage": np.digitize(risk, [-1.0, 1.0]),
        "stay_days": np.clip(20 + 10 * risk, 0, 60).round(1),
        "death_days": np.minimum(death, end).round(1),
        "died": (death <= end).astype(int),
    }
    table = pd.DataFrame(columns).astype(object)
    for outcome in (["event"], ["stage"], ["stay_days"], ["death_days", "died"]):
        table.loc[rng.random(num_patients) < missing, outcome] = None
    return table


def write_hospitals(folder: Path, *, missing: float = 0.0) -> Path:
    """Writes the hospitals; gamma has no granularity lifestyle."""
    for seed, (site, num_patients) in enumerate(SITES.items()):
        patients = patients_of(num_patients, seed, missing=missing)
        if site == "gamma":
            patients = patients.drop(columns="steps_per_day")
        write_site_folder(
            folder / site, site=site, dataset_id=site, patients=patients, source="A test."
        )
    return folder
