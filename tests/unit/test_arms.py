"""The arms: the same patients, splits and seeds for everybody, and tables worked by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from client.config import load_site_config
from client.data import Cohort, concatenate, read_cohort, usable_cohort
from common.errors import StudyError
from common.metrics.evaluation import statistics_of
from common.metrics.statistics import Floats
from common.models.patient_model import parameters_of
from common.study import Study
from common.study_file import override, study_from_toml, without_granularity
from simulations.arms import MEAN, POOLED, ArmResult, run_arms, scopes_of
from simulations.arms_report import to_csv, to_markdown
from simulations.cohort import SiteEffects, write_cohort
from simulations.logistic import logistic_predictions
from simulations.training_at_one_place import train_centrally, train_privately_alone
from tests.round.tiny import TINY_STUDY
from tests.unit.builders import MORE_OUTCOMES, outcomes_of, study_of

SMALL = study_of()
SEVERAL = study_of(outcomes=MORE_OUTCOMES)


@pytest.fixture(scope="module")
def study() -> Study:
    return override(study_from_toml(TINY_STUDY), training__rounds=1)


@pytest.fixture(scope="module")
def sites(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    effects = [
        SiteEffects(name="ada", num_patients=80),
        SiteEffects(name="bea", num_patients=100),
        SiteEffects(name="cy", num_patients=80, lacks=("labs",)),
    ]
    write_cohort(study, effects, folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def results(study: Study, sites: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ArmResult]:
    variants = {
        "all granularities": study,
        "without lifestyle": without_granularity(study, "lifestyle"),
    }
    return run_arms(variants, sites, tmp_path_factory.mktemp("arms"), seeds=[0, 1], jobs=2)


def test_every_arm_is_judged_on_the_same_held_out_patients(results: list[ArmResult]) -> None:
    numbers: dict[tuple[str, str], set[float | None]] = {}
    for r in results:
        numbers.setdefault((r.variant, r.scope), set()).add(r.metrics["num_patients"])
    assert all(len(found) == 1 for found in numbers.values())


def test_pooled_patients_are_those_of_all_sites(results: list[ArmResult]) -> None:
    whole = [r for r in results if (r.variant, r.arm, r.seed) == ("all granularities", "pooled", 0)]
    by_scope = {r.scope: r.metrics["num_patients"] for r in whole}
    site_numbers = [float(by_scope[name] or 0) for name in ("ada", "bea", "cy")]
    assert by_scope[POOLED] == sum(site_numbers)
    assert by_scope[MEAN] == pytest.approx(sum(site_numbers) / 3)


def test_a_site_with_no_granularity_of_a_variant_is_left_out_of_it(
    results: list[ArmResult],
) -> None:
    scopes = {r.scope for r in results if r.variant == "without lifestyle"}
    assert scopes == {"ada", "bea", POOLED, MEAN}


@pytest.mark.parametrize("outcome", list(SEVERAL.outcomes))
def test_training_that_diverged_stays_in_the_table_as_undefined(outcome: str) -> None:
    labels = outcomes_of(SEVERAL, 9)[outcome]
    width = {"event": 2, "stay": 1, "death": 3}[outcome]
    diverged = np.full((9, width), np.nan)
    evaluated = {"ada": ({outcome: diverged}, {outcome: labels})}
    told = [(scope, metrics) for _, scope, metrics in scopes_of(evaluated, SEVERAL)]
    assert [scope for scope, _ in told] == ["ada", POOLED, MEAN]
    for _, metrics in told:
        num_patients = metrics.pop("num_patients")
        assert num_patients == labels["known_B"].sum()
        assert set(metrics.values()) == {None}


def test_results_do_not_depend_on_the_number_of_processes(
    study: Study, sites: Path, results: list[ArmResult], tmp_path: Path
) -> None:
    again = run_arms({"all granularities": study}, sites, tmp_path, seeds=[1], jobs=1)
    assert again == [r for r in results if r.variant == "all granularities" and r.seed == 1]


def test_another_seed_gives_another_federated_model_and_the_same_anchor(
    results: list[ArmResult],
) -> None:
    losses = {(r.arm, r.seed): r.metrics["loss"] for r in results if r.scope == POOLED}
    assert losses["federated", 0] != losses["federated", 1]
    anchor = "logistic regression, pooled"
    assert losses[anchor, 0] == losses[anchor, 1]


def cohort_of(numeric_BF: np.ndarray, labels_B: np.ndarray) -> Cohort:
    arrays = {
        "numeric_BF": numeric_BF.astype(np.float32),
        "observed_BF": np.ones(numeric_BF.shape, dtype=np.bool_),
        "codes_BK": np.zeros((len(numeric_BF), 0), dtype=np.int64),
        "present_B": np.ones(len(numeric_BF), dtype=np.bool_),
    }
    num_patients = len(labels_B)
    event = {"known_B": np.ones(num_patients, dtype=np.bool_), "label_B": labels_B}
    return Cohort(
        arrays={"labs": arrays},
        outcomes={"event": event},
        is_test_B=np.zeros(num_patients, np.bool_),
        pseudonym_B=np.array([f"{labels_B.sum()}-{i}" for i in range(num_patients)]),
    )


def anchor_scores(training: Cohort, held_out: Cohort) -> np.ndarray:
    return logistic_predictions(training, held_out, SMALL)["event"]


def test_the_anchor_is_scikit_learns_regression_where_nothing_is_missing() -> None:
    random = np.random.default_rng(0)
    x_BF = random.normal(size=(200, 3))
    labels_B = (x_BF[:, 0] + random.normal(size=200) > 0).astype(np.int64)
    cohort = cohort_of(x_BF, labels_B)
    scaled_BF = StandardScaler().fit_transform(x_BF)
    expected_BC = (
        LogisticRegression(max_iter=5000).fit(scaled_BF, labels_B).predict_proba(scaled_BF)
    )
    np.testing.assert_allclose(anchor_scores(cohort, cohort), expected_BC, atol=1e-5)


def test_the_anchor_does_not_see_the_value_at_a_missing_place() -> None:
    random = np.random.default_rng(1)
    training = cohort_of(random.normal(size=(100, 2)), random.integers(0, 2, 100))
    held_out = cohort_of(random.normal(size=(10, 2)), np.zeros(10, dtype=np.int64))
    held_out.arrays["labs"]["observed_BF"][:, 1] = False
    before_BC = anchor_scores(training, held_out)
    held_out.arrays["labs"]["numeric_BF"][:, 1] = 1e6
    np.testing.assert_array_equal(anchor_scores(training, held_out), before_BC)


def test_concatenate_keeps_every_patient_in_order() -> None:
    first = cohort_of(np.array([[1.0], [2.0]]), np.array([0, 1]))
    second = cohort_of(np.array([[3.0]]), np.array([1]))
    both = concatenate([first, second])
    assert both.arrays["labs"]["numeric_BF"][:, 0].tolist() == [1.0, 2.0, 3.0]
    assert both.outcomes["event"]["label_B"].tolist() == [0, 1, 1]
    assert both.pseudonym_B.tolist() == ["1-0", "1-1", "1-0"]


def result(
    arm: str, seed: int, scope: str, outcome: str = "event", **metrics: float | None
) -> ArmResult:
    names = ("loss", *statistics_of(SEVERAL)[outcome].columns)
    return ArmResult(
        arm=arm,
        variant="all granularities",
        seed=seed,
        outcome=outcome,
        scope=scope,
        metrics=dict.fromkeys(names) | metrics,
    )


def test_the_table_shows_mean_and_sample_deviation_over_seeds() -> None:
    # Accuracies .7 and .8: mean .75, sd = sqrt((.05² + .05²) / 1) = .0707.
    rows = [result("federated", seed, POOLED, accuracy=a) for seed, a in ((0, 0.7), (1, 0.8))]
    text = to_markdown(rows, study=SMALL)
    assert "| arm | AUROC | AUPRC | accuracy | F1 | calibration error |" in text
    assert "| federated | – | – | 0.750 ± 0.071 | – | – |" in text


def test_the_table_says_where_a_metric_is_undefined_for_some_seeds() -> None:
    rows = [result("federated", seed, POOLED, auroc=a) for seed, a in ((0, 0.5), (1, None))]
    assert "0.500 (1 of 2)" in to_markdown(rows, study=SMALL)


def test_the_report_counts_where_federated_beats_local_by_loss() -> None:
    rows = [
        result(arm, 0, site, loss=loss)
        for arm, site, loss in (
            ("federated", "ada", 0.5),
            ("local only", "ada", 0.6),
            ("federated", "bea", 0.5),
            ("local only", "bea", 0.4),
        )
    ]
    assert "in 1 of 2 cases" in to_markdown(rows, study=SMALL)


def test_the_csv_has_a_line_for_each_metric_and_empty_cells_for_undefined_ones() -> None:
    lines = to_csv([result("federated", 0, "ada", accuracy=0.5)]).splitlines()
    assert lines[0] == "arm,variant,seed,outcome,scope,metric,value"
    assert "federated,all granularities,0,event,ada,accuracy,0.5" in lines
    assert "federated,all granularities,0,event,ada,auroc," in lines


# Several outcomes, and the hospitals' own models.


def test_every_outcome_has_tables_with_the_metrics_of_its_kind() -> None:
    rows = [
        result("federated", 0, POOLED, outcome="event", auroc=0.7),
        result("federated", 0, POOLED, outcome="stay", mae=2.5, rmse=3.0, r2=0.1),
        result("federated", 0, POOLED, outcome="death", c_index=0.8, num_events=12.0),
    ]
    text = to_markdown(rows, study=SEVERAL)
    _, event, stay, death = text.split(": all, pooled")
    assert "| federated | 0.700 |" in event
    assert "| arm | MAE (days) | RMSE (days) | R² |" in stay
    assert "| federated | 2.500 | 3.000 | 0.100 |" in stay
    # Nobody has a loss here, as with Cox.
    assert "| arm | C-index | events |" in death


def test_counts_are_not_told_by_hospital() -> None:
    rows = [
        result(arm, 0, site, outcome="death", c_index=0.8, num_events=12.0, loss=0.5)
        for arm in ("federated", "local only")
        for site in ("ada", POOLED)
    ]
    text = to_markdown(rows, study=study_of(outcomes={"death": MORE_OUTCOMES["death"]}))
    assert "C-index by hospital" in text
    assert "loss by hospital" in text
    assert "vents by hospital" not in text


def test_where_an_order_alone_is_predicted_the_c_index_is_compared() -> None:
    rows = [
        result(arm, 0, site, outcome="death", c_index=c)
        for arm, site, c in (
            ("federated", "ada", 0.7),
            ("local only", "ada", 0.6),
            ("federated", "bea", 0.5),
            ("local only", "bea", 0.6),
        )
    ]
    text = to_markdown(rows, study=study_of(outcomes={"death": MORE_OUTCOMES["death"]}))
    assert "a higher C-index than those of the hospital's own model in 1 of 2 cases" in text


def test_the_hospitals_own_models_are_an_arm_that_is_compared_as_well() -> None:
    rows = [
        result(arm, 0, "ada", loss=loss)
        for arm, loss in (("federated", 0.7), ("federated, personal", 0.5), ("local only", 0.6))
    ]
    text = to_markdown(rows, study=SMALL)
    assert "federated predictions had a lower loss" in text
    assert "in 0 of 1 cases" in text
    assert "federated, personal predictions had a lower loss" in text
    assert "in 1 of 1 cases" in text


def test_the_anchor_learns_each_outcome_from_those_of_whom_it_is_known() -> None:
    random = np.random.default_rng(0)
    x_BF = random.normal(size=(200, 3))
    cohort = cohort_of(x_BF, (x_BF[:, 0] > 0).astype(np.int64))
    value_B = (10 + 2 * x_BF[:, 1]).astype(np.float32)
    known_B = np.arange(200) % 2 == 0
    stay = {"known_B": known_B, "value_B": np.where(known_B, value_B, 0.0).astype(np.float32)}
    death = {
        "known_B": known_B,
        "time_B": np.ones(200, dtype=np.float32),
        "event_B": known_B,
    }
    whole = replace(cohort, outcomes={**cohort.outcomes, "stay": stay, "death": death})
    found = logistic_predictions(whole, whole, SEVERAL)
    # Survival is not predicted; the unknown, whose value stands as 0, would have been noticed.
    assert set(found) == {"event", "stay"}
    np.testing.assert_allclose(found["stay"][:, 0], value_B, atol=0.1)


def test_own_models_are_an_arm_where_the_study_has_them(
    sites: Path, study: Study, tmp_path: Path
) -> None:
    personal = override(study, personal__fine_tune_steps=2)
    results = run_arms({"all granularities": personal}, sites, tmp_path, seeds=[0], jobs=1)
    arms = list(dict.fromkeys(r.arm for r in results))
    assert arms == [
        "local only",
        "federated",
        "federated, personal",
        "pooled",
        "logistic regression, pooled",
    ]
    pooled = {r.arm: r.metrics for r in results if r.scope == POOLED}
    assert pooled["federated, personal"]["num_patients"] == pooled["federated"]["num_patients"]
    assert pooled["federated, personal"]["loss"] != pooled["federated"]["loss"]


def test_frozen_encoders_are_refused_because_nothing_brings_them(tmp_path: Path) -> None:
    frozen = study_of(model={"frozen": ["labs"]})
    with pytest.raises(StudyError, match=r"model\.frozen = labs"):
        train_centrally(frozen, cohort_of(np.zeros((1, 2)), np.array([0])), site="a")
    with pytest.raises(StudyError, match=r"model\.frozen = labs"):
        run_arms({"all granularities": frozen}, tmp_path, tmp_path, seeds=[0], jobs=1)


@pytest.mark.parametrize("is_private", [False, True])
def test_training_alone_averages_its_last_rounds_as_the_federation_does(
    study: Study, sites: Path, is_private: bool
) -> None:
    if is_private:
        # Given noise, so that it does not follow from the number of rounds.
        privacy = {"mode": "patient", "noise_multiplier": 1.0, "delta": 1e-4}
        study = override(study, **{f"privacy__{key}": value for key, value in privacy.items()})
    cohort = usable_cohort(*read_cohort(load_site_config(sites / "ada"), study)).train
    train_alone = train_privately_alone if is_private else train_centrally

    def after(rounds: int, part: float = 0.0) -> Floats:
        planned = override(study, training__rounds=rounds, strategy__tail_average=part)
        return parameters_of(train_alone(planned, cohort, site="ada")).flat.astype(np.float64)

    expected = (after(1) + after(2)) / 2
    assert np.array_equal(after(2, 0.9), expected.astype(np.float32))
    assert not np.array_equal(after(2), expected)
