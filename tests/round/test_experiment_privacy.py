"""Privacy experiments: fair, resumable, paid for, and nothing that failed is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import typer

from common.errors import RunError, StudyError
from common.privacy.accounting import epsilon_of
from common.study_file import load_study
from simulations.attacks.membership import LIRA, LOSS_THRESHOLD
from simulations.attacks.reconstruction import TABLES
from simulations.cli_experiment import mount
from simulations.experiments.experiment import Experiment, Sweep
from simulations.experiments.make import Wanted, make_experiment
from simulations.experiments.privacy import check_sweep, run_sweep
from simulations.experiments.runs import charges_of
from simulations.experiments.settings import Axes, Bases, questions_of
from simulations.experiments.validation import Inner
from tests.round.experiment_sites import ONE_ROUND, STUDY, garbled, rows_of, write_hospitals

FILES = ("experiment.csv", "trials.csv", "curve.html", "report.md")
BASES = Bases(private=STUDY, reference=STUDY, delta=1e-3)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("two"))


def _make(sites: Path, out: Path, **changes: object) -> None:
    wanted = {
        "bases": BASES,
        "epsilons": [2.0],
        "axes": Axes(clip=(0.5, 2.0)),
        "num_seeds": 1,
        "attacks": "none",
        **changes,
    }
    make_experiment(
        Wanted(**wanted),  # type: ignore[arg-type]
        sites=sites,
        out=out,
        jobs=1,
        simulate_hospitals=lambda: None,
        on_progress=lambda *_: None,
    )


@pytest.fixture(scope="module")
def made(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that was never interrupted."""
    out = tmp_path_factory.mktemp("made") / "out"
    _make(sites, out)
    return out


def _bytes(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


def test_what_was_interrupted_between_and_within_runs_ends_with_the_same_bytes(
    made: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    for name in FILES:
        (out / name).unlink()
    for kind in ("validate", "measure"):
        point = min((out / "points").glob(f"{kind}-*"))
        point.unlink()
        journal = out / "runs" / point.stem / "journal.jsonl"
        journal.write_bytes(journal.read_bytes()[:500])
    _make(sites, out)
    assert _bytes(out) == _bytes(made)


def test_killed_and_given_again_a_command_ends_with_the_same_bytes(
    made: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    program = (
        "from pathlib import Path\n"
        "from tests.round.test_experiment_privacy import _make\n"
        f"_make(Path({str(sites)!r}), Path({str(out)!r}))\n"
    )
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root) as process:
        while not list((out / "points").glob("*.json")) and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "report.md").exists()
    _make(sites, out)
    assert _bytes(out) == _bytes(made)


def test_every_point_is_a_run_with_its_own_folder_and_ledgers(made: Path) -> None:
    rows = rows_of(made / "experiment.csv")
    private = next(r for r in rows if r["point"] == "epsilon 2")
    assert 0 < float(private["epsilon_spent"]) <= 2
    runs = list((made / "runs").glob("measure-epsilon-2-*"))
    assert len(runs) == 1
    assert list((runs[0] / "sites" / "ada" / "ledger").glob("*.jsonl"))
    plain = next(r for r in rows if r["point"] == "no privacy")
    assert (plain["epsilon_spent"], plain["clip"], plain["noise_multiplier"]) == ("inf", "", "")


def test_the_arms_and_scopes_that_a_curve_needs_are_there(made: Path) -> None:
    rows = rows_of(made / "experiment.csv")
    told = {(r["point"], r["arm"]) for r in rows}
    assert told >= {
        ("epsilon 2", "federated"),
        ("epsilon 2", "local only"),
        ("no privacy", "federated"),
        ("no privacy", "local only"),
        ("no privacy", "pooled"),
    }
    assert {r["scope"] for r in rows} == {"ada", "bob", "all, pooled", "mean of sites"}


def test_held_out_patients_have_no_part_in_the_choice_of_settings(
    made: Path, sites: Path, tmp_path: Path
) -> None:
    _make(garbled(sites, "test", tmp_path / "garbled"), tmp_path / "out")
    assert (tmp_path / "out" / "trials.csv").read_bytes() == (made / "trials.csv").read_bytes()
    assert _values(tmp_path / "out") != _values(made)


def _values(out: Path) -> list[str]:
    return [row["value"] for row in rows_of(out / "experiment.csv")]


def _swept(sites: Path, out: Path, **changes: object) -> Experiment:
    asked = {
        "bases": BASES,
        "questions": questions_of([2.0], [], Axes(clip=(0.5, 2.0))),
        "num_seeds": 1,
        "inner": Inner(),
        **changes,
    }
    sweep = Sweep(**asked)  # type: ignore[arg-type]
    check_sweep(sweep)
    return run_sweep(sweep, sites=sites, out=out, jobs=1, on_progress=lambda *_: None)


def test_trials_that_are_charged_are_composed_with_the_run(
    made: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # The same pieces: what is reported differs, and not what is trained.
    shutil.copytree(made / "points", out / "points")
    experiment = _swept(sites, out, charges_tuning=True)
    (point,) = experiment.points
    (run,) = point.runs
    # Two clips on two folds.
    assert point.num_trainings == 4
    history = {
        site: [*charges, *(c for t in point.trials for of in t.validated.charges for c in of[site])]
        for site, charges in charges_of(run.made["spent"]).items()
    }
    assert run.epsilon_reported == max(epsilon_of(h, 1e-3) for h in history.values())
    assert run.epsilon_spent is not None
    assert run.epsilon_reported > run.epsilon_spent
    (free,) = _swept(sites, out).points[0].runs
    assert free.epsilon_reported == free.epsilon_spent == run.epsilon_spent


@pytest.fixture(scope="module")
def attacked(made: Path, sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same experiment with all attacks, made once."""
    out = tmp_path_factory.mktemp("attacked") / "out"
    # The same pieces: what is trained does not depend on attacks.
    shutil.copytree(made / "points", out / "points")
    _make(sites, out, attacks="all")
    return out


def test_an_audit_of_each_point_stands_below_its_claim(attacked: Path, sites: Path) -> None:
    (point,) = _swept(sites, attacked, attacks="all").points
    assert point.audit is not None
    assert 0 <= point.audit["epsilon_lower_bound"] < point.audit["epsilon_claimed"] <= 2


def test_all_attacks_stand_beside_each_point_and_beside_none(attacked: Path, sites: Path) -> None:
    experiment = _swept(sites, attacked, attacks="all")
    (point,) = experiment.points
    told = {(t["attack"], t["target"]): t for t in point.attacks}
    members = {attack for attack, _ in told if attack.startswith("membership")}
    assert members == {LIRA, LOSS_THRESHOLD}
    assert {t["attack"] for t in experiment.reference.attacks} == {a for a, _ in told}
    assert not told[TABLES, "epsilon 2"]["succeeded"]
    assert told[TABLES, "no privacy"]["succeeded"]
    rows = rows_of(attacked / "experiment.csv")
    aucs = {r["point"]: r for r in rows if (r["arm"], r["metric"]) == (f"attack: {LIRA}", "auc")}
    assert set(aucs) == {"epsilon 2", "no privacy"}
    assert 0 < float(aucs["epsilon 2"]["value"]) < 1


def test_attacks_that_were_interrupted_end_with_the_same_bytes(
    attacked: Path, sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(attacked, out)
    (out / "report.md").unlink()
    for kind in ("members", "updates"):
        min((out / "points").glob(f"{kind}-*")).unlink()
    _make(sites, out, attacks="all")
    assert _bytes(out) == _bytes(attacked)


def test_a_front_is_searched_and_every_trial_is_owed(sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # So close that all are rounded to an epsilon whose noise is known: that takes longest.
    wanted = {
        "epsilons": [2.0, 2.001],
        "axes": Axes(rounds=(1,)),
        "num_trials": 3,
        "num_folds": 1,
    }
    _make(sites, out, **wanted)
    rows = rows_of(out / "experiment.csv")
    private = [r for r in rows if r["epsilon_asked"] != "inf"]
    assert {(r["epsilon_asked"], r["tuning_trainings"]) for r in private} == {("2.0", "3")}
    tried = [r for r in rows_of(out / "trials.csv") if r["epsilon_asked"] != "inf"]
    assert len(tried) == 3
    before = _bytes(out)
    (out / "report.md").unlink()
    _make(sites, out, **wanted)
    assert _bytes(out) == before


def test_where_every_private_run_is_refused_the_command_says_so_and_fails(
    sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict, out, path = tmp_path / "strict", tmp_path / "out", tmp_path / "tiny.toml"
    shutil.copytree(sites, strict)
    for file in strict.glob("*/site.toml"):
        file.write_text(file.read_text().replace("[policy]", "[policy]\nmax_rounds = 1"))
    path.write_text(ONE_ROUND)
    words = ("--sites", strict, "--out", out, "--delta", 0.001, "--epsilons", 2, "--seeds", 1)
    more = ("--rounds", 2, "--attacks", "all", "--jobs", 1)
    assert _typed("experiment", "privacy", path, *words, *more) == 1
    assert "all of them failed (data)" in capsys.readouterr().err
    rows = [r for r in rows_of(out / "experiment.csv") if r["arm"] == "federated" and r["failed"]]
    assert [(r["point"], r["metric"], r["value"]) for r in rows] == [("epsilon 2", "auroc", "")]
    assert "epsilon 2: every run failed." in (out / "report.md").read_text()


def test_another_experiment_in_the_same_folder_is_an_error(made: Path, sites: Path) -> None:
    before = _bytes(made)
    with pytest.raises(RunError, match="found another epsilons"):
        _make(sites, made, epsilons=[3.0])
    assert _bytes(made) == before


def test_a_study_that_cannot_be_private_is_refused_before_anything_is_written(
    sites: Path, tmp_path: Path
) -> None:
    cox = load_study("tcga-brca-clinical")
    table = cox.model_dump(mode="json", exclude_none=True)
    table["outcomes"]["survival"]["loss"] = "cox"
    study = type(cox).model_validate(table)
    with pytest.raises(StudyError, match="partial likelihood"):
        _make(sites, tmp_path / "out", bases=Bases(private=study, reference=study, delta=1e-4))
    assert not (tmp_path / "out").exists()


def _typed(*words: object) -> int | None:
    app = typer.Typer()
    mount(app)
    code: int | None = app([str(word) for word in words], standalone_mode=False)
    return code


def test_the_commands_print_the_report_and_go_on_in_their_folder(
    sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "tiny.toml", tmp_path / "out"
    path.write_text(ONE_ROUND)
    words = (
        "experiment",
        "privacy",
        path,
        "--sites",
        sites,
        "--epsilons",
        "2,inf",
        "--delta",
        0.001,
    )
    for _ in range(2):
        figure = ("--figure", tmp_path / "curve.svg")
        few = ("--seeds", 1, "--attacks", "none", "--jobs", 1)
        _typed(*words, *few, "--out", out, *figure)
        printed = capsys.readouterr()
        assert printed.out.startswith("# tiny: what privacy costs")
        assert str(out / "curve.html") in printed.err
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")
    space = tmp_path / "space.toml"
    space.write_text('[parameters."model.width"]\nchoices = [4, 6]\n')
    more = ("--space", space, "--trials", 2, "--seeds", 1, "--jobs", 1, "--out", tmp_path / "tune")
    _typed("tune", path, *more)
    printed = capsys.readouterr()
    assert "search for settings" in printed.out
    assert "simulating 6 hospitals" in printed.err
    assert tomllib.loads((tmp_path / "tune" / "best.toml").read_text())["model"]["width"] in (4, 6)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--epsilons", "1,two"), "expected numbers above 0"),
        (("--epsilons", "-1"), "expected numbers above 0"),
        (("--epsilons", "inf"), "expected a finite epsilon"),
        (("--rounds", "1.5"), "expected whole numbers above 0"),
        (("--sampler", "pareto", "--noise-multipliers", "2"), "expected epsilons alone"),
        (("--sampler", "random"), "expected grid or pareto"),
        (("--tuning-cost", "none"), "expected state or charge"),
        (("--attacks", "some"), "expected none or audit or all"),
    ],
)
def test_options_that_make_no_sense_are_told(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(typer.BadParameter, match=told):
        _typed("experiment", "privacy", "demo", *words)
