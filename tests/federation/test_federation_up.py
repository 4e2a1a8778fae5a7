"""`wardround federation up`: the whole with real processes, the same model, and nothing left."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from client.config import load_site_config
from client.ledger.view import view_ledger
from common.study import Study
from common.study_file import (
    load_study,
    override,
    study_from_toml,
    study_to_toml,
    with_patient_privacy,
)
from server.sinks.live import sinks_of, tell_run
from simulations.cohort import SiteEffects, write_cohort
from simulations.datasets.heart_disease import import_heart_disease
from tests.federation.federation_fixtures import (
    events,
    federation_up,
    model_in_process,
    processes_of,
    tree_of,
    until,
)
from tests.round.tiny import TINY_STUDY
from tests.unit.real_data import real_data


def write_study(study: Study, folder: Path) -> Path:
    path = folder / "study.toml"
    path.write_text(study_to_toml(study), encoding="utf-8")
    return path


def write_sites(study: Study, folder: Path, num_patients: int, **lacks: str) -> Path:
    effects = [
        SiteEffects(name=name, num_patients=num_patients, lacks=tuple(lacks.get(name, "").split()))
        for name in ("ada", "bea")
    ]
    write_cohort(study, effects, folder, seed=1)
    return folder


def test_six_granularities_that_were_ended_and_killed_go_on_to_the_in_process_engines_model(
    tmp_path: Path,
) -> None:
    # So many that a slow machine has not finished them when it is told to stop.
    study = override(load_study("demo"), training__rounds=16, training__seed=3)
    file = write_study(study, tmp_path)
    sites = write_sites(study, tmp_path / "sites", 80, bea="imaging notes")
    hospitals_own = tree_of(sites)
    # So long that the sockets of the site processes cannot be in it.
    run = tmp_path / ("run-" + 100 * "x")
    with federation_up(file, sites, run) as command:
        command.reaches(lambda: len(events(run, "aggregated")) > 0)
        command.send(signal.SIGTERM)
        code, printed = command.ended()
    assert code == 130, printed
    assert "--resume" in printed
    assert processes_of(run) == []
    num_before = len(events(run, "aggregated"))
    with federation_up(file, sites, run, "--resume") as command:
        command.reaches(lambda: len(events(run, "aggregated")) > num_before)
        command.send(signal.SIGKILL)
        command.ended()
    until(lambda: not processes_of(run), timeout_s=30)
    assert not (run / "model.safetensors").exists()
    with federation_up(file, sites, run, "--resume") as command:
        code, printed = command.ended()
    assert code == 0, printed
    assert processes_of(run) == []
    for part in ("2 of 2 hospitals are connected", "round 16/16: 2 sites", "report.md", "ledger"):
        assert part in printed
    expected = model_in_process(study, sites, tmp_path / "in-process")
    assert (run / "model.safetensors").read_bytes() == expected
    assert tree_of(sites) == hospitals_own


def test_an_interruption_before_the_first_round_leaves_nothing_running(tmp_path: Path) -> None:
    study = study_from_toml(TINY_STUDY)
    file, sites = write_study(study, tmp_path), write_sites(study, tmp_path / "sites", 80)
    run = tmp_path / "run"
    with federation_up(file, sites, run) as command:
        command.reaches(lambda: any("site up" in line for line in processes_of(run)))
        command.send(signal.SIGINT)
        code, printed = command.ended()
    assert code == 130, printed
    assert "Give the same command again" in printed
    assert processes_of(run) == []


def test_a_private_run_is_booked_at_every_hospital_and_its_heads_are_countersigned(
    tmp_path: Path,
) -> None:
    study = with_patient_privacy(
        override(study_from_toml(TINY_STUDY), training__rounds=2), epsilon=4.0, delta=1e-4
    )
    file, sites = write_study(study, tmp_path), write_sites(study, tmp_path / "sites", 80)
    run, board = tmp_path / "run", tmp_path / "board"
    with federation_up(file, sites, run, "--json", "--tensorboard", board) as command:
        code, printed = command.ended()
    assert code == 0, printed
    (told,) = board.glob("*/*")
    tell_run(run, sinks_of(None, tmp_path / "after"))
    assert told.read_bytes() == next((tmp_path / "after").glob("*/*")).read_bytes()
    results = json.loads((run / "results.json").read_text())
    assert results["status"] == "finished"
    for name in ("ada", "bea"):
        folder = run / "deployment" / "sites" / name / "site"
        config = load_site_config(folder)
        view = view_ledger(
            config.state_dir,
            dataset_id=config.dataset_id,
            delta=config.policy.delta_budget,
            budget=config.policy.epsilon_budget,
        )
        assert view.faults == ()
        assert not view.simulation
        assert 0 < view.spent <= 4.0
        assert view.checked_against is not None
        (spending,) = view.runs
        assert (spending.rounds, spending.noise) == ((0, 1), ("secure",))
        for books in ("ledger", "audit"):
            subprocess.run(
                [Path(sys.executable).with_name("wardround"), books, folder],
                check=True,
                stdout=subprocess.DEVNULL,
            )


def test_heart_disease_gives_the_model_of_the_in_process_engine(tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    import_heart_disease(real_data("heart_disease"), sites, split="flamby")
    study = override(load_study("heart-disease"), training__rounds=3)
    run = tmp_path / "run"
    with federation_up(write_study(study, tmp_path), sites, run) as command:
        code, printed = command.ended()
    assert code == 0, printed
    assert processes_of(run) == []
    (started,) = events(run, "run_started")
    assert started["engine"] == "superlink"
    assert events(run, "absent") == []
    expected = model_in_process(study, sites, tmp_path / "in-process")
    assert (run / "model.safetensors").read_bytes() == expected
