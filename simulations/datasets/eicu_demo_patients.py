"""The eICU demo's patients: which stay counts, its outcomes, and its features of the first day.

This module must never read a field that was filled in after the first day as a feature.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from simulations.datasets.source_files import read_source

FIRST_DAY_MINUTES: Final = 1440
HOURS_BEFORE_UNIT_AT_MOST: Final = 720

_STAY_COLUMNS: Final = (
    *("patientunitstayid", "patienthealthsystemstayid", "uniquepid", "hospitalid"),
    *("unitvisitnumber", "hospitaldischargeyear", "hospitaldischargestatus"),
    *("unitdischargeoffset", "hospitaladmitoffset", "age", "gender", "admissionheight"),
    *("admissionweight", "unittype", "unitstaytype", "unitadmitsource"),
)

# apacheapsvar, the worst values of the first day: column → ours.
_MEASURED: Final[Mapping[str, str]] = {
    "temperature": "temperature_c",
    "heartrate": "heart_rate_bpm",
    "meanbp": "mean_bp_mmhg",
    "respiratoryrate": "respiratory_rate_per_min",
    "sodium": "sodium_mmol_l",
    "wbc": "wbc_10e9_l",
    "hematocrit": "hematocrit_percent",
    "creatinine": "creatinine_mg_dl",
    "albumin": "albumin_g_dl",
    "bun": "bun_mg_dl",
    "glucose": "glucose_mg_dl",
    "bilirubin": "bilirubin_mg_dl",
    "urine": "urine_ml_per_day",
    "ph": "arterial_ph",
    "pao2": "pao2_mmhg",
    "pco2": "pco2_mmhg",
    "fio2": "fio2_percent",
    "eyes": "gcs_eyes",
    "motor": "gcs_motor",
    "verbal": "gcs_verbal",
}
_SUPPORT: Final[Mapping[str, str]] = {
    "meds": "gcs_unscorable",
    "intubated": "intubated",
    "vent": "ventilated",
    "dialysis": "dialysis",
}

# apachepredvar: what is known at admission or during the first day: column → ours.
_FIRST_DAY: Final[Mapping[str, str]] = {
    "oobventday1": "ventilated_any_time",
    "oobintubday1": "intubated_any_time",
    "activetx": "active_treatment",
    "thrombolytics": "thrombolytics",
}
_KNOWN_AT_ADMISSION: Final[Mapping[str, str]] = {
    "electivesurgery": "elective_surgery",
    "midur": "recent_infarction",
    "diabetes": "diabetes",
    "hepaticfailure": "hepatic_failure",
    "cirrhosis": "cirrhosis",
    "lymphoma": "lymphoma",
    "leukemia": "leukemia",
    "metastaticcancer": "metastatic_cancer",
    "immunosuppression": "immunosuppression",
}
_NO_YES: Final = {"0": "no", "1": "yes"}


def first_stays(source: Path) -> pd.DataFrame:
    """The first stay of each patient, as recorded, with the `region` of its hospital.

    First is the earliest year of discharge, then the youngest age, then the lowest
    patienthealthsystemstayid, unitvisitnumber and patientunitstayid. The demo does not order the
    hospital stays of one year, so that the id, which is random, decides there; the visits to units
    within a hospital stay are numbered in their order.
    """
    stays = read_source(source / "patient.csv.gz", _STAY_COLUMNS)
    keys = {
        "year": _number(stays["hospitaldischargeyear"]),
        "age": age_years(stays["age"]),
        "hospital_stay": _number(stays["patienthealthsystemstayid"]),
        "visit": _number(stays["unitvisitnumber"]),
        "stay": _number(stays["patientunitstayid"]),
    }
    order = pd.DataFrame(keys).sort_values(list(keys)).index
    first = stays.loc[order].drop_duplicates("uniquepid").sort_values("uniquepid")
    hospitals = read_source(source / "hospital.csv.gz", ("hospitalid", "region"))
    region_of = hospitals.set_index("hospitalid")["region"].str.lower()
    first["region"] = first["hospitalid"].map(region_of).fillna("unknown")
    return first.reset_index(drop=True)


def age_years(age: "pd.Series[str]") -> "pd.Series[float]":
    """The age in years; "> 89" is 90."""
    return _number(age.replace("> 89", "90"))


def outcomes_of(stays: pd.DataFrame) -> pd.DataFrame:
    """Hospital mortality, and the length of the unit stay in days.

    The length is empty for stays of less than a day: it is known when the features are, and a
    series that ends early would give it away.
    """
    status = stays["hospitaldischargestatus"].map({"Alive": "alive", "Expired": "expired"})
    minutes = _number(stays["unitdischargeoffset"])
    days = (minutes / FIRST_DAY_MINUTES).where(minutes >= FIRST_DAY_MINUTES).round(4)
    return pd.DataFrame({"hospital_mortality": status, "unit_stay_days": days})


def features_of(source: Path, stays: pd.DataFrame) -> pd.DataFrame:
    """The columns of the granularities `physiology` and `admission`, in the order of `stays`."""
    worst = _by_stay(source, "apacheapsvar", stays, (*_MEASURED, *_SUPPORT))
    known = _by_stay(source, "apachepredvar", stays, (*_FIRST_DAY, *_KNOWN_AT_ADMISSION))
    columns: dict[str, pd.Series[Any]] = {}
    for name, ours in _MEASURED.items():
        # APACHE writes -1 where nothing was measured.
        columns[ours] = _number(worst[name]).where(lambda values: values != -1)
    for name, ours in _SUPPORT.items():
        columns[ours] = worst[name].map(_NO_YES)
    for name, ours in {**_FIRST_DAY, **_KNOWN_AT_ADMISSION}.items():
        columns[ours] = known[name].map(_NO_YES)
    return pd.DataFrame({**columns, **_admission(source, stays)})


def _admission(source: Path, stays: pd.DataFrame) -> "dict[str, pd.Series[Any]]":
    minutes_before = -_number(stays["hospitaladmitoffset"])
    hours_before = (minutes_before / 60).clip(0, HOURS_BEFORE_UNIT_AT_MOST).round(2) + 0.0
    return {
        "age_years": age_years(stays["age"]),
        "sex": stays["gender"].map({"Female": "female", "Male": "male"}),
        "height_cm": _number(stays["admissionheight"]),
        "weight_kg": _number(stays["admissionweight"]),
        "hours_in_hospital": hours_before,
        "unit_type": _words(stays["unittype"]),
        "stay_type": _words(stays["unitstaytype"]),
        "admission_source": _words(stays["unitadmitsource"]),
        **_admission_diagnosis(source, stays),
    }


def _admission_diagnosis(source: Path, stays: pd.DataFrame) -> "dict[str, pd.Series[Any]]":
    """From the operating room or not, and the organ system of the admission diagnosis."""
    columns = ("patientunitstayid", "admitdxenteredoffset", "admitdxpath")
    entries = read_source(source / "admissiondx.csv.gz", columns)
    entries = entries[_number(entries["admitdxenteredoffset"]) <= FIRST_DAY_MINUTES]
    parts = entries["admitdxpath"].str.split("|", expand=True).reindex(columns=range(4))
    is_system = (parts[2] == "Organ System").to_numpy()
    systems = entries[is_system].assign(kind=parts[1], system=parts[3])
    systems = systems.drop_duplicates("patientunitstayid").set_index("patientunitstayid")
    kinds = {"Operative Organ Systems": "yes", "Non-operative Organ Systems": "no"}
    return {
        "from_surgery": stays["patientunitstayid"].map(systems["kind"].map(kinds)),
        "organ_system": _words(stays["patientunitstayid"].map(systems["system"])),
    }


def _by_stay(
    source: Path, table: str, stays: pd.DataFrame, columns: tuple[str, ...]
) -> pd.DataFrame:
    """The rows of a table of one row per stay, in the order of `stays`; NA for stays without."""
    rows = read_source(source / f"{table}.csv.gz", ("patientunitstayid", *columns))
    rows = rows.drop_duplicates("patientunitstayid").set_index("patientunitstayid")
    return rows.reindex(stays["patientunitstayid"]).reset_index(drop=True)


def _words(values: "pd.Series[str]") -> "pd.Series[str]":
    """Words as a category: Step-Down Unit (SDU) is step_down_unit_sdu."""
    # A column in which nothing was recorded is one of floats.
    return (
        values.astype("str").str.lower().str.replace(r"[^a-z0-9]+", "_", regex=True).str.strip("_")
    )


def _number(values: "pd.Series[str]") -> "pd.Series[float]":
    return pd.to_numeric(values, errors="coerce").astype("float64")
