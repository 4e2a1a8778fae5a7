"""`wardround predict`: a model's predictions for a hospital's own patients, at the hospital.

The one place where predictions of patients are written, and it writes them where the hospital says,
for the hospital alone. Nothing is sent.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.config import load_site_config
from client.contributions import MOST_GRANULARITIES, contributions
from client.data import Cohort, cohort_of, pseudonym, usable_cohort
from client.device import device_of
from client.evaluation import Predictions, predict, with_intercepts
from client.run_model import has_intercepts, load_run_model
from client.sources.tables import read_table
from client.training import to_device
from common.errors import RunError, SiteConfigError, StudyError
from common.files import write_atomically
from common.model_file import study_of_model
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome

Columns = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """How many patients were predicted, and sentences that whoever asked should read."""

    num_patients: int
    notes: tuple[str, ...]


def predict_site(site_dir: Path, run: Path, out: Path, *, shared: bool = False) -> Predicted:
    """Writes predictions for all patients of a site to `out`; returns how many there are.

    Guarantees:
        - Every patient of the patients' table has a line, with or without a known outcome, from
          whichever granularities they have; one without any is predicted from none.
        - The file can be read by its owner alone, and lies outside of the run's folder, which
          others may see.
        - The contributions of a line add up to the score of its prediction.
        - What is predicted of a patient does not depend on who else is in the folder, nor on
          outcomes.

    Args:
        run: the folder of a finished run (`model.safetensors`, `study.toml`, `results.json`).
        shared: use the shared model also where the site has one of its own.

    Raises:
        SiteConfigError: the site folder is malformed, or `out` is taken or within `run`.
        DataError: the data cannot be used; every reason is told.
        RunError, StudyError: `run` holds no model with its study, or the study has models of the
            sites' own and this site none.
    """
    config = load_site_config(site_dir)
    study = study_of_model(run)
    if study is None:
        raise RunError(
            f"Expected study.toml beside the model in {run}, found none. Name the run's folder."
        )
    if len(study.granularities) > MOST_GRANULARITIES:
        raise StudyError(
            f"Expected at most {MOST_GRANULARITIES} granularities to tell the contributions of, "
            f"found {len(study.granularities)}."
        )
    _check_place(out, run)
    table, findings = read_table(config.patients)
    cohort = usable_cohort(*cohort_of(table, findings, config, study, needs_outcomes=False))
    loaded = load_run_model(config, study, run, shared=shared)
    device = device_of(config.device)
    model, intercepts = loaded.model.to(device), loaded.intercepts
    patients = to_device(cohort, device)
    predictions = with_intercepts(predict(model, patients), intercepts)
    columns = {"patient_id": _ids(table, cohort)} | _provenance(cohort)
    for name, outcome in study.outcomes.items():
        columns |= _predicted(name, outcome, predictions)
    for name, parts in contributions(model, patients, study, intercepts).items():
        columns[f"{name}_from_nothing"] = _numbers(parts.nothing_B)
        for g, granularity in enumerate(study.granularities):
            columns[f"{name}_from_{granularity}"] = _numbers(parts.granularities_BG[:, g])
        if has_intercepts(study)[name]:
            columns[f"{name}_from_site"] = _numbers(parts.site_B)
    _write(out, columns)
    return Predicted(num_patients=len(cohort), notes=loaded.notes)


def _check_place(out: Path, run: Path) -> None:
    if run.resolve() in out.resolve().parents:
        raise SiteConfigError(
            f"Expected --out outside of the run's folder, found it inside ({out}). Predictions "
            "stay with the hospital; the run's folder may be the coordinator's."
        )
    if out.exists():
        raise SiteConfigError(
            f"Expected no file at {out}, found one. Nothing was changed; name another by --out."
        )


def _ids(table: pd.DataFrame | None, cohort: Cohort) -> list[str]:
    """The ids behind the pseudonyms, in the order of the cohort."""
    if table is None:
        raise ValueError("expected a table where there is a cohort")
    id_of = {pseudonym(patient_id): patient_id for patient_id in table["patient_id"]}
    return [id_of[p] for p in cohort.pseudonym_B]


def _provenance(cohort: Cohort) -> Columns:
    """Whether the model may have been trained on the patient, and what it was predicted from."""
    is_known_B = np.any([a["known_B"] for a in cohort.outcomes.values()], axis=0)
    part_B = np.where(cohort.is_test_B, "held_out", "training")
    part = np.where(is_known_B, part_B, "new").tolist()
    present = {name: arrays["present_B"] for name, arrays in cohort.arrays.items()}
    predicted_from = [
        " ".join(name for name, present_B in present.items() if present_B[b]) or "nothing"
        for b in range(len(cohort))
    ]
    return {"part": part, "predicted_from": predicted_from}


def _predicted(name: str, outcome: AnyOutcome, predictions: Predictions) -> Columns:
    predicted_BP = predictions[name]
    if isinstance(outcome, ClassOutcome):
        classes = [outcome.classes[c] for c in predicted_BP.argmax(axis=1)]
        return {name: classes} | {
            f"{name}_probability_{label}": _numbers(predicted_BP[:, c])
            for c, label in enumerate(outcome.classes)
        }
    if isinstance(outcome, RegressionOutcome):
        return {name: _numbers(predicted_BP[:, 0])}
    if outcome.loss == "cox":
        return {f"{name}_rank": _numbers(1 - predicted_BP[:, 0])}
    return {
        f"{name}_survival_{cut_point:g}": _numbers(predicted_BP[:, k])
        for k, cut_point in enumerate(outcome.cut_points)
    }


def _numbers(values_B: NDArray[np.float64]) -> list[str]:
    return [f"{value:.6g}" for value in values_B]


def _write(out: Path, columns: Columns) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomically(out, text.getvalue().encode(), durable=True, mode=0o600)
