"""What joining brings, trained for real: against other implementations, and by the command."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import simulations.cli_joining
from client.evaluation import predict
from common.models.patient_model import PatientModel, load_state
from common.study import Study
from common.study_file import override, study_to_toml, without_granularity
from simulations.arms import run_seed
from simulations.bench.plain_loop import PlainSite, plain_loop, read_sites
from simulations.joining.make import measure_and_keep, with_personal
from simulations.joining.resample import drawn_at, resampled
from simulations.joining.training import (
    ALONE,
    JOINED,
    JOINED_PERSONAL,
    POOLED,
    Measured,
    Piece,
    measure,
)
from simulations.results.measure import primary_metric
from tests.round.mixed_hospitals import OUTCOMES, SITES, mixed_study, write_hospitals

BASE = Piece(seed=0)
PRIVACY = {"mode": "patient", "noise_multiplier": 1.0, "delta": 1e-3}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alpha, beta and gamma; gamma has no lifestyle."""
    return write_hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def study() -> Study:
    return with_personal(mixed_study("event"), 2)


@pytest.fixture(scope="module")
def base(study: Study, hospitals: Path) -> Measured:
    return measure(BASE, study, hospitals)


def test_arms_have_the_metrics_of_the_arms_of_one_seed(
    base: Measured, study: Study, hospitals: Path, tmp_path: Path
) -> None:
    found = run_seed(
        study, variant="v", sites=hospitals, left_out=frozenset(), out=tmp_path, seed=0
    )
    for r in found:
        if r.scope in SITES and r.arm in base.values:
            assert base.values[r.arm][r.scope][0] == pytest.approx(r.metrics["auroc"])
    assert set(base.values) == {ALONE, JOINED, JOINED_PERSONAL, POOLED}
    assert not any(base.reasons.values())


def test_personal_models_leave_the_joined_one_as_it_is(base: Measured, hospitals: Path) -> None:
    without = measure(BASE, mixed_study("event"), hospitals)
    assert JOINED_PERSONAL not in without.values
    for site in SITES:
        assert np.array_equal(without.values[JOINED][site], base.values[JOINED][site])


def by_plain_loop(
    study: Study, hospitals: Path, left_out: frozenset[str]
) -> Callable[[PlainSite], np.ndarray]:
    """The metric on resamples of any hospital, for a model trained without some of them."""
    model = PatientModel(study)
    load_state(model, plain_loop(study, read_sites(study, hospitals, left_out=left_out)).model)

    def judge(site: PlainSite) -> np.ndarray:
        labels = site.cohort.test.outcomes
        drawn_RB = drawn_at(site.name, int(labels["event"]["known_B"].sum()))
        values_R: np.ndarray = resampled(predict(model, site.test), labels, study, drawn_RB)
        return values_R

    return judge


def test_without_a_hospital_the_others_model_is_judged_at_all_of_them(hospitals: Path) -> None:
    study = mixed_study("event")
    piece = Piece(seed=0, kind="without hospital", absent="beta")
    found = measure(piece, study, hospitals)
    judge = by_plain_loop(study, hospitals, frozenset({"beta"}))
    assert list(found.values) == ["without hospital beta"]
    for site in read_sites(study, hospitals):
        assert found.values[piece.arm][site.name] == pytest.approx(judge(site), nan_ok=True)


def test_the_others_model_is_used_as_it_is_without_an_intercept_of_the_absent_hospital(
    hospitals: Path,
) -> None:
    study = mixed_study("stage", model={"width": 4, "site_intercept_sd": 2.0})
    piece = Piece(seed=0, kind="without hospital", absent="gamma")
    found = measure(piece, study, hospitals).values[piece.arm]
    model = PatientModel(study)
    others = read_sites(study, hospitals, left_out=frozenset({"gamma"}))
    load_state(model, plain_loop(study, others).model)
    gamma = read_sites(study, hospitals)[2]
    labels = gamma.cohort.test.outcomes
    drawn_RB = drawn_at("gamma", int(labels["stage"]["known_B"].sum()))
    as_it_is = resampled(predict(model, gamma.test), labels, study, drawn_RB)
    assert found["gamma"] == pytest.approx(as_it_is, nan_ok=True)


def test_without_a_granularity_who_has_nothing_else_stays_with_the_reason(
    hospitals: Path,
) -> None:
    study = mixed_study("event")
    piece = Piece(seed=0, kind="without granularity", absent="labs")
    found = measure(piece, study, hospitals)
    assert found.reasons[piece.arm] == {"gamma": "it has nothing but labs"}
    smaller = without_granularity(study, "labs")
    judge = by_plain_loop(smaller, hospitals, frozenset({"gamma"}))
    for site in read_sites(smaller, hospitals, left_out=frozenset({"gamma"})):
        assert found.values[piece.arm][site.name] == pytest.approx(judge(site), nan_ok=True)


@pytest.mark.parametrize("outcome", [name for name in OUTCOMES if name != "event"])
def test_every_kind_of_outcome_has_its_main_metric_in_every_arm(
    hospitals: Path, outcome: str
) -> None:
    study = with_personal(mixed_study(outcome), 2)
    found = measure(BASE, study, hospitals)
    assert set(found.values) == {ALONE, JOINED, JOINED_PERSONAL, POOLED}
    for by_site in found.values.values():
        for site in SITES:
            assert np.isfinite(by_site[site][0])
            assert np.isfinite(by_site[site]).mean() > 0.9
    is_error = primary_metric(study)[1] == "mae"
    assert (found.values[JOINED]["alpha"][0] > 1) == is_error


def test_a_private_study_has_private_arms_alone_and_together(hospitals: Path) -> None:
    # By its noise, which no accountant has to look for.
    private = override(mixed_study("event", privacy=PRIVACY), training__rounds=1)
    found = measure(BASE, with_personal(private, 2), hospitals)
    assert set(found.values) == {ALONE, JOINED}
    assert all(np.isfinite(found.values[arm][site][0]) for arm in found.values for site in SITES)


def test_too_few_hospitals_to_leave_one_out_is_a_reason_and_not_an_end(
    hospitals: Path,
) -> None:
    study = override(mixed_study("event"), strategy__min_sites=3)
    piece = Piece(seed=0, kind="without hospital", absent="beta")
    found = measure(piece, study, hospitals)
    told = "without it 2 would be left, and the study takes 3 (min_sites)"
    assert found.reasons[piece.arm] == dict.fromkeys(SITES, told)
    assert not found.has_failed


def test_blocks_that_stay_at_home_leave_an_absent_hospital_without_a_whole_model(
    hospitals: Path,
) -> None:
    study = mixed_study("event", personal={"local_blocks": ["heads.*"]})
    piece = Piece(seed=0, kind="without hospital", absent="beta")
    found = measure(piece, study, hospitals)
    assert found.reasons[piece.arm] == {"beta": "blocks of the model stay at the hospitals"}
    assert set(found.values[piece.arm]) == {"alpha", "gamma"}


def test_training_that_diverges_or_ends_with_an_error_stays_with_its_reason(
    hospitals: Path,
) -> None:
    torch.manual_seed(0)
    study = override(mixed_study("event"), training__learning_rate=1e30)
    found = measure(BASE, override(study, training__optimizer="sgd"), hospitals)
    assert set(found.reasons[ALONE].values()) == {"its training diverged"}
    for site in SITES:
        assert found.reasons[JOINED][site].startswith(("its training", "the hospital took no part"))


def test_what_failed_by_an_error_is_told_and_not_kept(hospitals: Path, tmp_path: Path) -> None:
    study = override(mixed_study("event"), strategy__min_sites=4)
    found = measure_and_keep(BASE, study, hospitals, tmp_path / "piece.npz")
    told = "its training ended with error cohort"
    assert found.reasons[JOINED] == dict.fromkeys(SITES, told)
    assert all(np.isfinite(found.values[ALONE][site][0]) for site in SITES)
    assert not (tmp_path / "piece.npz").exists()


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    simulations.cli_joining.mount(app)
    return app


@pytest.fixture(scope="module")
def words(study: Study, hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command, of one seed."""
    folder = tmp_path_factory.mktemp("joining")
    (folder / "mixed.toml").write_text(study_to_toml(override(study, training__rounds=1)))
    words = ["joining", str(folder / "mixed.toml"), "--sites", str(hospitals), "--seeds", "1"]
    return [*words, "--jobs", "1", "--out", str(folder / "out")]


@pytest.fixture(scope="module")
def out(app: typer.Typer, words: list[str]) -> Path:
    """What the command has left."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    for site in SITES:
        assert f"For {site}, " in done.output
    return Path(words[-1])


def test_the_command_goes_on_where_it_was_and_gives_the_same_files(
    app: typer.Typer, words: list[str], out: Path
) -> None:
    files = ["joining.html", "joining.csv", "joining.json", "report.md"]
    before = {name: (out / name).read_bytes() for name in files}
    kept = {path: path.stat().st_mtime_ns for path in (out / "pieces").iterdir()}
    assert len(kept) == 1 + 3 + 2
    gone = sorted(kept)[2]
    gone.unlink()
    (out / "joining.csv").unlink()
    again = CliRunner().invoke(app, [*words, "--json", "--jobs", "2"])
    assert again.exit_code == 0, again.output
    assert {name: (out / name).read_bytes() for name in files} == before
    after = {path: path.stat().st_mtime_ns for path in (out / "pieces").iterdir()}
    assert {path for path in after if after[path] != kept[path]} == {gone}
    assert set(json.loads((out / "joining.json").read_text())["hospitals"]) == set(SITES)


def test_no_file_holds_a_patient(out: Path) -> None:
    paths = [path for path in out.rglob("*") if path.is_file()]
    assert len(paths) == 6 + 4
    for path in paths:
        # Ids of patients are p0-0000 and on.
        assert b"p0-00" not in path.read_bytes()
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                lengths = {arrays[name].shape for name in arrays.files if name != "about"}
            assert lengths == {(2001,)}


def test_help_is_there_without_torch(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["joining", "--help"])
    assert done.exit_code == 0
    assert "--leave-out" in done.output.replace("\n", "")
