"""Evaluation at a site: predictions of a model for its patients, and their mergeable sums.

Predictions stay here; only `EvaluationSums` go to the egress.

Letters of shapes: B patients, C classes, P predicted numbers of a patient (by kind of outcome).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.physical_batch import PhysicalBatch
from client.recalibration import add_intercept, fit_intercept
from client.training import Patients
from common.metrics.evaluation import statistics_of
from common.metrics.statistics import EvaluationSums
from common.models.patient_model import PatientModel
from common.outcomes import ClassOutcome
from common.study import Study

# By outcome: (B, P) of what its head predicts.
Predictions = Mapping[str, NDArray[np.float64]]
# By outcome of classes: a site's own intercepts (C,), on the scale of logits.
Intercepts = Mapping[str, NDArray[np.float64]]
# By outcome, then by array name: what `Cohort.outcomes` holds.
Outcomes = Mapping[str, Mapping[str, NDArray[Any]]]

_BATCH = 1024


def predict(model: PatientModel, patients: Patients) -> Predictions:
    """The predictions of every outcome for each patient, in float64.

    Where memory runs out, of fewer patients at a time.
    """
    model.eval()

    def of(place: slice) -> dict[str, Tensor]:
        with torch.inference_mode():
            inputs, _ = patients.batch(torch.arange(len(patients))[place])
            return model.predictions(model(inputs))

    # Of nobody, too, the predictions have their shape.
    physical = PhysicalBatch(_BATCH, patients.device)
    parts = list(physical.pieces(len(patients), of)) or [of(slice(0))]
    return {name: torch.cat([p[name] for p in parts]).cpu().numpy() for name in parts[0]}


def predict_at_site(
    model: PatientModel, patients: Patients, study: Study, *, trained_on: Patients
) -> Predictions:
    """As `predict`, with the site's own intercepts of classes where the study has them.

    Args:
        trained_on: the site's training patients, whom the intercepts are fitted to.
    """
    intercepts = fit_intercepts(model, trained_on, study)
    return with_intercepts(predict(model, patients), intercepts)


def fit_intercepts(model: PatientModel, trained_on: Patients, study: Study) -> Intercepts:
    """The site's own intercepts of each outcome of classes; none where the study has none."""
    sd = study.model.site_intercept_sd
    named = [name for name, o in study.outcomes.items() if isinstance(o, ClassOutcome)]
    if sd == 0 or not named:
        return {}
    own, labels = predict(model, trained_on), outcomes_of(trained_on)
    intercepts = {}
    for name in named:
        known_B = labels[name]["known_B"]
        intercepts[name] = fit_intercept(own[name][known_B], labels[name]["label_B"][known_B], sd)
    return intercepts


def with_intercepts(predictions: Predictions, intercepts: Intercepts) -> Predictions:
    """The predictions once the intercepts are added to the logits of their outcomes."""
    moved = {name: add_intercept(predictions[name], i_C) for name, i_C in intercepts.items()}
    return {**predictions, **moved}


def outcomes_of(patients: Patients) -> Outcomes:
    """The outcomes of patients on a device, as arrays."""
    return {
        name: {key: value.cpu().numpy() for key, value in tensors.items()}
        for name, tensors in patients.outcomes.items()
    }


def evaluate(
    predictions: Predictions, outcomes: Outcomes, study: Study
) -> dict[str, EvaluationSums]:
    """The sums of these predictions, by outcome."""
    return {
        name: statistics.sums_of(predictions[name], outcomes[name])
        for name, statistics in statistics_of(study).items()
    }
