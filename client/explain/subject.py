"""What is explained: the model of a run, as one hospital uses it, and that hospital's patients."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.config import SiteConfig
from client.data import Cohort, cohort_of, pseudonym, usable_cohort
from client.device import device_of
from client.evaluation import Intercepts, Predictions, predict, with_intercepts
from client.run_model import load_run_model
from client.sources.tables import read_table
from client.training import Patients, to_device
from common.errors import DataError, RunError
from common.model_file import study_of_model
from common.models.patient_model import PatientModel
from common.study import Study


@dataclass(frozen=True, kw_only=True)
class Part:
    """The training or the held-out patients, and what the model predicts of them.

    Attributes:
        ids: of the patients, in the order of the cohort; for the hospital's own files alone.
    """

    cohort: Cohort
    patients: Patients
    predictions: Predictions
    ids: tuple[str, ...]

    def known(self, outcome: str) -> NDArray[np.bool_]:
        """Of which patients the outcome is known."""
        known_B: NDArray[np.bool_] = self.cohort.outcomes[outcome]["known_B"]
        return known_B


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model of a run at a site, and the site's patients whose outcomes are known.

    Attributes:
        intercepts: the site's own, by outcome.
        is_own: whether the model is the site's own, or has blocks that are.
        notes: sentences that the reader should know.
    """

    config: SiteConfig
    study: Study
    model: PatientModel
    intercepts: Intercepts
    is_own: bool
    train: Part
    test: Part
    notes: tuple[str, ...]

    @property
    def smallest_group(self) -> int:
        """Fewer patients than this are not judged as a group: the policy's figure."""
        return self.config.policy.smallest_group


def load_subject(config: SiteConfig, run: Path, *, shared: bool) -> Subject:
    """The model of the run and the patients of the site.

    Args:
        shared: the shared model also where the site has one of its own.

    Raises:
        DataError: the data cannot be used, or nobody is held out.
        RunError, StudyError: `run` holds no model with its study, or the study has models of the
            sites' own and this site none.
    """
    study = study_of_model(run)
    if study is None:
        raise RunError(
            f"Expected study.toml beside the model in {run}, found none. Name the run's folder."
        )
    table, findings = read_table(config.patients)
    cohort = usable_cohort(*cohort_of(table, findings, config, study, needs_outcomes=True))
    if not cohort.is_test_B.any():
        raise DataError(
            "Expected held-out patients to explain the model on, found none "
            f"({config.patients.name}). Hold some out by the study's split column."
        )
    loaded = load_run_model(config, study, run, shared=shared)
    device = device_of(config.device)
    model = loaded.model.to(device).eval()
    ids = {} if table is None else {pseudonym(i): i for i in table["patient_id"].dropna()}

    def part(chosen: Cohort) -> Part:
        patients = to_device(chosen, device)
        return Part(
            cohort=chosen,
            patients=patients,
            predictions=with_intercepts(predict(model, patients), loaded.intercepts),
            ids=_ids_of(chosen, ids),
        )

    return Subject(
        config=config,
        study=study,
        model=model,
        intercepts=loaded.intercepts,
        is_own=not shared and (study.personal.has_model or bool(study.personal.local_blocks)),
        train=part(cohort.train),
        test=part(cohort.test),
        notes=loaded.notes,
    )


def _ids_of(cohort: Cohort, ids: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(ids[p] for p in cohort.pseudonym_B)
