"""The importer of the eICU demo: on a made-up source in the true format, and on the real one."""

import re
from pathlib import Path

import pandas as pd
import pytest

from common.errors import DataError
from common.granularities import NotesGranularity
from common.study_file import load_study
from simulations.datasets.eicu_demo import FILES, import_eicu_demo
from simulations.datasets.eicu_demo_patients import first_stays
from tests.unit.real_data import bytes_under, real_data

STUDIES = ["eicu-demo", "eicu-demo-hospitals"]
HOSPITALS = {"10": "Midwest", "11": "Midwest", "20": "South", "30": ""}
STAY = {
    "patientunitstayid": "1",
    "patienthealthsystemstayid": "100",
    "uniquepid": "p1",
    "hospitalid": "10",
    "unitvisitnumber": "1",
    "hospitaldischargeyear": "2014",
    "hospitaldischargestatus": "Alive",
    "unitdischargeoffset": "2880",
    "hospitaladmitoffset": "-90",
    "age": "60",
    "gender": "Female",
    "admissionheight": "170",
    "admissionweight": "70",
    "unittype": "Med-Surg ICU",
    "unitstaytype": "admit",
    "unitadmitsource": "Step-Down Unit (SDU)",
    # What must not be read.
    "unitdischargestatus": "Alive",
    "unitdischargelocation": "Floor",
    "dischargeweight": "66.6",
}
APS = {
    **dict.fromkeys(("intubated", "vent", "dialysis", "meds"), "0"),
    "eyes": "4",
    "motor": "6",
    "verbal": "-1",
    "urine": "-1",
    "wbc": "9.5",
    "temperature": "36.5",
    "respiratoryrate": "30",
    "sodium": "140",
    "heartrate": "110",
    "meanbp": "60",
    "ph": "-1",
    "hematocrit": "33",
    "creatinine": "1.2",
    "albumin": "-1",
    "pao2": "-1",
    "pco2": "-1",
    "bun": "20",
    "glucose": "120",
    "bilirubin": "-1",
    "fio2": "-1",
}
PRED = {
    **dict.fromkeys(("oobventday1", "oobintubday1", "activetx", "thrombolytics", "midur"), "0"),
    **dict.fromkeys(("diabetes", "hepaticfailure", "cirrhosis", "lymphoma", "leukemia"), "1"),
    **dict.fromkeys(("metastaticcancer", "immunosuppression"), "0"),
    "electivesurgery": "",
    "diedinhospital": "1",
    "dischargelocation": "9",
}
TIMES_AND_VALUES = {
    "admissiondx": ["admitdxenteredoffset", "admitdxpath"],
    "diagnosis": ["diagnosisoffset", "diagnosisstring"],
    "treatment": ["treatmentoffset", "treatmentstring"],
    "pasthistory": ["pasthistoryoffset", "pasthistoryenteredoffset", "pasthistorypath"],
    "vitalaperiodic": [
        *("observationoffset", "noninvasivesystolic", "noninvasivediastolic", "noninvasivemean"),
    ],
    "respiratorycharting": [
        *("respchartoffset", "respchartentryoffset", "respchartvaluelabel", "respchartvalue"),
    ],
    "physicalexam": ["physicalexamoffset", "physicalexampath", "physicalexamtext"],
}


def write_source(
    folder: Path, stays: list[dict[str, str]], **events: list[tuple[object, ...]]
) -> Path:
    """A source with these stays (differences from STAY) and these rows of its event tables."""
    folder.mkdir(exist_ok=True)
    rows = [STAY | stay for stay in stays]
    ids = [row["patientunitstayid"] for row in rows]
    tables = {
        "patient": pd.DataFrame(rows),
        "hospital": pd.DataFrame(HOSPITALS.items(), columns=["hospitalid", "region"]),
        "apacheapsvar": pd.DataFrame([{"patientunitstayid": i, **APS} for i in ids]),
        "apachepredvar": pd.DataFrame([{"patientunitstayid": i, **PRED} for i in ids]),
        **{
            name: pd.DataFrame(events.get(name, []), columns=["patientunitstayid", *columns])
            for name, columns in TIMES_AND_VALUES.items()
        },
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv.gz", index=False)
    return folder


def imported(source: Path, out: Path, file: str = "patients", **options) -> pd.DataFrame:
    """The rows of one file of all sites, as text."""
    folders = import_eicu_demo(source, out, **options)
    parts = [
        pd.read_csv(f / f"{file}.csv", dtype=str, keep_default_na=False).assign(site=f.name)
        for f in folders
        if (f / f"{file}.csv").exists()
    ]
    return pd.concat(parts, ignore_index=True)


def test_the_first_stay_is_by_year_then_age_then_ids_then_visit(tmp_path) -> None:
    numbers = ["patientunitstayid", "patienthealthsystemstayid", "unitvisitnumber"]
    stays = [
        ("1", "100", "1", "2015", "50"),  # a later year
        ("2", "300", "1", "2014", "51"),  # a greater age
        ("3", "300", "1", "2014", "50"),  # a higher hospital stay
        ("4", "200", "2", "2014", "50"),  # a later visit
        ("6", "200", "1", "2014", "50"),  # a higher stay
        ("5", "200", "1", "2014", "50"),
    ]
    columns = [*numbers, "hospitaldischargeyear", "age"]
    source = write_source(tmp_path, [dict(zip(columns, stay, strict=True)) for stay in stays])
    assert first_stays(source)["patientunitstayid"].tolist() == ["5"]


def test_a_patient_is_as_worked_by_hand(tmp_path) -> None:
    path = "admission diagnosis|Operative Organ Systems|Organ System|Musculoskeletal/Skin"
    source = write_source(
        tmp_path / "in",
        [{"hospitaldischargestatus": "Expired", "unitdischargeoffset": "2160", "age": "> 89"}],
        admissiondx=[("1", 20, path)],
    )
    row = imported(source, tmp_path / "out").iloc[0]
    assert row["hospital_mortality"] == "expired"
    assert row["unit_stay_days"] == "1.5"  # 2160 / 1440
    assert row["age_years"] == "90.0"
    assert row["hours_in_hospital"] == "1.5"  # 90 / 60
    assert row["admission_source"] == "step_down_unit_sdu"
    assert (row["from_surgery"], row["organ_system"]) == ("yes", "musculoskeletal_skin")
    assert (row["heart_rate_bpm"], row["gcs_verbal"], row["bilirubin_mg_dl"]) == ("110.0", "", "")
    assert (row["diabetes"], row["metastatic_cancer"], row["elective_surgery"]) == ("yes", "no", "")


def test_patients_without_a_known_outcome_are_left_out(tmp_path) -> None:
    source = write_source(
        tmp_path / "in",
        [{}, {"patientunitstayid": "2", "uniquepid": "p2", "hospitaldischargestatus": ""}],
        diagnosis=[("1", 5, "a|b"), ("2", 5, "c|d")],
    )
    assert imported(source, tmp_path / "out")["patient_id"].tolist() == ["p1"]
    assert imported(source, tmp_path / "out", "notes")["patient_id"].tolist() == ["p1"]


def test_the_length_of_a_stay_under_a_day_is_empty(tmp_path) -> None:
    source = write_source(tmp_path / "in", [{"unitdischargeoffset": "1439"}])
    assert imported(source, tmp_path / "out")["unit_stay_days"].tolist() == [""]


@pytest.mark.parametrize(("discharge", "end"), [("9999", 1440), ("600", 600)])
def test_no_event_after_the_first_day_or_the_stay_is_written(tmp_path, discharge, end) -> None:
    late = end + 1
    exam = "notes/Progress Notes/Physical Exam/Physical Exam/Neurologic/GCS/Eyes Score/3"
    source = write_source(
        tmp_path / "in",
        [{"unitdischargeoffset": discharge}],
        diagnosis=[("1", end, "kept|x"), ("1", late, "late|x")],
        treatment=[("1", end, "kept|y"), ("1", late, "late|y"), ("1", "", "late|unknown time")],
        admissiondx=[("1", end, "admission diagnosis|kept"), ("1", late, "late|z")],
        # Entered too late, though of an earlier time.
        pasthistory=[("1", -60, end, "a/kept history"), ("1", -60, late, "a/late history")],
        vitalaperiodic=[("1", end, 120, 80, 90), ("1", late, 1, 1, 1)],
        respiratorycharting=[("1", end, end, "PEEP", "5"), ("1", end, late, "PEEP", "1")],
        physicalexam=[("1", end, exam, "3"), ("1", late, exam, "1")],
    )
    notes = imported(source, tmp_path / "out", "notes")
    assert len(notes) == 4
    assert notes["text"].str.contains("kept").all()
    assert notes["minutes"].astype(int).tolist() == [-60, end, end, end]
    vitals = imported(source, tmp_path / "out", "vitals")
    assert sorted(vitals["value"].astype(float)) == [3, 5, 80, 90, 120]
    assert set(vitals["minutes"]) == {str(end)}


def test_vital_signs_before_the_unit_are_not_written(tmp_path) -> None:
    rows = [("1", -1, 120, 80, 90), ("1", 0, 121, "", "")]
    source = write_source(tmp_path / "in", [{}], vitalaperiodic=rows)
    vitals = imported(source, tmp_path / "out", "vitals")
    assert vitals[["minutes", "signal", "value"]].to_numpy().tolist() == [
        ["0", "nibp_systolic_mmhg", "121.0"]
    ]


@pytest.mark.parametrize(
    "text",
    [
        "general|quality measures|palliative care consultation",
        "general|support services|discharge planning consult",
        "general|support services|seen by pastoral services consult",
        "general|Do Not Resuscitate",
        "general|comfort measures only",
        "neurologic|brain death",
    ],
)
def test_texts_that_tell_of_limits_of_care_or_the_end_are_dropped(tmp_path, text) -> None:
    kept = "toxicology|drug withdrawal|alcohol withdrawal"
    source = write_source(tmp_path / "in", [{}], treatment=[("1", 5, text), ("1", 6, kept)])
    notes = imported(source, tmp_path / "out", "notes")
    assert notes["text"].tolist() == ["treatment toxicology drug withdrawal alcohol withdrawal"]


def test_a_repeated_text_is_written_once_when_it_was_first_entered(tmp_path) -> None:
    rows = [("1", 90, "renal|x"), ("1", 30, "renal|x"), ("1", 60, "renal|x")]
    source = write_source(tmp_path / "in", [{}], diagnosis=rows)
    notes = imported(source, tmp_path / "out", "notes")
    assert notes[["minutes", "text"]].to_numpy().tolist() == [["30", "diagnosis renal x"]]


def test_the_features_do_not_depend_on_what_is_filled_in_later(tmp_path) -> None:
    later = {"dischargeweight": "1", "unitdischargestatus": "Expired", "unitdischargelocation": "x"}
    one = write_source(tmp_path / "one", [{}])
    other = write_source(tmp_path / "other", [{**later, "unitdischargeoffset": "99999"}])
    pred = pd.read_csv(other / "apachepredvar.csv.gz", dtype=str)
    pred.assign(diedinhospital="0", dischargelocation="4").to_csv(
        other / "apachepredvar.csv.gz", index=False
    )
    tables = [
        imported(path, tmp_path / "out").drop(columns="unit_stay_days") for path in (one, other)
    ]
    pd.testing.assert_frame_equal(*tables)


def _many(tmp_path: Path) -> Path:
    """80 patients, 20 at each hospital."""
    stays = [
        {"patientunitstayid": str(i), "uniquepid": f"p{i:02}", "hospitalid": list(HOSPITALS)[i % 4]}
        for i in range(80)
    ]
    return write_source(tmp_path / "in", stays, diagnosis=[(str(i), 1, "a|b") for i in range(60)])


def test_regions_hold_out_whole_hospitals(tmp_path) -> None:
    source = _many(tmp_path)
    held_out = []
    for fold in range(5):
        patients = imported(source, tmp_path / "out", test_fold=fold)
        assert set(patients["site"]) == {"midwest", "south", "unknown"}
        assert patients.groupby("hospital")["split"].nunique().eq(1).all()
        assert (patients["split"].eq("test") == patients["fold"].eq(str(fold))).all()
        held_out += sorted(set(patients.loc[patients["split"] == "test", "hospital"]))
    assert sorted(held_out) == sorted(HOSPITALS)


def test_hospitals_hold_out_a_fifth_of_their_own_patients(tmp_path) -> None:
    patients = imported(_many(tmp_path), tmp_path / "out", sites="hospital")
    assert sorted(set(patients["site"])) == [f"hospital-{i}" for i in sorted(HOSPITALS)]
    assert patients.groupby("site")["split"].apply(lambda s: (s == "test").sum()).eq(4).all()


def test_a_site_without_events_has_no_file_of_them(tmp_path) -> None:
    folders = import_eicu_demo(_many(tmp_path), tmp_path / "out")
    assert [sorted(p.name for p in f.iterdir()) for f in folders] == [
        ["notes.csv", "patients.csv", "site.toml"]
    ] * 3


def test_an_event_stands_at_the_site_of_its_patient(tmp_path) -> None:
    source, out = _many(tmp_path), tmp_path / "out"
    patients, notes = (imported(source, out, name) for name in ("patients", "notes"))
    site_of = dict(zip(patients["patient_id"], patients["site"], strict=True))
    assert len(notes) == 60
    assert notes["patient_id"].map(site_of).equals(notes["site"])


def test_importing_twice_gives_identical_bytes(tmp_path) -> None:
    source = _many(tmp_path)
    import_eicu_demo(source, tmp_path / "one")
    import_eicu_demo(source, tmp_path / "two")
    assert bytes_under(tmp_path / "one") == bytes_under(tmp_path / "two")


def test_absent_files_are_all_named_and_nothing_is_written(tmp_path) -> None:
    source = write_source(tmp_path / "in", [{}])
    for name in ("diagnosis.csv.gz", "hospital.csv.gz"):
        (source / name).unlink()
    with pytest.raises(DataError, match=r"found 9; absent: hospital\.csv\.gz, diagnosis\.csv\.gz"):
        import_eicu_demo(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_named_without_its_content(tmp_path) -> None:
    source = write_source(tmp_path / "in", [{}])
    (source / "treatment.csv.gz").write_bytes(b"secret, not gzip")
    with pytest.raises(DataError, match=r"treatment\.csv\.gz") as refused:
        import_eicu_demo(source, tmp_path / "out")
    assert "secret" not in str(refused.value)


def test_a_file_without_a_column_is_refused(tmp_path) -> None:
    source = write_source(tmp_path / "in", [{}])
    pd.DataFrame({"patientunitstayid": ["1"]}).to_csv(source / "diagnosis.csv.gz", index=False)
    with pytest.raises(DataError, match="columns diagnosisoffset, diagnosisstring"):
        import_eicu_demo(source, tmp_path / "out")


def test_a_fold_that_does_not_exist_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="test_fold in 0…4, found 5"):
        import_eicu_demo(tmp_path, tmp_path, test_fold=5)


@pytest.mark.parametrize("name", STUDIES)
def test_the_study_masks_the_words_of_the_dropped_texts(name) -> None:
    notes = load_study(name).granularities["notes"]
    assert isinstance(notes, NotesGranularity)
    assert {"palliative", "hospice", "comfort", "dnr", "expired"} <= set(notes.masked_words)


@pytest.fixture(scope="module")
def everyone(tmp_path_factory) -> dict[str, pd.DataFrame]:
    source, out = real_data("eicu_demo"), tmp_path_factory.mktemp("eicu")
    import_eicu_demo(source, out)
    names = ("patients", "vitals", "notes")
    return {n: pd.concat([pd.read_csv(p) for p in sorted(out.glob(f"*/{n}.csv"))]) for n in names}


def test_the_real_demo_has_1818_patients_of_186_hospitals_and_166_deaths(everyone) -> None:
    patients = everyone["patients"]
    assert len(patients) == patients["patient_id"].nunique() == 1818
    assert patients["hospital"].nunique() == 186
    assert (patients["hospital_mortality"] == "expired").sum() == 166
    assert patients["unit_stay_days"].notna().sum() == 1224
    assert everyone["vitals"]["minutes"].between(0, 1440).all()
    assert (everyone["notes"]["minutes"] <= 1440).all()
    assert set(everyone["vitals"]["patient_id"]) <= set(patients["patient_id"])


@pytest.mark.parametrize("name", STUDIES)
def test_the_real_categories_and_signals_are_those_that_the_study_knows(name, everyone) -> None:
    study, patients = load_study(name), everyone["patients"]
    for granularity in ("physiology", "admission"):
        for column, feature in study.granularities[granularity].categorical.items():
            assert set(patients[column].dropna()) <= set(feature.categories), column
    signals = study.granularities["vitals"].signals
    assert set(signals) == set(everyone["vitals"]["signal"])


@pytest.mark.parametrize("name", STUDIES)
def test_no_real_hospital_exceeds_what_the_study_allows_outside_of_a_range(name, everyone) -> None:
    study, patients, vitals = load_study(name), everyone["patients"], everyone["vitals"]
    hospital_of = patients.set_index("patient_id")["hospital"]
    for granularity in study.granularities.values():
        for column, feature in granularity.numeric.items():
            if column in patients:
                values, hospitals = patients[column], patients["hospital"]
            else:
                rows = vitals[vitals["signal"] == column]
                values, hospitals = rows["value"], rows["patient_id"].map(hospital_of)
            measured = values.notna() & ~values.isin(feature.missing_codes)
            is_outside = ~values[measured].between(*feature.range)
            fractions = is_outside.groupby(hospitals[measured]).mean()
            assert fractions.max() <= granularity.max_unusable_fraction, column


def test_no_real_text_has_a_masked_word(everyone) -> None:
    words = load_study("eicu-demo").granularities["notes"].masked_words
    pattern = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)
    assert not everyone["notes"]["text"].str.contains(pattern).any()


def test_every_file_that_is_needed_is_in_the_made_up_source(tmp_path) -> None:
    source = write_source(tmp_path / "in", [{}])
    assert sorted(path.name for path in source.iterdir()) == sorted(FILES)
