"""The same run in process and under Flower's simulation runtime: finished, failed, interrupted."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import RunError
from common.study import Study
from common.study_file import load_study, override, with_patient_privacy
from simulations import flower_runtime
from simulations.cohort import varied_sites, write_cohort
from simulations.flower_runtime import app_folder, run_on_flower
from simulations.simulate import Simulation, simulate


@pytest.fixture(scope="module")
def study() -> Study:
    return override(load_study("demo"), training__rounds=2, training__seed=3)


@pytest.fixture(scope="module")
def sites(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A folder whose name `flwr build` would refuse, with a space in it.
    folder = tmp_path_factory.mktemp("a b") / "sites_1.0"
    effects = [
        replace(site, num_patients=num_patients)
        for site, num_patients in zip(
            varied_sites(study, num_sites=3, seed=2), (80, 90, 100), strict=True
        )
    ]
    write_cohort(study, effects, folder, seed=2)
    return folder


def _processes_below(folder: Path) -> list[str]:
    """The command lines of all processes whose environment names `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.fixture
def leaves_no_process(tmp_path: Path) -> Iterator[None]:
    yield
    assert _processes_below(tmp_path) == []


def _metrics(run: Path) -> list[dict[str, Any]]:
    results = json.loads((run / "results.json").read_text())
    assert results["status"] == "finished"
    parts = [{k: r[k] for k in ("round", "pooled", "sites")} for r in results["rounds"]]
    return [*parts, {"attributions": results["attributions"]}]


@pytest.mark.flower
@pytest.mark.usefixtures("leaves_no_process")
def test_both_engines_give_the_same_model_bit_for_bit_and_the_same_metrics(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    study = override(study, evaluation__attributions=True)
    simulate(Simulation(study=study, sites=sites, out=tmp_path / "ours"))
    lines: list[str] = []
    run_on_flower(study, sites, tmp_path / "flower", echo=lines.append)
    ours, flower = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("ours", "flower"))
    assert flower == ours
    assert _metrics(tmp_path / "flower") == _metrics(tmp_path / "ours")
    assert any("Successfully started run" in line for line in lines)
    # Nothing was fetched or installed, and no other SuperLink was asked.
    assert not list((tmp_path / "flower").rglob("uv.lock"))


@pytest.mark.flower
@pytest.mark.usefixtures("leaves_no_process")
def test_a_private_run_loses_no_site_and_gives_the_same_model(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    private = with_patient_privacy(study, epsilon=5.0, delta=1e-4)
    simulate(Simulation(study=private, sites=sites, out=tmp_path / "ours"))
    run_on_flower(private, sites, tmp_path / "flower", echo=lambda line: None)
    journal = (tmp_path / "flower" / "journal.jsonl").read_text().splitlines()
    assert [line for line in journal if json.loads(line)["event"] == "absent"] == []
    ours, flower = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("ours", "flower"))
    assert flower == ours


@pytest.mark.flower
@pytest.mark.usefixtures("leaves_no_process")
def test_a_failing_run_raises_one_sentence_with_the_reason(
    study: Study, sites: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"finished:failed: .*Expected a checkpoint in .*found none"):
        run_on_flower(study, sites, tmp_path, resume=True)


@pytest.mark.flower
@pytest.mark.usefixtures("leaves_no_process")
def test_an_interrupted_run_leaves_no_process(study: Study, sites: Path, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        assert _processes_below(tmp_path) != []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on_flower(study, sites, tmp_path, echo=interrupt)


def test_no_sites_are_an_error_before_anything_is_started(study: Study, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Expected folders with a site\.toml"):
        run_on_flower(study, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_installation_without_a_checkout_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_runtime.common, "__file__", str(tmp_path / "common" / "__init__.py"))
    with pytest.raises(RunError, match="install Wardround from a checkout"):
        app_folder()
