"""The importer of UCI Heart Disease, on the real files where they are."""

import csv
import hashlib
import shutil
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from common.errors import DataError
from common.study_file import load_study
from simulations.datasets.heart_disease import (
    SHA256_WITH_LF_ENDINGS,
    fetch_sources,
    import_heart_disease,
    verify_sources,
)
from simulations.datasets.heart_disease_patients import read_processed
from simulations.datasets.heart_disease_raw76 import (
    SHARED_FIELD_NUMBERS,
    is_linked,
    read_raw76,
    smoking_history,
)

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data" / "heart_disease"
SITES = ["cleveland", "hungarian", "switzerland", "va"]
LABS = [
    *["age_years", "sex", "chest_pain", "resting_bp_mmhg", "cholesterol_mg_dl"],
    *["fasting_sugar_over_120", "resting_ecg", "max_heart_rate_bpm", "exercise_angina"],
    *["st_depression_mm", "st_slope", "major_vessels_count", "thallium_scan"],
]
LIFESTYLE = ["ever_smoked", "cigarettes_per_day", "smoking_years"]


@pytest.fixture(scope="module")
def source() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"needs the UCI files in {SHARED}; they are not part of the repository")
    return SHARED


@pytest.fixture(scope="module")
def everyone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    return _read_back(import_heart_disease(source, tmp_path_factory.mktemp("everyone")))


@pytest.fixture(scope="module")
def flamby(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    out = tmp_path_factory.mktemp("flamby")
    return _read_back(import_heart_disease(source, out, split="flamby"))


@pytest.fixture
def as_served_by_uci(source: Path, tmp_path: Path) -> Path:
    """All eight files in one flat folder, as UCI's web server shows them."""
    folder = tmp_path / "uci"
    folder.mkdir()
    for path in [*source.glob("processed.*.data"), *source.glob("raw76/*.data")]:
        # Not shutil.copy: the shared files are read-only and these tests damage theirs.
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_each_site_has_the_published_number_of_patients(everyone: dict[str, pd.DataFrame]) -> None:
    sizes = {site: len(table) for site, table in everyone.items()}
    assert sizes == {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}


def test_509_of_920_patients_have_the_disease(everyone: dict[str, pd.DataFrame]) -> None:
    counts = pd.concat(everyone.values())["diagnosis"].value_counts()
    assert counts.to_dict() == {"disease": 509, "no_disease": 411}


def test_disease_means_a_severity_above_zero(everyone: dict[str, pd.DataFrame]) -> None:
    patients = pd.concat(everyone.values())
    is_severe = patients["severity"].astype(int) > 0
    assert (is_severe == (patients["diagnosis"] == "disease")).all()
    assert set(patients["severity"]) == {"0", "1", "2", "3", "4"}


def test_columns_stand_in_the_documented_order(
    everyone: dict[str, pd.DataFrame], flamby: dict[str, pd.DataFrame]
) -> None:
    for site in SITES:
        outcome = ["diagnosis", "severity"]
        assert list(everyone[site]) == ["patient_id", *outcome, *LABS, *LIFESTYLE]
        assert list(flamby[site]) == ["patient_id", "split", *outcome, *LABS, *LIFESTYLE]


def test_patient_ids_are_unique_over_all_sites(everyone: dict[str, pd.DataFrame]) -> None:
    ids = pd.concat(everyone.values())["patient_id"]
    assert ids.is_unique
    assert ids.iloc[0] == "cleveland-0001"
    assert ids.iloc[-1] == "va-0200"


def test_first_cleveland_patient_is_as_worked_by_hand(everyone: dict[str, pd.DataFrame]) -> None:
    # processed.cleveland.data, line 1: 63,1,1,145,233,1,2,150,0,2.3,3,0,6,0
    # raw76/cleveland.data, record 1, fields 13 to 15 (smoke cigs years): -9 50 20
    assert everyone["cleveland"].iloc[0].to_dict() == {
        "patient_id": "cleveland-0001",
        "diagnosis": "no_disease",
        "severity": "0",
        "age_years": "63",
        "sex": "male",
        "chest_pain": "typical_angina",
        "resting_bp_mmhg": "145",
        "cholesterol_mg_dl": "233",
        "fasting_sugar_over_120": "yes",
        "resting_ecg": "lv_hypertrophy",
        "max_heart_rate_bpm": "150",
        "exercise_angina": "no",
        "st_depression_mm": "2.3",
        "st_slope": "downsloping",
        "major_vessels_count": "0",
        "thallium_scan": "fixed_defect",
        "ever_smoked": "yes",
        "cigarettes_per_day": "50",
        "smoking_years": "20",
    }


def test_a_value_is_empty_exactly_where_uci_has_a_question_mark(
    source: Path, everyone: dict[str, pd.DataFrame]
) -> None:
    for site in SITES:
        text = (source / f"processed.{site}.data").read_text()
        lines = list(csv.reader(text.splitlines()))
        asked = pd.DataFrame([line[:-1] for line in lines]) == "?"
        assert ((everyone[site][LABS] == "").to_numpy() == asked.to_numpy()).all()


def test_a_zero_cholesterol_or_blood_pressure_stays_zero(
    everyone: dict[str, pd.DataFrame],
) -> None:
    patients = pd.concat(everyone, names=["site"])
    zeros = (patients[["cholesterol_mg_dl", "resting_bp_mmhg"]] == "0").groupby("site").sum()
    assert zeros["cholesterol_mg_dl"].to_dict() == {
        "cleveland": 0,
        "hungarian": 0,
        "switzerland": 123,
        "va": 49,
    }
    assert zeros["resting_bp_mmhg"].to_dict() == {
        "cleveland": 0,
        "hungarian": 0,
        "switzerland": 0,
        "va": 1,
    }


def test_282_cleveland_and_200_long_beach_patients_are_linked(source: Path) -> None:
    contents = verify_sources(source)
    num_linked = {
        site: int(is_linked(_processed(contents, site), read_raw76(contents[raw76])).sum())
        for site, raw76 in [("cleveland", "cleveland.data"), ("va", "long-beach-va.data")]
    }
    assert num_linked == {"cleveland": 282, "va": 200}


def test_reading_cleveland_stops_at_its_damage(source: Path) -> None:
    contents = verify_sources(source)
    assert contents["cleveland.data"].count(b"name") > 282
    assert len(read_raw76(contents["cleveland.data"])) == 282


def test_lifestyle_is_known_in_cleveland_and_long_beach_only(
    everyone: dict[str, pd.DataFrame],
) -> None:
    patients = pd.concat(everyone, names=["site"])
    num_known = (patients[LIFESTYLE] != "").groupby("site").sum().T.to_dict("list")
    # Of 282 linked in Cleveland 5 have cigs = -9 and 5 have years = -9, not the same ones; of 200
    # in Long Beach 10 and 12, and 7 have nothing but a "no" or nothing at all.
    assert num_known == {
        "cleveland": [278, 277, 277],
        "hungarian": [0, 0, 0],
        "switzerland": [0, 0, 0],
        "va": [193, 190, 188],
    }


def test_lifestyle_behind_the_damage_is_empty(everyone: dict[str, pd.DataFrame]) -> None:
    assert (everyone["cleveland"][LIFESTYLE].iloc[282:] == "").all(axis=None)


def test_ever_smoked_is_yes_on_any_evidence_and_no_only_with_0_cigarettes() -> None:
    # (smoke, cigs) → ever smoked
    cases = [(1, 0, 1), (0, 20, 1), (-9, 20, 1), (-9, 0, 0), (0, -9, None), (-9, -9, None)]
    processed = pd.DataFrame([dict.fromkeys(SHARED_FIELD_NUMBERS, 1.0)] * len(cases))
    raw76 = read_raw76(b"".join(_record({13: smoke, 14: cigs, 15: -9}) for smoke, cigs, _ in cases))
    smoke = smoking_history(processed, raw76)["smoke"].astype(object)
    assert smoke.where(smoke.notna(), None).to_list() == [expected for _, _, expected in cases]


@pytest.mark.parametrize("uci_name", list(SHARED_FIELD_NUMBERS))
def test_a_disagreement_on_any_shared_attribute_unlinks_the_row(uci_name: str) -> None:
    processed = pd.DataFrame([dict.fromkeys(SHARED_FIELD_NUMBERS, 1.0)])
    number = SHARED_FIELD_NUMBERS[uci_name]
    assert is_linked(processed, read_raw76(_record({}))).tolist() == [True]
    assert is_linked(processed, read_raw76(_record({number: 2}))).tolist() == [False]


@pytest.mark.parametrize("uci_name", list(SHARED_FIELD_NUMBERS))
def test_only_age_sex_and_diagnosis_must_be_known_to_link(uci_name: str) -> None:
    processed = pd.DataFrame([dict.fromkeys(SHARED_FIELD_NUMBERS, 1.0)])
    raw76 = read_raw76(_record({SHARED_FIELD_NUMBERS[uci_name]: -9}))
    must_be_known = uci_name in ("age", "sex", "num")
    assert is_linked(processed, raw76).tolist() == [not must_be_known]


def test_a_damaged_record_ends_the_reading() -> None:
    whole, damaged = _record({}), b"1 2 3 name\n"
    assert len(read_raw76(whole + damaged + whole)) == 1
    assert len(read_raw76(whole + whole.removesuffix(b"name\n"))) == 1
    assert len(read_raw76(b"")) == 0


def test_lifestyle_is_empty_without_the_raw76_files(source: Path, tmp_path: Path) -> None:
    for path in source.glob("processed.*.data"):
        shutil.copy(path, tmp_path)
    sites = _read_back(import_heart_disease(tmp_path, tmp_path / "out"))
    assert all((table[LIFESTYLE] == "").all(axis=None) for table in sites.values())
    assert sum(len(table) for table in sites.values()) == 920


def test_the_flamby_split_is_the_published_one_row_by_row(
    source: Path, flamby: dict[str, pd.DataFrame]
) -> None:
    published = [
        (f"{row['hospital']}-{int(row['row_in_file']) + 1:04d}", row["set"], row["label"])
        for row in csv.DictReader((source / "flamby_split.csv").read_text().splitlines())
    ]
    ours = [
        (row["patient_id"], row["split"], str(int(row["diagnosis"] == "disease")))
        for table in flamby.values()
        for _, row in table.iterrows()
    ]
    assert ours == published


def test_the_flamby_split_has_the_published_counts(flamby: dict[str, pd.DataFrame]) -> None:
    counts = {
        site: ((table["split"] == "train").sum(), (table["split"] == "test").sum())
        for site, table in flamby.items()
    }
    assert counts == {
        "cleveland": (199, 104),
        "hungarian": (172, 89),
        "switzerland": (30, 16),
        "va": (85, 45),
    }


def test_a_patient_is_the_same_with_and_without_the_flamby_split(
    everyone: dict[str, pd.DataFrame], flamby: dict[str, pd.DataFrame]
) -> None:
    for site in SITES:
        kept = flamby[site].drop(columns="split")
        whole = everyone[site]
        same = whole[whole["patient_id"].isin(kept["patient_id"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(kept, same)


@pytest.mark.parametrize("name", sorted(SHA256_WITH_LF_ENDINGS))
def test_a_changed_file_is_refused_and_nothing_is_written(
    name: str, as_served_by_uci: Path, tmp_path: Path
) -> None:
    path = as_served_by_uci / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError) as refused:
        import_heart_disease(as_served_by_uci, tmp_path / "out")
    text = str(refused.value)
    assert SHA256_WITH_LF_ENDINGS[name] in text
    assert found in text
    assert str(path) in text
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named_and_nothing_is_written(
    as_served_by_uci: Path, tmp_path: Path
) -> None:
    (as_served_by_uci / "processed.va.data").unlink()
    with pytest.raises(DataError, match=r"found 3; absent: processed\.va\.data"):
        import_heart_disease(as_served_by_uci, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_line_endings_do_not_change_a_checksum(as_served_by_uci: Path, source: Path) -> None:
    for path in as_served_by_uci.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert verify_sources(as_served_by_uci) == verify_sources(source)


def test_importing_twice_gives_identical_bytes(source: Path, tmp_path: Path) -> None:
    import_heart_disease(source, tmp_path)
    first = _bytes_under(tmp_path)
    import_heart_disease(source, tmp_path)
    assert _bytes_under(tmp_path) == first
    assert {path.split("/")[0] for path in first} == set(SITES)


def test_fetched_files_can_be_imported(
    as_served_by_uci: Path, tmp_path: Path, everyone: dict[str, pd.DataFrame]
) -> None:
    fetched = fetch_sources(tmp_path / "fetched", base_url=as_served_by_uci.as_uri())
    sites = _read_back(import_heart_disease(fetched, tmp_path / "out"))
    for site in SITES:
        pd.testing.assert_frame_equal(sites[site], everyone[site])


def test_a_fetched_file_is_not_downloaded_again(as_served_by_uci: Path, tmp_path: Path) -> None:
    fetched = fetch_sources(tmp_path / "fetched", base_url=as_served_by_uci.as_uri())
    nowhere = (tmp_path / "nowhere").as_uri()
    assert fetch_sources(fetched, base_url=nowhere) == fetched


def test_a_download_that_is_not_the_published_file_is_not_kept(
    as_served_by_uci: Path, tmp_path: Path
) -> None:
    (as_served_by_uci / "processed.cleveland.data").write_text("<html>moved</html>")
    with pytest.raises(DataError, match=r"Expected processed\.cleveland\.data with SHA-256"):
        fetch_sources(tmp_path / "fetched", base_url=as_served_by_uci.as_uri())
    assert list((tmp_path / "fetched").iterdir()) == []


def test_a_download_that_fails_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"download the files by hand .* --source"):
        fetch_sources(tmp_path / "fetched", base_url=(tmp_path / "nowhere").as_uri())


@pytest.mark.parametrize("name", ["heart-disease", "heart-disease-5class", "heart-disease-flamby"])
def test_every_value_is_one_the_study_knows(name: str, everyone: dict[str, pd.DataFrame]) -> None:
    patients = pd.concat(everyone.values())
    study = tomllib.loads((REPOSITORY / "common" / "studies" / f"{name}.toml").read_text())
    (outcome,) = study["outcomes"].values()
    assert set(patients[outcome["column"]]) == set(outcome["classes"])
    for granularity in study["granularities"].values():
        for column, feature in granularity["features"].items():
            values = patients.loc[patients[column] != "", column]
            if feature["kind"] == "categorical":
                assert set(values) == set(feature["categories"])
                continue
            numbers = values.astype(float)
            measured = numbers[~numbers.isin(feature.get("missing_codes", []))]
            assert measured.between(*feature["range"]).all(), column


def test_the_studies_have_the_documented_features() -> None:
    folder = REPOSITORY / "common" / "studies"
    ours = tomllib.loads((folder / "heart-disease.toml").read_text())["granularities"]
    theirs = tomllib.loads((folder / "heart-disease-flamby.toml").read_text())["granularities"]
    assert list(ours["labs"]["features"]) == LABS
    assert list(ours["lifestyle"]["features"]) == LIFESTYLE
    assert list(theirs) == ["labs"]
    assert list(theirs["labs"]["features"]) == LABS[:10]


def test_the_study_of_five_classes_differs_in_the_outcome_alone() -> None:
    studies = [load_study(name) for name in ("heart-disease", "heart-disease-5class")]
    tables = [study.model_dump(exclude={"study", "outcomes"}) for study in studies]
    assert tables[0] == tables[1]
    assert studies[1].primary.classes == ("0", "1", "2", "3", "4")


def _read_back(folders: list[Path]) -> dict[str, pd.DataFrame]:
    assert [folder.name for folder in folders] == SITES
    return {
        folder.name: pd.read_csv(folder / "patients.csv", dtype=str, keep_default_na=False)
        for folder in folders
    }


def _bytes_under(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _processed(contents: dict[str, bytes], site: str) -> pd.DataFrame:
    return read_processed(contents[f"processed.{site}.data"])


def _record(fields: dict[int, float]) -> bytes:
    """A raw76 record of ones, but for the given 1-based fields."""
    words = [str(fields.get(number, 1)) for number in range(1, 76)]
    return (" ".join([*words, "name"]) + "\n").encode()
