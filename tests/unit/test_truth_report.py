"""Treatment effects against the truth: numbers by hand, and a run over simulated hospitals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError, RunError, StudyError
from common.study import Study
from common.study_file import load_study, override
from simulations.cohort import SiteEffects, write_cohort
from simulations.simulate import Simulation, simulate
from simulations.truth_report import effect_report, effect_scores, effect_table, highest


def numbers(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


@pytest.fixture(scope="module")
def study() -> Study:
    return override(load_study("demo-treatment"), training__rounds=6)


@pytest.fixture(scope="module")
def sites(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    effects = [
        SiteEffects(name="a", num_patients=400, severity_shift=0.5, cell_missing=0.1),
        SiteEffects(name="b", num_patients=300, lacks=("lifestyle",)),
    ]
    write_cohort(study, effects, folder, seed=3)
    return folder


@pytest.fixture(scope="module")
def run(study: Study, sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    simulate(Simulation(study=study, sites=sites, out=out))
    return out


def test_the_scores_are_those_worked_by_hand() -> None:
    report = effect_scores(
        predicted_B=numbers(1, 2, 3, 4),
        best_B=numbers(4, 3, 2, 1),
        true_B=numbers(2, 2, 2, 6),
        target_B=numbers(0, 2, 4, 6),
        unit="points",
        treated_part=0.5,
    )
    # Truth: mean 3, deviations (-1, -1, -1, 3), variance 12 / 4.
    assert (report.num_patients, report.true_mean, report.predicted_mean) == (4, 3.0, 2.5)
    assert report.true_sd == pytest.approx(3**0.5)
    # Covariance with (-1.5, -.5, .5, 1.5): 6 of √(5 · 12).
    assert report.model.correlation == pytest.approx(6 / 60**0.5)
    assert report.best.correlation == pytest.approx(-6 / 60**0.5)
    # Squared distances 1, 0, 1, 4.
    assert report.model.rmse == pytest.approx(1.5**0.5)
    # The two highest by the model have 2 and 6, by the other 2 and 2; the mean of all is 3.
    assert (report.model.gain, report.best.gain) == (1.0, -1.0)
    assert report.true_treated == 4.0
    # The trial: mean 3, sd √(20 / 3), of four; of the treated 4 and 6.
    half = 1.96 * (20 / 3 / 4) ** 0.5
    assert report.trial_mean.mean == 3.0
    assert report.trial_mean.low == pytest.approx(3 - half)
    assert report.trial_mean.high == pytest.approx(3 + half)
    assert report.trial_treated.mean == 5.0


def test_predictions_that_do_not_vary_have_no_correlation() -> None:
    same = numbers(1, 1, 1)
    report = effect_scores(
        same, same, numbers(1, 2, 3), numbers(0, 1, 2), unit="points", treated_part=0.3
    )
    assert report.model.correlation is None
    assert "| correlation | – | – |" in effect_table(report)


def test_of_equal_predictions_the_first_are_treated_and_always_somebody() -> None:
    assert highest(numbers(5, 5, 5, 5), 0.5).tolist() == [True, True, False, False]
    assert highest(numbers(1, 2, 3), 0.01).tolist() == [False, False, True]


def test_the_interval_of_the_trial_holds_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        target_B = 5 + 20 * random.normal(size=100)
        zero_B = np.zeros(100)
        trial = effect_scores(
            zero_B, zero_B, zero_B, target_B, unit="", treated_part=0.5
        ).trial_mean
        held += trial.low < 5 < trial.high
    # 95% of 400 is 380, standard deviation 4.4; an interval by 1.3 errors would hold 323.
    assert 365 <= held <= 396


def test_a_run_is_judged_on_its_held_out_patients_against_the_true_effects(
    run: Path, sites: Path
) -> None:
    report = effect_report(run, sites)
    held_out = json.loads((run / "results.json").read_text(encoding="utf-8"))["rounds"][-1]
    assert report.num_patients == held_out["pooled"]["effect"]["num_patients"]
    assert report.unit == "points"
    # The best predictor knows more than the mean, and more than a model after six rounds.
    assert report.best.rmse < min(report.true_sd, report.model.rmse)
    by_best, by_model = report.best.correlation, report.model.correlation
    assert by_best is not None
    assert by_model is not None
    assert by_best > max(0.7, by_model)
    assert report.best.gain > 0
    assert report.trial_mean.low < report.true_mean < report.trial_mean.high
    assert effect_table(report).startswith(f"{report.num_patients} held-out patients")


def test_every_setting_of_a_hospital_stands_in_the_truth(sites: Path) -> None:
    truth = json.loads((sites / "truth.json").read_text(encoding="utf-8"))
    fields = set(SiteEffects.__dataclass_fields__) - {"name"}
    assert fields <= set(truth["hospitals"]["a"])


def test_patients_other_than_the_simulated_ones_are_refused(
    run: Path, sites: Path, tmp_path: Path
) -> None:
    other = tmp_path / "hospitals"
    shutil.copytree(sites, other)
    truth = json.loads((other / "truth.json").read_text(encoding="utf-8"))
    (other / "truth.json").write_text(json.dumps(truth | {"seed": 4}), encoding="utf-8")
    with pytest.raises(DataError, match="patients of a as they were simulated"):
        effect_report(run, other)
    (other / "truth.json").write_text(json.dumps(truth | {"study": "demo"}), encoding="utf-8")
    with pytest.raises(DataError, match="simulated for the study demo-treatment"):
        effect_report(run, other)
    (other / "truth.json").unlink()
    with pytest.raises(DataError, match="the truth of simulated hospitals"):
        effect_report(run, other)


def test_a_study_without_a_treatment_has_no_effects(tmp_path: Path, tiny_study: Study) -> None:
    sites = [SiteEffects(name=name, num_patients=60) for name in "ab"]
    write_cohort(tiny_study, sites, tmp_path / "hospitals", seed=1)
    simulate(Simulation(study=tiny_study, sites=tmp_path / "hospitals", out=tmp_path / "run"))
    with pytest.raises(StudyError, match="study of a treatment"):
        effect_report(tmp_path / "run", tmp_path / "hospitals")


def test_a_folder_without_a_model_and_its_study_is_no_run(
    run: Path, sites: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="Expected study"):
        effect_report(tmp_path, sites)
    shutil.copy(run / "study.toml", tmp_path)
    with pytest.raises(RunError, match="model of a finished run"):
        effect_report(tmp_path, sites)
