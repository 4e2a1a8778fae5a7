"""Searches for settings: held-out patients take no part, and an interruption changes nothing."""

import shutil
from pathlib import Path

import pytest

from common.study_file import load_study
from simulations.experiments.space import Parameter, Space
from simulations.experiments.tuning import Tuning, tune_study
from simulations.experiments.validation import Inner
from tests.round.experiment_sites import STUDY, garbled, rows_of, write_hospitals


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("two"))


SPACE = Space(
    parameters={
        "training.learning_rate": Parameter(low=0.01, high=1.0, log=True),
        "model.fusion": Parameter(choices=["attention", "gated_sum"]),
        "model.width": Parameter(choices=[3, 4]),
    }
)


def _tune(sites: Path, out: Path, num_trials: int = 5, timeout_s: float = 1e9) -> Path:
    tuning = Tuning(study=STUDY, space=SPACE, num_trials=num_trials, inner=Inner(num_folds=2))
    return tune_study(
        tuning,
        sites=sites,
        out=out,
        jobs=1,
        timeout_s=timeout_s,
        simulate_hospitals=lambda: None,
        on_progress=lambda *_: None,
    )


@pytest.fixture(scope="module")
def tuned(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tune(sites, tmp_path_factory.mktemp("tuned") / "out").parent


def test_a_search_never_sees_the_held_out_patients(
    tuned: Path, sites: Path, tmp_path: Path
) -> None:
    out = _tune(garbled(sites, "test", tmp_path / "garbled"), tmp_path / "out").parent
    for name in ("best.toml", "trials.csv", "report.md"):
        assert (out / name).read_bytes() == (tuned / name).read_bytes()


def test_training_patients_do_have_a_part_in_a_search(
    tuned: Path, sites: Path, tmp_path: Path
) -> None:
    out = _tune(
        garbled(sites, "train", tmp_path / "garbled"), tmp_path / "out", num_trials=1
    ).parent
    first, was = (rows_of(folder / "trials.csv")[0]["value"] for folder in (out, tuned))
    assert first != was


def test_a_search_that_was_interrupted_ends_with_the_same_bytes(
    tuned: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(tuned, out)
    for path in sorted((out / "points").iterdir())[::2]:
        path.unlink()
    _tune(sites, out)
    for name in ("best.toml", "trials.csv", "report.md"):
        assert (out / name).read_bytes() == (tuned / name).read_bytes()


def test_the_best_study_is_whole_and_no_worse_than_the_study_as_it_stands(tuned: Path) -> None:
    best = load_study(tuned / "best.toml")
    assert best.evaluation == STUDY.evaluation
    means: dict[str, list[float]] = {}
    for row in rows_of(tuned / "trials.csv"):
        if row["value"]:
            means.setdefault(row["trial"], []).append(float(row["value"]))
    ranked = {trial: sum(values) / len(values) for trial, values in means.items()}
    top = max(ranked, key=lambda trial: ranked[trial])
    row = next(r for r in rows_of(tuned / "trials.csv") if r["trial"] == top)
    assert best.training.learning_rate == float(row["training.learning_rate"])
    assert ranked[top] >= ranked["0"]


def test_values_that_do_not_go_together_are_a_failed_trial(tuned: Path) -> None:
    # Attention with two heads needs an even width.
    rows = rows_of(tuned / "trials.csv")
    impossible = [r for r in rows if (r["model.fusion"], r["model.width"]) == ("attention", "3")]
    assert all(r["failed"] == "study" and not r["value"] for r in impossible)


def test_a_search_whose_time_is_over_has_the_study_as_it_stands(
    sites: Path, tmp_path: Path
) -> None:
    out = _tune(sites, tmp_path / "out", timeout_s=0.0).parent
    assert {r["trial"] for r in rows_of(out / "trials.csv")} == {"0"}
    assert load_study(out / "best.toml") == STUDY
