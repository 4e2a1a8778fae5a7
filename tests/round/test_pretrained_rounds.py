"""Whole runs with notes that pretrained weights read, and what a hospital sees of it."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.check import check_site
from client.config import load_site_config
from client.prediction import predict_site
from common.models.patient_model import PatientModel, parameters_of
from common.study import Study
from common.study_file import study_from_toml
from simulations.cohort import SiteEffects, write_cohort
from simulations.simulate import Simulation, simulate
from tests.round.tiny import TINY_STUDY
from tests.unit.pretrained_cases import section_of, write_weights

pytest.importorskip("transformers", reason="needs the extra text")

_PARTS = ("weight", "bias")
_PRIVATE = {"mode": "patient", "noise_multiplier": 1.0, "delta": 1e-3}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def study(weights: Path) -> Study:
    table = study_from_toml(TINY_STUDY).model_dump(mode="json", exclude_none=True)
    del table["granularities"]["lifestyle"]
    table["granularities"]["notes"] = section_of(weights)
    table["training"]["rounds"] = 2
    return Study.model_validate(table)


@pytest.fixture(scope="module")
def sites(study: Study, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals, the last of which has no notes and no weights."""
    folder = tmp_path_factory.mktemp("hospitals")
    effects = [SiteEffects(name=f"hospital-{i}", num_patients=60) for i in range(3)]
    for site in write_cohort(study, effects, folder, seed=0):
        if site.name == "hospital-2":
            (site / "notes.csv").unlink()
        else:
            _name_weights(site, weights)
    return folder


def _name_weights(site: Path, weights: Path) -> None:
    text = (site / "site.toml").read_text(encoding="utf-8")
    line = f'[data]\npretrained = {{ notes = "{weights}" }}\n'
    assert "[data]" in text
    (site / "site.toml").write_text(text.replace("[data]\n", line), encoding="utf-8")


@pytest.mark.parametrize("privacy", [{"mode": "none"}, _PRIVATE])
def test_hospitals_with_and_without_notes_train_together(
    study: Study, sites: Path, tmp_path: Path, privacy: dict[str, Any]
) -> None:
    table = study.model_dump(mode="json", exclude_none=True) | {"privacy": privacy}
    wanted = Study.model_validate(table)
    simulate(Simulation(study=wanted, sites=sites, out=tmp_path / "run"))
    found = load_file(tmp_path / "run" / "model.safetensors")
    start = parameters_of(PatientModel(wanted)).unpack()
    of_notes = {name for name in start if name.startswith("encoders.notes.")}
    # The weights themselves are no part of the model.
    assert of_notes == {f"encoders.notes.mlp.{n}.{part}" for n in (0, 3) for part in _PARTS}
    assert not any(np.array_equal(found[name], start[name]) for name in of_notes)


def test_the_hospital_keeps_embeddings_to_itself(study: Study, sites: Path, tmp_path: Path) -> None:
    simulate(Simulation(study=study, sites=sites, out=tmp_path / "run"))
    config = load_site_config(sites / "hospital-0")
    [kept] = config.embeddings_dir.iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    assert config.folder not in kept.parents
    rows = load_file(kept)["embeddings"]
    sent = b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert not any(row.tobytes() in sent for row in rows)
    assert not load_site_config(sites / "hospital-2").embeddings_dir.exists()


def test_a_hospital_predicts_and_is_told_what_the_text_adds(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    simulate(Simulation(study=study, sites=sites, out=tmp_path / "run"))
    predict_site(sites / "hospital-0", tmp_path / "run", tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert len({row["event_from_notes"] for row in rows}) > 1


def test_check_site_tells_of_missing_and_of_other_weights(
    study: Study, sites: Path, weights: Path, tmp_path: Path
) -> None:
    site = tmp_path / "hospital"
    shutil.copytree(sites / "hospital-0", site)
    assert check_site(site, study).is_usable
    text = (site / "site.toml").read_text(encoding="utf-8")
    for line, found in (
        ("", "found none"),
        (f'pretrained = {{ notes = "{tmp_path / "nowhere"}" }}', "found FileNotFoundError"),
        (f'pretrained = {{ notes = "{write_weights(tmp_path / "x", seed=1)}" }}', "found those"),
    ):
        spoilt = text.replace(f'pretrained = {{ notes = "{weights}" }}', line)
        (site / "site.toml").write_text(spoilt, encoding="utf-8")
        [error] = [f for f in check_site(site, study).findings if f.severity == "error"]
        assert error.where == "site.toml, data.pretrained.notes"
        assert found in error.sentence()
