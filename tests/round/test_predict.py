"""`wardround predict` after a real run: at the site, for every patient, and nowhere else."""

import csv
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from client.prediction import predict_site
from common.errors import RunError, SiteConfigError
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
    num_patients = predict_site(sites / "hospital-0", run, out)
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
    assert known.read_text() == unknown.read_text()


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
