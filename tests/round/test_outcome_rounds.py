"""Whole runs by kind of outcome: results, report, and the plain loop as another implementation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.metrics.evaluation import statistics_of
from common.study import Study
from simulations.bench.plain_loop import plain_loop, read_sites
from simulations.oracle import Oracle
from simulations.simulate import Simulation, simulate
from tests.round.mixed_hospitals import SITES, mixed_study, write_hospitals


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def incomplete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hospitals that know each outcome of about two thirds of their patients."""
    return write_hospitals(tmp_path_factory.mktemp("incomplete"), missing=1 / 3)


def results_of(study: Study, sites: Path, out: Path, oracle: Oracle | None = None) -> Any:
    report = simulate(Simulation(study=study, sites=sites, out=out), oracle=oracle)
    assert report.read_text(encoding="utf-8").startswith("#")
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


LONG = {"rounds": 12, "local_epochs": 2, "optimizer": "adam", "learning_rate": 0.03}
# By name: outcomes, changes of the study, the metric that training must better, and whether upwards
RUNS: dict[str, tuple[tuple[str, ...], dict[str, Any], str, bool]] = {
    "regression": (("stay",), {"training": LONG}, "rmse", False),
    "regression on a log scale": (
        ("stay",),
        {"training": LONG, "outcomes": {"stay": {"scale": "log"}}},
        "mae",
        False,
    ),
    "survival": (("death",), {"training": LONG}, "loss", False),
    "survival by interval": (
        ("death",),
        {"training": LONG, "outcomes": {"death": {"proportional": False}}},
        "c_index",
        True,
    ),
    "cox": (
        ("death",),
        {"training": LONG, "outcomes": {"death": {"loss": "cox"}}},
        "c_index",
        True,
    ),
    "weighted classes": (
        ("stage",),
        {"training": LONG, "outcomes": {"stage": {"class_weights": [2.0, 1.0, 0.5]}}},
        "loss",
        False,
    ),
    "focal": (
        ("event",),
        {"training": LONG, "outcomes": {"event": {"focal_gamma": 2.0}}},
        "auroc",
        True,
    ),
    "balanced": (("stage",), {"training": LONG | {"balance": "resample"}}, "auroc", True),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_learns_its_outcome_and_reports_it(
    name: str, hospitals: Path, tmp_path: Path
) -> None:
    outcomes, changes, metric, is_better_up = RUNS[name]
    study = mixed_study(*outcomes, **changes)
    results = results_of(study, hospitals, tmp_path)
    assert results["status"] == "finished"
    assert results["absent"] == []
    (outcome,) = outcomes
    assert results["outcomes"] == {outcome: study.outcomes[outcome].kind}
    first, last = results["rounds"][0], results["rounds"][-1]
    assert last["round"] == study.training.rounds
    gain = last["pooled"][outcome][metric] - first["pooled"][outcome][metric]
    assert gain > 0 if is_better_up else gain < 0
    assert set(last["sites"]) == set(SITES)
    if metric in ("auroc", "c_index"):
        assert last["pooled"][outcome][metric] > 0.65
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert outcome in report
    for column in statistics_of(study)[outcome].columns[:1]:
        assert f"{last['pooled'][outcome][column]:.3f}".rstrip("0") in report


@pytest.mark.parametrize("name", RUNS)
def test_the_metrics_of_merged_sums_are_the_oracles(
    name: str, hospitals: Path, tmp_path: Path
) -> None:
    outcomes, changes, _, _ = RUNS[name]
    training = changes["training"] | {"rounds": 2}
    study = mixed_study(*outcomes, **(changes | {"training": training}))
    for entry in results_of(study, hospitals, tmp_path)["rounds"]:
        for outcome, pooled in entry["pooled"].items():
            exact = entry["oracle"][outcome]
            for metric, value in pooled.items():
                if metric in ("auroc_error_bound", "c_index_error_bound"):
                    assert exact[metric] is None
                elif metric == "auprc":
                    assert 0 < value < 1  # binned, and without a stated bound
                elif metric in ("auroc", "c_index"):
                    assert abs(value - exact[metric]) <= pooled[f"{metric}_error_bound"] + 1e-12
                else:
                    assert (value is None) == (exact[metric] is None)
                    assert value is None or value == pytest.approx(exact[metric]), metric


ALL = ("event", "stage", "stay", "death")


def test_several_outcomes_are_learned_at_once_from_patients_who_lack_some(
    incomplete: Path, tmp_path: Path
) -> None:
    study = mixed_study(*ALL, training=LONG)
    results = results_of(study, incomplete, tmp_path)
    first, last = (results["rounds"][i]["pooled"] for i in (0, -1))
    assert list(last) == list(ALL)
    assert last["event"]["auroc"] > max(0.7, first["event"]["auroc"])
    assert last["stage"]["auroc"] > max(0.6, first["stage"]["auroc"])
    assert last["stay"]["rmse"] < first["stay"]["rmse"]
    assert last["death"]["c_index"] > max(0.6, first["death"]["c_index"])
    # Each outcome is evaluated on those of whom it is known.
    num_test = sum(SITES.values()) / 3
    for outcome in ALL:
        assert 0.5 * num_test < last[outcome]["num_patients"] < 0.85 * num_test
    for site in results["sites"].values():
        counts = site["training_patients"]
        assert all(0 < counts[outcome] < counts["patients"] for outcome in ALL)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all(outcome in report for outcome in ALL)


MIXED: dict[str, dict[str, Any]] = {
    "plain": {},
    "weights of outcomes and classes": {
        "outcomes": {
            "event": {"weight": 0.3, "focal_gamma": 1.0},
            "stage": {"class_weights": [1.0, 2.0, 3.0]},
            "stay": {"scale": "log", "weight": 2.0},
            "death": {"loss": "cox"},
        }
    },
    "balanced fedadam": {
        "training": {"balance": "resample", "optimizer": "adamw", "learning_rate": 0.01},
        "strategy": {"name": "fedadam"},
    },
    "own intercepts": {"model": {"site_intercept_sd": 1.0}},
}


@pytest.mark.parametrize("changes", MIXED.values(), ids=MIXED.keys())
def test_the_engine_and_a_plain_loop_agree_on_several_outcomes_bit_for_bit(
    incomplete: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    study = mixed_study(*ALL, **changes)
    results = results_of(study, incomplete, tmp_path)
    plain = plain_loop(study, read_sites(study, incomplete))
    engine = load_file(tmp_path / "model.safetensors")
    assert engine.keys() == plain.model.unpack().keys()
    for name, values in plain.model.unpack().items():
        assert engine[name].tobytes() == values.tobytes(), name
    statistics = statistics_of(study)
    assert [entry["round"] for entry in results["rounds"]] == [0, 1, 2, 3]
    for entry, evaluated in zip(results["rounds"], plain.evaluations, strict=True):
        for outcome, sums in evaluated.items():
            expected = statistics[outcome].metrics_of(sums)
            assert entry["pooled"][outcome].keys() == expected.keys()
            for metric, value in entry["pooled"][outcome].items():
                assert value == (None if value is None else pytest.approx(expected[metric]))
                assert (value is None) == (expected[metric] is None)


def test_a_run_gives_the_same_model_twice(incomplete: Path, tmp_path: Path) -> None:
    study = mixed_study(*ALL)
    for name in ("one", "other"):
        simulate(Simulation(study=study, sites=incomplete, out=tmp_path / name))
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_an_outcome_changes_no_head_but_its_own_and_what_is_shared(
    hospitals: Path, tmp_path: Path
) -> None:
    # Where the other outcome weighs next to nothing, the first is learned as it is alone.
    light = mixed_study("event", "stay", outcomes={"stay": {"weight": 1e-12}})
    alone = mixed_study("event")
    for name, study in (("light", light), ("alone", alone)):
        simulate(Simulation(study=study, sites=hospitals, out=tmp_path / name))
    both, one = (load_file(tmp_path / name / "model.safetensors") for name in ("light", "alone"))
    assert both.keys() - one.keys() == {"heads.stay.linear.weight", "heads.stay.linear.bias"}
    for name, value in one.items():
        np.testing.assert_allclose(both[name], value, atol=1e-5)
