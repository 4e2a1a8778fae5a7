"""The anchor: a pooled linear model of tables, markers and means of series.

Logistic regression for classes and ridge regression for quantities, with missing indicators.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data import Cohort
from common.outcomes import ClassOutcome, RegressionOutcome
from common.study import Study

Floats = NDArray[np.float64]


def logistic_predictions(training: Cohort, held_out: Cohort, study: Study) -> dict[str, Floats]:
    """Predictions for `held_out` of linear models fitted on `training`, by outcome.

    Numbers are standardised with missing ones at the mean, and have a missing indicator;
    categories are one-hot, missing being one of them; a series is the mean of its steps. Images and
    texts are not used, and survival is not predicted. scikit-learn's defaults (L2, C = 1; α = 1).

    Edge cases:
        - no training patient's outcome is known: the outcome is not predicted.
        - one class among the training patients: it is certain.
    """
    means = _means(training)
    design, design_held_out = (_design(c, means, training) for c in (training, held_out))
    if not design.shape[1]:
        return {}
    predictions = {}
    for name, outcome in study.outcomes.items():
        labels = training.outcomes[name]
        known_B = labels["known_B"]
        if not known_B.any():
            continue
        if isinstance(outcome, ClassOutcome):
            predictions[name] = _classes(
                design[known_B], labels["label_B"][known_B], design_held_out, len(outcome.classes)
            )
        elif isinstance(outcome, RegressionOutcome):
            predictions[name] = _values(
                design[known_B], labels["value_B"][known_B], design_held_out, outcome
            )
    return predictions


def _classes(
    design: Floats, label_B: NDArray[np.int64], held_out: Floats, num_classes: int
) -> Floats:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores_BC = np.zeros((len(held_out), num_classes))
    if (label_B == label_B[0]).all():
        scores_BC[:, label_B[0]] = 1.0
        return scores_BC
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(design, label_B)
    if len(held_out):
        scores_BC[:, model.classes_] = model.predict_proba(held_out)
    return scores_BC


def _values(
    design: Floats, value_B: NDArray[np.float32], held_out: Floats, outcome: RegressionOutcome
) -> Floats:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), Ridge())
    is_log = outcome.scale == "log"
    model.fit(design, np.log1p(value_B) if is_log else value_B)
    if not len(held_out):
        return np.zeros((0, 1))
    value_B1 = np.asarray(model.predict(held_out), dtype=np.float64)[:, None]
    return np.expm1(value_B1) if is_log else value_B1


def _numbers(arrays: Mapping[str, NDArray[Any]]) -> tuple[Floats, NDArray[np.bool_]] | None:
    """The measured quantities (B, F) and which were observed; None where the kind has none."""
    if "numeric_BTF" in arrays:
        observed_BTF = arrays["observed_BTF"]
        num_BF = observed_BTF.sum(axis=1)
        total_BF = np.where(observed_BTF, arrays["numeric_BTF"], 0.0).sum(axis=1)
        return total_BF / np.maximum(num_BF, 1), num_BF > 0
    if "numeric_BF" in arrays:
        return arrays["numeric_BF"].astype(np.float64), arrays["observed_BF"]
    return None


def _means(cohort: Cohort) -> dict[str, Floats]:
    means = {}
    for name, arrays in cohort.arrays.items():
        numbers = _numbers(arrays)
        if numbers is not None:
            value_BF, observed_BF = numbers
            total_F = np.where(observed_BF, value_BF, 0.0).sum(axis=0)
            means[name] = total_F / np.maximum(observed_BF.sum(axis=0), 1)
    return means


def _design(cohort: Cohort, means: dict[str, Floats], training: Cohort) -> Floats:
    columns: list[NDArray[Any]] = [np.zeros((len(cohort), 0))]
    for name, arrays in cohort.arrays.items():
        numbers = _numbers(arrays)
        if numbers is not None:
            value_BF, observed_BF = numbers
            columns += [np.where(observed_BF, value_BF, means[name]), observed_BF]
        codes_BK = arrays.get("codes_BK", np.zeros((len(cohort), 0), dtype=np.int64))
        for k in range(codes_BK.shape[1]):
            num_codes = int(training.arrays[name]["codes_BK"][:, k].max(initial=0)) + 1
            columns.append(codes_BK[:, k][:, None] == np.arange(num_codes))
    return np.concatenate([np.asarray(c, dtype=np.float64) for c in columns], axis=1)
