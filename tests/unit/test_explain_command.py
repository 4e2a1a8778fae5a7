"""`wardround explain` on a site folder with every kind of granularity and of outcome."""

import base64
import csv
import io
import json
import logging
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import client.cli_explain
from client.config import load_site_config
from client.explain.attention import ITSELF, attention_of, attention_weights
from client.explain.explain import PAGE_FILE, explain_site
from client.explain.pictures import contact_sheet, misses, overlay
from client.explain.place import check_place, write_folder
from client.explain.reliance import explained_patients, reliance_of
from client.explain.subject import load_subject
from common.errors import DataError, RunError, SiteConfigError, StudyError, WardroundError
from common.model_file import write_model
from common.models.patient_model import state_of
from common.study import Study
from common.study_file import study_from_toml, study_to_toml
from simulations.cohort import SiteEffects, write_cohort
from tests.unit.explain_cases import model_of

NUM_PATIENTS = 130
_STUDY = """
[study]
name = "explained"
[outcomes.event]
kind = "binary"
column = "event"
classes = ["no", "yes"]
[outcomes.cost]
kind = "regression"
column = "cost_euro"
unit = "euro"
range = [100, 200000]
scale = "log"
[outcomes.survival]
kind = "survival"
time_column = "followup_days"
event_column = "died"
unit = "days"
cut_points = [90, 365, 1095]
[granularities.labs]
kind = "tabular"
hidden = [4]
[granularities.labs.features]
age_years = { kind = "numeric", unit = "years", range = [18, 100] }
sex = { kind = "categorical", categories = ["female", "male"] }
smoker = { kind = "categorical", categories = ["never", "former", "current"] }
[granularities.imaging]
kind = "images"
size = [8, 8]
channels = [4]
[granularities.genomics]
kind = "markers"
markers = ["rs1", "rs2", "rs3"]
hidden = [4]
[granularities.vitals]
kind = "series"
end_minutes = 240
hidden = 4
[granularities.vitals.signals]
heart_rate_bpm = { unit = "bpm", range = [20, 220] }
[granularities.notes]
kind = "notes"
max_tokens = 24
hidden = 4
num_buckets = 64
[evaluation]
test_fraction = 0.3
[model]
width = 4
fusion = "attention"
[training]
rounds = 1
local_epochs = 1
"""
STUDY = study_from_toml(_STUDY)


def _write_run(folder: Path, study: Study) -> Path:
    folder.mkdir()
    write_model(folder / "model.safetensors", state_of(model_of(study, scale=0.05)))
    (folder / "study.toml").write_text(study_to_toml(study), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps({"run_id": "run"}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    effects = SiteEffects(name="alpha", num_patients=NUM_PATIENTS, granularity_missing=0.3)
    (folder,) = write_cohort(STUDY, [effects], tmp_path_factory.mktemp("hospitals"), seed=0)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_run(tmp_path_factory.mktemp("runs") / "run", STUDY)


@pytest.fixture(scope="module")
def out(site: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine") / "explained"
    explain_site(site, run, folder, sensitivity=0.9)
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> str:
    return (out / PAGE_FILE).read_text(encoding="utf-8")


def _everything(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_and_its_files_are_their_owners_alone(out: Path) -> None:
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in out.iterdir()} == {0o600}
    assert [p.name for p in out.parent.iterdir()] == ["explained"]


def test_every_part_of_the_study_is_in_it(out: Path, page: str) -> None:
    assert {p.name for p in out.iterdir()} == {
        PAGE_FILE,
        "attributions-event.csv",
        "attributions-cost.csv",
        "attributions-survival.csv",
        "attention.csv",
        "calibration.csv",
        "thresholds.csv",
        "survival.csv",
        "quantities.csv",
        "groups.csv",
    }
    titles = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert titles == [
        "At a glance",
        "What the predictions rest on",
        "Attention",
        "Pictures",
        "Calibration",
        "Decision thresholds",
        "Survival",
        "Quantities",
        "Groups of patients",
        "How it was looked at",
    ]


def test_the_page_asks_nothing_of_anybody_and_each_picture_has_words(page: str) -> None:
    assert not re.search(r"https?:|<script|<link rel=\"style|@import|url\(", page)
    sources = re.findall(r'href="([^"]*)"', page)
    assert all(s.startswith(("#", "data:")) for s in sources)
    charts = re.findall(r"<svg role=\"img\".*?</svg>", page, flags=re.DOTALL)
    assert len(charts) >= 15
    for chart in charts:
        assert re.search(r"<title id=[^>]*>[^<]+</title><desc id=[^>]*>[^<]+</desc>", chart)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert len(page) < 1_000_000


def test_lines_of_attributions_add_up_and_are_of_held_out_patients(
    site: Path, run: Path, out: Path
) -> None:
    held_out = load_subject(load_site_config(site), run, shared=False).test.ids
    for name in STUDY.outcomes:
        text = (out / f"attributions-{name}.csv").read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
        assert tuple(row["patient_id"] for row in rows) == held_out
        for row in rows:
            features = [float(v) for k, v in row.items() if "." in k]
            shapley = [float(v) for k, v in row.items() if k.startswith("shapley_")]
            difference = float(row["score"]) - float(row["score_at_baseline"])
            size = sum(abs(v) for v in features)
            assert sum(features) == pytest.approx(difference, abs=0.05 * size + 1e-4)
            assert sum(shapley) == pytest.approx(float(row["score"]), rel=1e-3, abs=1e-3)


def test_the_same_patients_give_the_same_bytes(
    site: Path, run: Path, out: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    explain_site(site, run, again, sensitivity=0.9)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in again.iterdir()
    }


def test_nothing_is_recorded_and_no_log_tells_of_a_patient(
    site: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = _everything(site.parent) | _everything(run)
    with caplog.at_level(logging.DEBUG):
        explain_site(site, run, tmp_path / "out", by=["smoker"])
    assert _everything(site.parent) | _everything(run) == before
    assert not load_site_config(site).state_dir.exists()
    ours = [r for r in caplog.records if r.name.split(".")[0] in ("client", "common")]
    assert ours == []
    assert "alpha-0" not in caplog.text


PLACES: dict[str, Callable[[Path, Path], Path]] = {
    "a run": lambda site, run: run,
    "below a run": lambda site, run: run / "deep" / "out",
    "the data": lambda site, run: site / "out",
    "the state": lambda site, run: site.parent / "state" / "alpha" / "out",
}


@pytest.mark.parametrize("place", PLACES)
def test_it_is_written_to_no_place_that_others_read(site: Path, run: Path, place: str) -> None:
    before = sorted(site.parent.rglob("*")) + sorted(run.rglob("*"))
    with pytest.raises(SiteConfigError, match="place of this hospital's own"):
        explain_site(site, run, PLACES[place](site, run))
    assert sorted(site.parent.rglob("*")) + sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["consortium.toml", "roster.json", "journal.jsonl", "node.key", "site.toml"]
)
def test_nor_to_a_folder_that_looks_like_one(
    site: Path, run: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(SiteConfigError, match="place of this hospital's own"):
        explain_site(site, run, tmp_path / "sites" / "out")


def test_nor_to_a_folder_of_data_that_lies_elsewhere(site: Path, run: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    config = load_site_config(site)
    config = replace(config, files={**config.files, "imaging": pictures})
    check_place(tmp_path / "out", config, run)
    with pytest.raises(SiteConfigError, match="found it in a site's data folder"):
        check_place(pictures / "out", config, run)


def test_through_a_link_it_is_written_to_the_place_that_was_checked_and_nowhere_else(
    tmp_path: Path,
) -> None:
    private, run = tmp_path / "private", tmp_path / "run"
    private.mkdir(mode=0o755)
    run.mkdir()
    (run / "out").symlink_to(private)
    write_folder(run / "out", {"a": "text"})
    assert (private / "a").read_text(encoding="utf-8") == "text"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert [path.name for path in run.iterdir()] == ["out"]


def test_nothing_is_written_over(site: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    for taken in (tmp_path, tmp_path / "mine"):
        with pytest.raises(SiteConfigError, match="Nothing was changed"):
            explain_site(site, run, taken)
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o755)
    write_folder(tmp_path / "out", {"a": "text"})
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


def test_where_a_file_cannot_be_written_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_folder(tmp_path / "out", {"a": "text", "b": "\ud800"})
    assert list(tmp_path.iterdir()) == []


def test_who_has_no_picture_is_not_in_the_contact_sheet(site: Path, run: Path) -> None:
    subject = load_subject(load_site_config(site), run, shared=False)
    reliance = reliance_of(subject, "event", explained_patients(subject))
    sheet = contact_sheet(subject, "imaging", reliance)
    present_B = subject.test.cohort.arrays["imaging"]["present_B"]
    with_picture = {i for i, p in zip(subject.test.ids, present_B, strict=True) if p}
    assert not present_B.all()
    assert {picture.patient_id for picture in sheet} <= with_picture
    assert [p.miss for p in sheet] == sorted((p.miss for p in sheet), reverse=True)
    missed = dict(zip(subject.test.ids, misses(subject), strict=True))
    assert sheet[0].miss == max(missed[i] for i in with_picture)
    data = base64.b64decode(sheet[0].overlaid.removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).size == (8, 8)


def test_an_overlay_is_orange_where_it_raises_and_blue_where_it_lowers() -> None:
    added_HW = np.zeros((9, 9))
    added_HW[2, 2], added_HW[6, 6] = 1.0, -1.0
    pixels_HW3 = overlay(np.full((9, 9), 100, dtype=np.uint8), added_HW).astype(int)
    assert pixels_HW3[2, 2, 0] > 150 > pixels_HW3[2, 2, 2]
    assert pixels_HW3[6, 6, 2] > 150 > pixels_HW3[6, 6, 0]
    assert pixels_HW3[0, 8].tolist() == [100, 100, 100]
    assert (overlay(np.full((4, 4), 7, dtype=np.uint8), np.zeros((4, 4))) == 7).all()


def test_attention_adds_to_1_and_reads_nothing_from_what_is_absent(site: Path, run: Path) -> None:
    subject = load_subject(load_site_config(site), run, shared=False)
    weight_BG = attention_weights(subject)
    assert weight_BG is not None
    assert weight_BG.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    for g, name in enumerate(STUDY.granularities):
        present_B = subject.test.cohort.arrays[name]["present_B"]
        assert (weight_BG[~present_B, 1 + g] == 0).all()
    whole = attention_of(subject)[0]
    assert list(whole.weights) == [ITSELF, *STUDY.granularities]
    assert list(whole.weights.values()) == pytest.approx(weight_BG.mean(axis=0).tolist())


def test_a_site_without_a_granularity_is_explained_and_told_so(
    site: Path, run: Path, tmp_path: Path
) -> None:
    poor = tmp_path / "poor"
    shutil.copytree(site, poor, ignore=shutil.ignore_patterns("imaging*", "vitals*", "notes*"))
    explain_site(poor, run, tmp_path / "out")
    text = (tmp_path / "out" / PAGE_FILE).read_text(encoding="utf-8")
    assert "None of them has imaging, vitals and notes." in text
    assert ">Pictures<" not in text
    with (tmp_path / "out" / "attributions-event.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    absent = [k for k in rows[0] if re.match(r"(imaging|vitals|notes)\.|shapley_(im|vi|no)tes", k)]
    assert {float(row[column]) for row in rows for column in absent} == {0.0}


def test_what_cannot_be_explained_is_said(site: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunError, match=r"study\.toml"):
        explain_site(site, tmp_path / "no-run", out)
    with pytest.raises(StudyError, match=r"features of the study in --by"):
        explain_site(site, run, out, by=["ward"])
    none = tmp_path / "none"
    shutil.copytree(site, none)
    table = pd.read_csv(none / "patients.csv", dtype=str).assign(split="train")
    table.to_csv(none / "patients.csv", index=False)
    with pytest.raises(DataError, match="held-out patients"):
        explain_site(none, run, out)
    assert not out.exists()


def test_errors_name_no_patient(site: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(WardroundError) as raised:
        explain_site(site, run, run / "out")
    assert "alpha-0" not in str(raised.value)


def test_the_command_says_where_it_is_and_that_nothing_was_sent(
    site: Path, run: Path, tmp_path: Path
) -> None:
    app = typer.Typer()
    client.cli_explain.mount(app)
    arguments = [str(site), "--run", str(run), "--out", str(tmp_path / "out"), "--by", "smoker"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "nothing was sent" in result.output.replace("\n", " ")
    groups = (tmp_path / "out" / "groups.csv").read_text(encoding="utf-8")
    assert "smoker,never" in groups
    assert "sex" not in groups
