"""Anchors: what well-known methods reach on exactly the patients and splits of our site folders.

Every anchor reads the tables that an importer wrote and pools them, as no federation may; the
results of a study are held against it. This module must never choose a setting by looking at
held-out patients.

Letters of shapes: B patients, F features.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from common.granularities import TabularGranularity
from common.outcomes import ClassOutcome
from common.study import Study
from simulations.datasets.eicu_demo_patients import first_stays
from simulations.datasets.source_files import read_source

Floats = NDArray[np.float64]
Scorer = Callable[[pd.DataFrame, Floats, pd.DataFrame, list[str], int], Floats]

INVERSE_RIDGES: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
INNER_FOLDS: Final = 5


def read_folders(folders: Sequence[Path]) -> pd.DataFrame:
    """The patients' tables of site folders, one under the other, with the `site` of each row."""
    tables = [
        pd.read_csv(folder / "patients.csv", dtype={"hospital": str}).assign(site=folder.name)
        for folder in folders
    ]
    return pd.concat(tables, ignore_index=True)


def held_out_scores(patients: pd.DataFrame, study: Study, *, seed: int = 0) -> pd.DataFrame:
    """Scores of all patients by models that were trained without their fold.

    Guarantees:
        - The score of a patient depends on the outcomes of other folds alone.
        - The order of the rows does not matter to the folds: they are the column `fold`.

    Args:
        patients: of `read_folders`, with a column `fold`.
        study: its tabular granularities are the features, its primary outcome, with two classes,
            the label.

    Returns:
        patient_id, site, fold, label (0 or 1), gradient_boosting and logistic (probabilities).
    """
    outcome = study.primary
    if not isinstance(outcome, ClassOutcome) or outcome.kind != "binary":
        raise ValueError("expected a study with a binary primary outcome")
    numeric, categorical = _columns_of(study)
    label_B = (patients[outcome.column].astype(str) == outcome.classes[1]).to_numpy(dtype=float)
    table = patients[["patient_id", "site", "fold"]].assign(label=label_B.astype(int))
    scorers: dict[str, Scorer] = {"gradient_boosting": _boosting, "logistic": _logistic}
    features = patients[numeric + categorical].astype(dict.fromkeys(categorical, "object"))
    for name, scorer in scorers.items():
        score_B = np.full(len(patients), np.nan)
        for fold in sorted(patients["fold"].unique()):
            test_B = (patients["fold"] == fold).to_numpy()
            train, test = features[~test_B], features[test_B]
            # On tables as small as these, waiting threads cost many times what they save.
            with threadpool_limits(limits=1):
                score_B[test_B] = scorer(train, label_B[~test_B], test, categorical, seed)
        table[name] = score_B
    return table


def with_apache(scores: pd.DataFrame, source: Path) -> pd.DataFrame:
    """`scores` with a column apache: APACHE IVa's own hospital mortality, NaN where not scored.

    Args:
        source: the folder of the eICU demo, with apachepatientresult.csv.gz.
    """
    columns = ("patientunitstayid", "apacheversion", "predictedhospitalmortality")
    results = read_source(source / "apachepatientresult.csv.gz", columns)
    results = results[results["apacheversion"] == "IVa"].drop_duplicates("patientunitstayid")
    risk = pd.to_numeric(results.set_index("patientunitstayid")["predictedhospitalmortality"])
    stay_of = first_stays(source).set_index("uniquepid")["patientunitstayid"]
    apache = scores["patient_id"].map(stay_of).map(risk)
    return scores.assign(apache=apache.where(apache >= 0))  # -1 is "not scored"


def _columns_of(study: Study) -> tuple[list[str], list[str]]:
    tabular = [g for g in study.granularities.values() if isinstance(g, TabularGranularity)]
    return [c for g in tabular for c in g.numeric], [c for g in tabular for c in g.categorical]


def _boosting(
    train: pd.DataFrame, label_B: Floats, test: pd.DataFrame, categorical: list[str], seed: int
) -> Floats:
    """Gradient boosting as it comes, but slower and with smaller trees, for some 1500 patients."""
    encode = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan
    )
    encoder = ColumnTransformer([("categories", encode, categorical)], remainder="passthrough")
    model = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=150, max_leaf_nodes=8, l2_regularization=1.0, random_state=seed
    )
    return _probability(make_pipeline(encoder, model).fit(train, label_B), test)


def _logistic(
    train: pd.DataFrame, label_B: Floats, test: pd.DataFrame, categorical: list[str], seed: int
) -> Floats:
    """Ridge logistic regression; its strength is chosen by cross-validation within `train`."""
    folds = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=seed)
    inner = list(folds.split(train, label_B))

    def quality(strength: float) -> float:
        aurocs = []
        for fit, check in inner:
            model = _ridge(categorical, train, strength).fit(train.iloc[fit], label_B[fit])
            score_B = _probability(model, train.iloc[check])
            aurocs.append(roc_auc_score(label_B[check], score_B))
        return float(np.mean(aurocs))

    best = max(INVERSE_RIDGES, key=quality)
    return _probability(_ridge(categorical, train, best).fit(train, label_B), test)


def _ridge(categorical: list[str], train: pd.DataFrame, strength: float) -> Pipeline:
    numeric = [c for c in train.columns if c not in categorical]
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    encoder = ColumnTransformer(
        [
            ("numbers", numbers, numeric),
            ("categories", OneHotEncoder(handle_unknown="ignore"), categorical),
        ]
    )
    return make_pipeline(encoder, LogisticRegression(C=strength, max_iter=2000))


def _probability(model: Pipeline, table: pd.DataFrame) -> Floats:
    with warnings.catch_warnings():
        # A category that training never met is treated as none, which is what is wanted here.
        warnings.filterwarnings("ignore", message="Found unknown categories", category=UserWarning)
        probability_B: Floats = model.predict_proba(table)[:, 1]
    return probability_B
