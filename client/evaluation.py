"""Evaluation at a site: predictions of a model for its patients, and their mergeable sums.

Predictions stay here; only `EvaluationSums` go to the egress.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from client.recalibration import add_intercept, fit_intercept
from client.training import Patients
from common.metrics import EvaluationSums, sums_of
from common.models.heads import probabilities
from common.models.patient_model import PatientModel
from common.study import Study

_BATCH = 4096


def predict(model: PatientModel, patients: Patients, study: Study) -> NDArray[np.float64]:
    """The probability of each class for each patient, shape (B, C), rows add to 1."""
    if len(patients) == 0:
        return np.empty((0, study.num_classes))
    model.eval()
    parts = []
    with torch.inference_mode():
        indices = torch.arange(len(patients), device=patients.labels_B.device)
        for index_B in torch.split(indices, _BATCH):
            inputs, _ = patients.batch(index_B)
            parts.append(probabilities(study.outcome, model(inputs)).cpu().numpy())
    return np.concatenate(parts)


def predict_at_site(
    model: PatientModel, patients: Patients, study: Study, *, trained_on: Patients
) -> NDArray[np.float64]:
    """As `predict`, with the site's own intercept where the study has one.

    Args:
        trained_on: the site's training patients, whom the intercept is fitted to.
    """
    scores_BC = predict(model, patients, study)
    if study.model.site_intercept_sd == 0:
        return scores_BC
    intercept_C = fit_intercept(
        predict(model, trained_on, study),
        trained_on.labels_B.cpu().numpy(),
        study.model.site_intercept_sd,
    )
    return add_intercept(scores_BC, intercept_C)


def evaluate(scores_BC: NDArray[np.float64], patients: Patients, study: Study) -> EvaluationSums:
    """The sums of these predictions for these patients."""
    labels_B = patients.labels_B.cpu().numpy()
    return sums_of(scores_BC, labels_B, score_bins=study.evaluation.score_bins)
