"""The eICU demo's events of the first day: vital signs as a long table, and texts.

This module must never let an event through that is later than the first day or the end of the stay,
nor a text that tells of a decision to limit care, which tells of the outcome more than of the
patient's state.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from simulations.datasets.eicu_demo_patients import FIRST_DAY_MINUTES
from simulations.datasets.source_files import read_source

_PRESSURES: Final[Mapping[str, str]] = {
    "noninvasivesystolic": "nibp_systolic_mmhg",
    "noninvasivediastolic": "nibp_diastolic_mmhg",
    "noninvasivemean": "nibp_mean_mmhg",
}

# The label of respiratorycharting → our signal.
_RESPIRATORY: Final[Mapping[str, str]] = {
    "RR (patient)": "respiratory_rate_per_min",
    "Total RR": "respiratory_rate_per_min",
    "Resp Rate Total": "respiratory_rate_per_min",
    "SaO2": "oxygen_saturation_percent",
    "FiO2": "inspired_oxygen_percent",
    "FIO2 (%)": "inspired_oxygen_percent",
    "O2 Percentage": "inspired_oxygen_percent",
    "LPM O2": "oxygen_flow_l_min",
    "Oxygen Flow Rate": "oxygen_flow_l_min",
    "PEEP": "peep_cmh2o",
    "PEEP/CPAP": "peep_cmh2o",
    "Vent Rate": "ventilator_rate_per_min",
    "Tidal Volume (set)": "tidal_volume_ml",
    "Mean Airway Pressure": "mean_airway_cmh2o",
    "Peak Insp. Pressure": "peak_airway_cmh2o",
}

# The end of the path of physicalexam → our signal. "Highest" and "Lowest" are of no certain time.
_EXAM: Final[Mapping[str, str]] = {
    "Vital Sign and Physiological Data/HR/HR Current": "heart_rate_bpm",
    "Vital Sign and Physiological Data/Resp Rate/Resp Current": "respiratory_rate_per_min",
    "Vital Sign and Physiological Data/O2 Sat%/O2 Sat% Current": "oxygen_saturation_percent",
    "Vital Sign and Physiological Data/FiO2%/FiO2%": "inspired_oxygen_percent",
    "Vital Sign and Physiological Data/PEEP/PEEP": "peep_cmh2o",
}
_EXAM_GCS: Final[Mapping[str, str]] = {
    "GCS/Eyes Score": "gcs_eyes_score",
    "GCS/Motor Score": "gcs_motor_score",
    "GCS/Verbal Score": "gcs_verbal_score",
}

# Table, columns of its times, column of the text, the word that says where a text comes from.
_TEXTS: Final = (
    ("pasthistory", ("pasthistoryoffset", "pasthistoryenteredoffset"), "pasthistorypath"),
    ("admissiondx", ("admitdxenteredoffset",), "admitdxpath"),
    ("diagnosis", ("diagnosisoffset",), "diagnosisstring"),
    ("treatment", ("treatmentoffset",), "treatmentstring"),
)
_KIND: Final = {
    "pasthistory": "history",
    "admissiondx": "admission",
    "diagnosis": "diagnosis",
    "treatment": "treatment",
}
# Parts of paths that say where in a form something was ticked, and nothing of the patient.
_FORM_PARTS: Final = frozenset(
    {
        *("notes", "Progress Notes", "Past History", "Organ Systems"),
        *("Past History Obtain Options", "Performed", "Not Obtainable"),
        *("admission diagnosis", "All Diagnosis", "Diagnosis", "Organ System", "general"),
        *("Additional APACHE  Information", "support services", "quality measures"),
    }
)
# Limits of care, and plans for death or discharge: decisions on the outcome, not findings.
_TELLS_THE_OUTCOME: Final = (
    r"palliat|pastoral|hospice|comfort|end of life|not resuscitate|\bdnr\b|\bdni\b|care limit"
    r"|withdraw\w* of (?:care|support)|brain death|deceased|expired|\bdied\b|\bdonor|donation"
    r"|autopsy|discharge"
)


def vitals_of(source: Path, stays: pd.DataFrame) -> pd.DataFrame:
    """The measurements: patient_id, minutes, signal, value; by patient, time and signal."""
    pressures = _events(
        source, "vitalaperiodic", ("observationoffset",), tuple(_PRESSURES), stays
    ).melt(["patient_id", "minutes"], list(_PRESSURES), "signal", "value")
    pressures["signal"] = pressures["signal"].map(_PRESSURES)

    times = ("respchartoffset", "respchartentryoffset")
    values = ("respchartvaluelabel", "respchartvalue")
    breathing = _events(source, "respiratorycharting", times, values, stays)
    breathing["signal"] = breathing["respchartvaluelabel"].map(_RESPIRATORY)
    breathing["value"] = breathing["respchartvalue"].str.rstrip("%")

    columns = ("physicalexampath", "physicalexamtext")
    exam = _events(source, "physicalexam", ("physicalexamoffset",), columns, stays)
    path = exam["physicalexampath"].str.split("/")
    # The score itself is the last part of its path: …/GCS/Eyes Score/4.
    gcs = path.str[-3:-1].str.join("/").map(_EXAM_GCS)
    exam["signal"] = path.str[-3:].str.join("/").map(_EXAM).fillna(gcs)
    exam["value"] = exam["physicalexamtext"]

    both: pd.DataFrame = pd.concat([pressures, breathing, exam])
    both = both[["patient_id", "minutes", "signal", "value"]]
    both["value"] = pd.to_numeric(both["value"], errors="coerce")
    both = both[both["signal"].notna() & both["value"].notna() & (both["minutes"] >= 0)]
    both = both.drop_duplicates().sort_values(["patient_id", "minutes", "signal", "value"])
    return both.reset_index(drop=True)


def notes_of(source: Path, stays: pd.DataFrame) -> pd.DataFrame:
    """The texts: patient_id, minutes, text; each once, when it was first written."""
    parts = []
    for table, times, column in _TEXTS:
        events = _events(source, table, times, (column,), stays)
        events = events[~events[column].str.contains(_TELLS_THE_OUTCOME, case=False, na=True)]
        text = events[column].map(_plain)
        parts.append(events.assign(text=_KIND[table] + " " + text)[text != ""])
    notes = pd.concat(parts)[["patient_id", "minutes", "text"]]
    notes = notes.sort_values(["patient_id", "minutes", "text"])
    return notes.drop_duplicates(["patient_id", "text"]).reset_index(drop=True)


def _plain(path: str) -> str:
    """The parts of a path that say something, each once, as one text.

    >>> _plain("cardiovascular|cardiac arrest|cardiac arrest")
    'cardiovascular cardiac arrest'
    """
    parts = path.split("|") if "|" in path else path.split("/")
    return " ".join(dict.fromkeys(part for part in parts if part not in _FORM_PARTS))


def _events(
    source: Path, table: str, times: tuple[str, ...], columns: tuple[str, ...], stays: pd.DataFrame
) -> pd.DataFrame:
    """The rows of the stays that were over, by all of `times`, within the first day and the stay.

    Returns:
        patient_id, minutes (the first of `times`), and the columns as text.
    """
    rows = read_source(source / f"{table}.csv.gz", ("patientunitstayid", *times, *columns))
    ends = pd.to_numeric(stays["unitdischargeoffset"], errors="coerce").to_numpy(dtype="float64")
    end_of = pd.Series(ends, index=stays["patientunitstayid"]).clip(upper=FIRST_DAY_MINUTES)
    minutes = rows[list(times)].apply(pd.to_numeric, errors="coerce")
    # A stranger has no end and an unknown time is NaN: neither is in time.
    is_in_time = minutes.max(axis=1, skipna=False) <= rows["patientunitstayid"].map(end_of)
    rows, minutes = rows[is_in_time], minutes[is_in_time]
    patient_of = stays.set_index("patientunitstayid")["uniquepid"]
    events: pd.DataFrame = rows[list(columns)].copy()
    events.insert(0, "patient_id", rows["patientunitstayid"].map(patient_of))
    events.insert(1, "minutes", minutes[times[0]].astype("int64"))
    return events
