"""`wardround predict` after a real run: at the site, for every patient, and nowhere else."""

import csv
import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from client.config import load_site_config
from client.data import read_cohort
from client.evaluation import fit_intercepts
from client.prediction import predict_site
from client.training import to_device
from common.arrays import Arrays
from common.errors import DataError, RunError, SiteConfigError
from common.model_file import read_model
from common.models.patient_model import PatientModel, load_state, state_manifest
from common.study import Study
from common.study_file import override, study_from_toml
from simulations.cohort import SiteEffects, write_cohort
from simulations.simulate import Simulation, simulate
from tests.round.tiny import TINY_STUDY


@pytest.fixture(scope="module")
def study() -> Study:
    return override(study_from_toml(TINY_STUDY), model__site_intercept_sd=0.0)


@pytest.fixture(scope="module")
def sites(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    effects = [
        SiteEffects(name=f"hospital-{i}", num_patients=60, granularity_missing=0.3)
        for i in range(3)
    ]
    write_cohort(study, effects, folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def run(study: Study, sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    simulate(Simulation(study=study, sites=sites, out=folder))
    return folder


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_patient_has_a_line_under_their_own_id(
    sites: Path, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    num_patients = predict_site(sites / "hospital-0", run, out).num_patients
    table = pd.read_csv(sites / "hospital-0" / "patients.csv", dtype=str)
    rows = _rows(out)
    assert num_patients == len(rows) == 60
    assert [row["patient_id"] for row in rows] == table["patient_id"].tolist()


def test_the_line_tells_what_it_was_predicted_from(sites: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    predict_site(sites / "hospital-0", run, out)
    table = pd.read_csv(sites / "hospital-0" / "patients.csv", dtype=str)
    for row, (_, patient) in zip(_rows(out), table.iterrows(), strict=True):
        has_lifestyle = pd.notna(patient["steps_per_day"])
        assert ("lifestyle" in row["predicted_from"].split()) == has_lifestyle
        if not has_lifestyle:
            assert float(row["event_from_lifestyle"]) == 0


def test_a_line_adds_up(sites: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    predict_site(sites / "hospital-0", run, out)
    for row in _rows(out):
        p = float(row["event_probability_yes"])
        parts = [float(row[f"event_from_{part}"]) for part in ("nothing", "labs", "lifestyle")]
        assert sum(parts) == pytest.approx(np.log(p / (1 - p)), abs=1e-4)
        assert row["event"] == ("yes" if p > 0.5 else "no")


def test_patients_without_an_outcome_are_predicted_too(
    sites: Path, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "newcomers"
    folder.mkdir()
    table = pd.read_csv(sites / "hospital-0" / "patients.csv", dtype=str).drop(columns="event")
    table.to_csv(folder / "patients.csv", index=False)
    text = (sites / "hospital-0" / "site.toml").read_text(encoding="utf-8")
    (folder / "site.toml").write_text(text, encoding="utf-8")
    known, unknown = tmp_path / "known.csv", tmp_path / "unknown.csv"
    predict_site(sites / "hospital-0", run, known)
    predict_site(folder, run, unknown)
    plain, new = _rows(known), _rows(unknown)
    assert {row.pop("part") for row in plain} == {"training", "held_out"}
    assert {row.pop("part") for row in new} == {"new"}
    assert plain == new


def test_the_file_is_its_owners_alone(sites: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    predict_site(sites / "hospital-0", run, out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_nothing_is_written_into_the_runs_folder(sites: Path, run: Path, tmp_path: Path) -> None:
    before = sorted(run.rglob("*"))
    with pytest.raises(SiteConfigError, match="outside of the run's folder"):
        predict_site(sites / "hospital-0", run, run / "deep" / "predictions.csv")
    predict_site(sites / "hospital-0", run, tmp_path / "predictions.csv")
    assert sorted(run.rglob("*")) == before


def test_a_file_that_is_there_is_kept(sites: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(SiteConfigError, match="Nothing was changed"):
        predict_site(sites / "hospital-0", run, out)
    assert out.read_text(encoding="utf-8") == "mine"


def test_a_folder_without_a_model_is_an_error(sites: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"study\.toml"):
        predict_site(sites / "hospital-0", tmp_path, tmp_path / "predictions.csv")


def test_a_model_of_another_study_is_an_error(
    study: Study, sites: Path, run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    text = (run / "study.toml").read_text(encoding="utf-8").replace("width = 4", "width = 8")
    (other / "study.toml").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match="found another"):
        predict_site(sites / "hospital-0", other, tmp_path / "predictions.csv")


def _copy(site: Path, folder: Path, table: pd.DataFrame) -> Path:
    folder.mkdir()
    table.to_csv(folder / "patients.csv", index=False)
    text = (site / "site.toml").read_text(encoding="utf-8")
    (folder / "site.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_patient_without_a_place_in_the_split_is_predicted_as_held_out(
    sites: Path, run: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(sites / "hospital-0" / "patients.csv", dtype=str)
    table["split"] = ["train", "test", None] * 20
    table.loc[0, "event"] = None
    folder = _copy(sites / "hospital-0", tmp_path / "copy", table)
    predict_site(folder, run, tmp_path / "predictions.csv")
    parts = [row["part"] for row in _rows(tmp_path / "predictions.csv")]
    assert parts == ["new", "held_out", "held_out", *["training", "held_out", "held_out"] * 19]
    table["split"] = ["train", "test", "other"] * 20
    folder = _copy(sites / "hospital-0", tmp_path / "another", table)
    with pytest.raises(DataError, match="train or test"):
        predict_site(folder, run, tmp_path / "others.csv")


def test_who_is_in_the_fold_for_validation_was_not_trained_on(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    folded = override(study, evaluation__validation_fold=0)
    folder = tmp_path / "run"
    simulate(Simulation(study=folded, sites=sites, out=folder))
    site = sites / "hospital-0"
    predict_site(site, folder, tmp_path / "predictions.csv")
    parts = [row["part"] for row in _rows(tmp_path / "predictions.csv")]
    cohort, _ = read_cohort(load_site_config(site), folded)
    assert cohort is not None
    assert parts.count("training") == len(cohort.train)


@pytest.fixture(scope="module")
def recalibrated(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose hospitals have intercepts; hospital-2 took no part."""
    study = override(study_from_toml(TINY_STUDY), model__site_intercept_sd=2.0)
    folder = tmp_path_factory.mktemp("recalibrated") / "run"
    left_out = frozenset({"hospital-2"})
    simulate(Simulation(study=study, sites=sites, out=folder, left_out=left_out))
    return folder


def test_with_an_intercept_a_line_adds_up_too(
    sites: Path, recalibrated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    predicted = predict_site(sites / "hospital-0", recalibrated, out)
    assert predicted.notes == ()
    rows = _rows(out)
    (intercept,) = {row["event_from_site"] for row in rows}
    assert float(intercept) != 0
    for row in rows:
        p = float(row["event_probability_yes"])
        names = ("nothing", "labs", "lifestyle", "site")
        parts = [float(row[f"event_from_{name}"]) for name in names]
        assert sum(parts) == pytest.approx(np.log(p / (1 - p)), abs=1e-4)


def test_a_prediction_does_not_depend_on_who_else_is_in_the_folder_or_on_labels(
    sites: Path, recalibrated: Path, tmp_path: Path
) -> None:
    site = sites / "hospital-0"
    predict_site(site, recalibrated, tmp_path / "all.csv")
    table = pd.read_csv(site / "patients.csv", dtype=str)
    few = _copy(site, tmp_path / "few", table.iloc[:7].drop(columns="event"))
    predict_site(few, recalibrated, tmp_path / "few.csv")
    # Batches of another size differ in the last bits.
    name = "event_probability_yes"
    expected = [float(row[name]) for row in _rows(tmp_path / "all.csv")[:7]]
    assert [float(row[name]) for row in _rows(tmp_path / "few.csv")] == pytest.approx(expected)


def test_the_intercept_is_the_one_that_the_last_model_was_evaluated_with(
    sites: Path, recalibrated: Path, tmp_path: Path
) -> None:
    study = override(study_from_toml(TINY_STUDY), model__site_intercept_sd=2.0)
    predict_site(sites / "hospital-0", recalibrated, tmp_path / "predictions.csv")
    cohort, _ = read_cohort(load_site_config(sites / "hospital-0"), study)
    assert cohort is not None
    model = PatientModel(study)
    named = read_model(recalibrated)
    load_state(model, Arrays.pack({b.name: named[b.name] for b in state_manifest(model)}))
    expected = fit_intercepts(model, to_device(cohort.train, torch.device("cpu")), study)
    found = float(_rows(tmp_path / "predictions.csv")[0]["event_from_site"])
    assert found == pytest.approx(expected["event"][1], rel=1e-4)


def test_a_hospital_that_took_no_part_predicts_without_an_intercept_and_is_told_so(
    sites: Path, recalibrated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    predicted = predict_site(sites / "hospital-2", recalibrated, out)
    (note,) = predicted.notes
    assert "took no part" in note
    assert {float(row["event_from_site"]) for row in _rows(out)} == {0.0}


@pytest.mark.parametrize("place", ["state", "run"])
def test_the_model_of_its_own_is_found_in_its_state_or_in_the_simulations_folder(
    study: Study, sites: Path, tmp_path: Path, place: str
) -> None:
    plan = override(study, personal__fine_tune_steps=4)
    run = tmp_path / "run"
    simulate(Simulation(study=plan, sites=sites, out=run))
    site = tmp_path / "hospital-0"
    shutil.copytree(sites / "hospital-0", site)
    kept = run / "sites" / "hospital-0" / "personal"
    if place == "state":
        shutil.move(kept, tmp_path.parent / "state" / "hospital-0" / "personal")
        text = (site / "site.toml").read_text(encoding="utf-8")
        state = tmp_path.parent / "state" / "hospital-0"
        text = text.replace("../state/hospital-0", str(state))
        (site / "site.toml").write_text(text, encoding="utf-8")
        (kept,) = [state / "personal"]
    own, shared = tmp_path / "own.csv", tmp_path / "shared.csv"
    predict_site(site, run, own)
    predict_site(site, run, shared, shared=True)
    assert own.read_text() != shared.read_text()
    for path in kept.glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match="--shared"):
        predict_site(site, run, tmp_path / "none.csv")
    shutil.rmtree(kept)
    with pytest.raises(RunError, match="--shared"):
        predict_site(site, run, tmp_path / "none.csv")


@pytest.mark.parametrize("run_id", ["../../x", ""])
def test_a_run_id_that_is_a_path_is_an_error(
    sites: Path, recalibrated: Path, tmp_path: Path, run_id: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("model.safetensors", "study.toml"):
        shutil.copy(recalibrated / name, copy / name)
    (copy / "results.json").write_text(json.dumps({"run_id": run_id}), encoding="utf-8")
    with pytest.raises(RunError, match="run id"):
        predict_site(sites / "hospital-0", copy, tmp_path / "predictions.csv")
