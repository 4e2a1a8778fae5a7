"""The anchor: a pooled logistic regression with missing indicators."""

import warnings

import numpy as np
from numpy.typing import NDArray

from client.data import Cohort


def logistic_scores(training: Cohort, held_out: Cohort, num_classes: int) -> NDArray[np.float64]:
    """Probabilities (B, C) for `held_out` of a logistic regression fitted on `training`.

    Numbers are standardised with missing ones at the mean, and have a missing indicator;
    categories are one-hot, missing being one of them. scikit-learn's defaults (L2, C = 1).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    means = _means(training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(_design(training, means, training), training.labels_B)
    scores_BC = np.zeros((len(held_out), num_classes))
    if len(held_out):
        scores_BC[:, model.classes_] = model.predict_proba(_design(held_out, means, training))
    return scores_BC


def _means(cohort: Cohort) -> dict[str, NDArray[np.float64]]:
    return {
        name: np.where(a["observed_BF"], a["numeric_BF"], 0.0).sum(axis=0)
        / np.maximum(a["observed_BF"].sum(axis=0), 1)
        for name, a in cohort.arrays.items()
    }


def _design(
    cohort: Cohort, means: dict[str, NDArray[np.float64]], training: Cohort
) -> NDArray[np.float64]:
    columns = []
    for name, arrays in cohort.arrays.items():
        observed_BF = arrays["observed_BF"]
        columns += [np.where(observed_BF, arrays["numeric_BF"], means[name]), observed_BF]
        for k in range(arrays["codes_BK"].shape[1]):
            num_codes = int(training.arrays[name]["codes_BK"][:, k].max(initial=0)) + 1
            codes_B = arrays["codes_BK"][:, k]
            columns.append(codes_B[:, None] == np.arange(num_codes))
    return np.concatenate([np.asarray(c, dtype=np.float64) for c in columns], axis=1)
