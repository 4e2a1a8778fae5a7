"""The columns of UCI Heart Disease: how a hospital's files become one row per patient.

The values stay as the hospital recorded them; only codes become words. This module must never fill
a missing value in or drop a patient, except the patients that FLamby's benchmark drops when its
split is asked for.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from simulations.datasets.heart_disease_raw76 import read_raw76, smoking_history

UCI_COLUMNS: Final = (
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"),
    *("slope", "ca", "thal", "num"),
)


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """How one attribute of UCI becomes a column of patients.csv; no `words` means a number."""

    uci: str
    column: str
    words: Mapping[int, str] = field(default_factory=dict)


NO_YES: Final = {0: "no", 1: "yes"}

LABS: Final = (
    Attribute(uci="age", column="age_years"),
    Attribute(uci="sex", column="sex", words={0: "female", 1: "male"}),
    Attribute(
        uci="cp",
        column="chest_pain",
        words={1: "typical_angina", 2: "atypical_angina", 3: "non_anginal", 4: "asymptomatic"},
    ),
    Attribute(uci="trestbps", column="resting_bp_mmhg"),
    Attribute(uci="chol", column="cholesterol_mg_dl"),
    Attribute(uci="fbs", column="fasting_sugar_over_120", words=NO_YES),
    Attribute(
        uci="restecg",
        column="resting_ecg",
        words={0: "normal", 1: "st_t_abnormal", 2: "lv_hypertrophy"},
    ),
    Attribute(uci="thalach", column="max_heart_rate_bpm"),
    Attribute(uci="exang", column="exercise_angina", words=NO_YES),
    Attribute(uci="oldpeak", column="st_depression_mm"),
    Attribute(uci="slope", column="st_slope", words={1: "upsloping", 2: "flat", 3: "downsloping"}),
    Attribute(uci="ca", column="major_vessels_count"),
    Attribute(
        uci="thal",
        column="thallium_scan",
        words={3: "normal", 6: "fixed_defect", 7: "reversible_defect"},
    ),
)

LIFESTYLE: Final = (
    Attribute(uci="smoke", column="ever_smoked", words=NO_YES),
    Attribute(uci="cigs", column="cigarettes_per_day"),
    Attribute(uci="years", column="smoking_years"),
)

FLAMBY_DROPPED_COLUMNS: Final = ["slope", "ca", "thal"]
FLAMBY_TRAIN_FRACTION: Final = 0.66
FLAMBY_SEED: Final = 43


def patients_of(
    site: str, processed_file: bytes, raw76_file: bytes, *, split: Literal["none", "flamby"]
) -> pd.DataFrame:
    """Returns the table of one hospital, a row per patient, in the order of the processed file.

    Args:
        site: the hospital's name, the first part of its patients' ids.
        processed_file: the contents of its 14-attribute file.
        raw76_file: the contents of its 76-attribute file; empty leaves the lifestyle empty.
        split: "flamby" keeps the patients of FLamby's benchmark only, "none" keeps all.

    Returns:
        patient_id, split (FLamby's only), diagnosis, severity, then the labs and the lifestyle
        columns; missing values are NA.
    """
    processed = read_processed(processed_file)
    smoking = smoking_history(processed, read_raw76(raw76_file))
    columns = {
        "patient_id": [f"{site}-{row + 1:04d}" for row in processed.index],
        "split": flamby_split(processed),
        "diagnosis": processed["num"].gt(0).map({False: "no_disease", True: "disease"}),
        "severity": processed["num"],
        **{lab.column: _as_column(processed[lab.uci], lab.words) for lab in LABS},
        **{habit.column: _as_column(smoking[habit.uci], habit.words) for habit in LIFESTYLE},
    }
    patients = pd.DataFrame(columns, index=processed.index)
    if split == "none":
        return patients.drop(columns="split")
    return patients[patients["split"].notna()].reset_index(drop=True)


def read_processed(content: bytes) -> pd.DataFrame:
    """Returns a processed file as floats (`num` as integers), columns of UCI_COLUMNS, ? as NaN."""
    return pd.read_csv(
        io.BytesIO(content),
        header=None,
        names=list(UCI_COLUMNS),
        na_values="?",
        dtype={name: "int64" if name == "num" else "float64" for name in UCI_COLUMNS},
    )


def flamby_split(processed: pd.DataFrame) -> pd.Series:
    """Returns FLamby's "train" or "test" for each patient of one hospital, NA for those it drops.

    FLamby leaves out slope, ca and thal, then every patient with a missing value, and splits each
    hospital 66/34 with a fixed seed, stratified by disease where each class has more than two
    patients.

    Args:
        processed: the rows of one processed file, in the order of the file.

    Source: owkin/FLamby, flamby/datasets/fed_heart_disease/dataset.py, HeartDiseaseRaw.
    """
    kept = processed.drop(columns=FLAMBY_DROPPED_COLUMNS).dropna()
    has_disease = kept["num"].gt(0)
    class_sizes = has_disease.value_counts()
    is_stratified = len(class_sizes) > 1 and class_sizes.min() > 2
    train, test = train_test_split(
        np.arange(len(kept)),
        # 1 - .66 is not .34 in binary; the sizes must be rounded as FLamby's are.
        test_size=1.0 - FLAMBY_TRAIN_FRACTION,
        train_size=FLAMBY_TRAIN_FRACTION,
        random_state=FLAMBY_SEED,
        shuffle=True,
        stratify=has_disease if is_stratified else None,
    )
    split = pd.Series(pd.NA, index=processed.index, dtype="string")
    split[kept.index[train]] = "train"
    split[kept.index[test]] = "test"
    return split


def _as_column(values: pd.Series, words: Mapping[int, str]) -> pd.Series:
    if words:
        return values.map(words).astype("string")
    is_whole = values.dropna().mod(1).eq(0).all()
    return values.astype("Int64" if is_whole else "Float64")
