"""A site's patients and a model in memory, for the tests of explanations."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.config import SiteConfig
from client.data import Cohort
from client.evaluation import Intercepts, predict, with_intercepts
from client.explain.subject import Part, Subject
from client.policy import Policy
from client.training import to_device
from common.models.patient_model import PatientModel
from common.study import Study
from tests.unit.builders import batch_of, outcomes_of

SMALLEST_GROUP = 10
NONE: Mapping[str, Any] = {}


def config_of(folder: Path = Path("hospital")) -> SiteConfig:
    """A site that judges no group of fewer than `SMALLEST_GROUP` patients."""
    return SiteConfig(
        folder=folder,
        name="alpha",
        dataset_id="d",
        device="cpu",
        threads=1,
        state_dir=folder.parent / "state",
        patients=folder / "patients.csv",
        files={},
        pretrained={},
        embeddings_dir=folder.parent / "state" / "embeddings",
        lacks=frozenset(),
        identifiers="mask",
        policy=Policy(allow_without_privacy=True, smallest_group=SMALLEST_GROUP),
    )


def cohort_of(study: Study, num_patients: int, *, seed: int = 0, unknown: float = 0.0) -> Cohort:
    """Random patients of a study of tabular granularities."""
    arrays = {
        name: {key: value.numpy() for key, value in part.items()}
        for name, part in batch_of(study, num_patients, seed).items()
    }
    return Cohort(
        arrays=arrays,
        outcomes=outcomes_of(study, num_patients, seed, unknown=unknown),
        is_test_B=np.zeros(num_patients, dtype=np.bool_),
        pseudonym_B=np.array([f"{i}" for i in range(num_patients)]),
    )


def model_of(study: Study, seed: int = 1, *, scale: float = 0.3) -> PatientModel:
    """A model whose parameters are larger than those of a new one, so that it says something."""
    model = PatientModel(study)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def subject_of(
    study: Study,
    *,
    model: PatientModel | None = None,
    train: Cohort | None = None,
    test: Cohort | None = None,
    intercepts: Intercepts = NONE,
) -> Subject:
    """A site with these patients; random ones, of 60 and 40, where none are given."""
    model = model or model_of(study)

    def part(cohort: Cohort) -> Part:
        patients = to_device(cohort, torch.device("cpu"))
        return Part(
            cohort=cohort,
            patients=patients,
            predictions=with_intercepts(predict(model, patients), intercepts),
            ids=tuple(f"p{i}" for i in range(len(cohort))),
        )

    return Subject(
        config=config_of(),
        study=study,
        model=model,
        intercepts=intercepts,
        is_own=False,
        train=part(train or cohort_of(study, 60, seed=1)),
        test=part(test or cohort_of(study, 40, seed=2)),
        notes=(),
    )


def with_predictions(subject: Subject, name: str, train_BP: Any, test_BP: Any) -> Subject:
    """The subject, as if the model had predicted this."""
    return replace(
        subject,
        train=replace(subject.train, predictions={name: np.asarray(train_BP)}),
        test=replace(subject.test, predictions={name: np.asarray(test_BP)}),
    )


def with_labels(cohort: Cohort, name: str, label_B: Any) -> Cohort:
    """The cohort with other classes, all of them known."""
    label_B = np.asarray(label_B, dtype=np.int64)
    arrays = {"known_B": np.ones(len(label_B), dtype=np.bool_), "label_B": label_B}
    return replace(cohort, outcomes={**cohort.outcomes, name: arrays})
