"""Outcomes of simulated patients: drawn as they are told, for every kind."""

import numpy as np
import pytest

from common.outcomes import ClassOutcome, RegressionOutcome, SurvivalOutcome
from common.study_file import load_study
from simulations.cohort import SiteEffects, simulate_site
from simulations.outcome_draws import (
    concordance_weights,
    cost_mean_and_variance,
    draw_outcome,
    risk_of,
    rounded,
)

NUM = 40_000
SURVIVAL = SurvivalOutcome(
    kind="survival",
    time_column="days",
    event_column="died",
    unit="days",
    cut_points=(100.0, 300.0, 1000.0),
)


def drivers(seed: int = 0) -> np.ndarray:
    return 2 * np.random.default_rng(seed).normal(size=NUM)


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c", "d")])
def test_classes_are_drawn_with_their_risk(classes: tuple[str, ...]) -> None:
    kind = "binary" if len(classes) == 2 else "multiclass"
    outcome = ClassOutcome(kind=kind, column="event", classes=classes)
    risk_BC = risk_of(outcome, drivers())
    assert np.allclose(risk_BC.sum(axis=1), 1)
    drawn = draw_outcome(outcome, drivers(), np.random.default_rng(1))["event"]
    for c, name in enumerate(classes):
        is_class_B = np.asarray(drawn == name)
        for group_B in (drivers() < -1, abs(drivers()) < 1, drivers() > 1):
            deviation = np.sqrt((risk_BC[:, c] * (1 - risk_BC[:, c]))[group_B].sum())
            surplus = is_class_B[group_B].sum() - risk_BC[group_B, c].sum()
            assert abs(surplus) < 4 * deviation


@pytest.mark.parametrize(
    ("scale", "bounds"), [("log", (100.0, 200_000.0)), ("linear", (0.0, 60.0))]
)
def test_a_quantity_has_the_mean_and_variance_that_are_told(
    scale: str, bounds: tuple[float, float]
) -> None:
    outcome = RegressionOutcome(
        kind="regression", column="cost", unit="euro", range=bounds, scale=scale
    )
    values_B = np.asarray(draw_outcome(outcome, drivers(), np.random.default_rng(1))["cost"])
    assert values_B.min() >= bounds[0]
    assert values_B.max() <= bounds[1]
    seen_B = np.log1p(values_B) if scale == "log" else values_B
    mean_B, variance_B = cost_mean_and_variance(outcome, drivers())
    for group_B in (drivers() < -1, abs(drivers()) < 1, drivers() > 1):
        surplus_B = (seen_B - mean_B)[group_B]
        assert abs(surplus_B.mean()) < 4 * surplus_B.std() / group_B.sum() ** 0.5
        assert surplus_B.var() == pytest.approx(variance_B[group_B].mean(), rel=0.08)


def test_costs_are_skewed_on_the_linear_scale() -> None:
    outcome = RegressionOutcome(kind="regression", column="cost", unit="euro", range=(0.0, 1000.0))
    values_B = np.asarray(draw_outcome(outcome, drivers(), np.random.default_rng(1))["cost"])
    assert values_B.mean() > 1.1 * np.median(values_B)


def survival(driver_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    columns = draw_outcome(SURVIVAL, driver_B, np.random.default_rng(1))
    return np.asarray(columns["days"], dtype=float), np.asarray(columns["died"] == "1")


def test_about_half_of_the_events_are_seen_within_the_range_of_the_cut_points() -> None:
    time_B, died_B = survival(drivers())
    assert 0.3 < died_B.mean() < 0.6
    assert time_B.min() >= 0
    assert time_B.max() <= 1.3 * 1000
    share_T = [np.mean(died_B & (time_B < t)) for t in (*SURVIVAL.cut_points,)]
    assert share_T[0] > 0.05
    assert np.diff(share_T).min() > 0.05


def test_events_rise_with_the_driver() -> None:
    _, died_B = survival(drivers())
    share = [died_B[drivers() < -1].mean(), died_B[abs(drivers()) < 1].mean()]
    assert share[0] + 0.1 < share[1] < died_B[drivers() > 1].mean() - 0.1


@pytest.mark.parametrize(("slope", "fits"), [(0.6, True), (0.4, False), (0.9, False)])
def test_hazards_are_proportional_in_the_driver(slope: float, fits: bool) -> None:
    # Martingale residuals, event - cumulative hazard, have the mean 0 in every group.
    time_B, died_B = survival(drivers())
    expected_B = np.exp(slope * drivers()) * (time_B / 900) ** 1.2
    far = []
    for group_B in (drivers() < -2, abs(drivers()) < 1, drivers() > 2):
        residual_B = (died_B - expected_B)[group_B]
        far.append(abs(residual_B.mean()) / (residual_B.std() / group_B.sum() ** 0.5))
    assert (max(far) < 4) == fits


def test_pairs_are_seen_in_order_as_often_as_is_told() -> None:
    driver_B = drivers()
    time_B, died_B = survival(driver_B)
    first_B, second_B = concordance_weights(driver_B, np.roll(driver_B, 1))
    later_B = np.roll(time_B, 1)
    seen_first = np.mean(died_B & (time_B < later_B))
    seen_second = np.mean(np.roll(died_B, 1) & (later_B < time_B))
    # A standard error of .0025, and a few ties of rounded times.
    assert first_B.mean() == pytest.approx(seen_first, abs=0.008)
    assert second_B.mean() == pytest.approx(seen_second, abs=0.008)
    harder_B = driver_B > np.roll(driver_B, 1) + 2
    seen = np.mean((died_B & (time_B < later_B))[harder_B])
    assert first_B[harder_B].mean() == pytest.approx(seen, abs=0.015)


def test_values_are_rounded_to_four_digits_of_their_size() -> None:
    assert rounded(np.array([0.123456]), 1.0).tolist() == [0.1235]
    assert rounded(np.array([123.456]), 1000.0).tolist() == [123.5]
    assert rounded(np.array([123456.7]), 200_000.0).tolist() == [123457.0]


@pytest.fixture(scope="module")
def trial():
    effects = SiteEffects(name="a", num_patients=NUM, granularity_missing=0, cell_missing=0)
    return simulate_site(load_study("demo-treatment"), effects, seed=1)


def test_the_treatment_is_a_coin_flip_independent_of_the_disease(trial) -> None:
    treated_B = trial.patients["treatment"].to_numpy()
    assert set(treated_B) == {0, 1}
    assert treated_B.mean() == pytest.approx(0.5, abs=4 * 0.5 / NUM**0.5)
    for shown_BK in trial.summaries.values():
        for shown_B in shown_BK.T:
            assert abs(np.corrcoef(shown_B, treated_B)[0, 1]) < 4 / NUM**0.5


def test_the_difference_in_means_is_the_mean_effect(trial) -> None:
    treated_B = trial.patients["treatment"].to_numpy() == 1
    response_B = trial.patients["response"].to_numpy()
    groups = [response_B[treated_B], response_B[~treated_B]]
    error = sum(g.var() / len(g) for g in groups) ** 0.5
    difference = groups[0].mean() - groups[1].mean()
    assert abs(difference - trial.effect_B.mean()) < 4 * error
    assert trial.effect_B.mean() > 20 * error  # a lack of any effect would be seen


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (1.5, False), (2 / 3, False)])
def test_the_transformed_response_is_an_unbiased_target_for_the_effect(
    trial, factor: float, fits: bool
) -> None:
    target_B = trial.patients["effect_target"].to_numpy()
    effect_B = factor * trial.effect_B
    far = []
    for low, high in ((0, 0.25), (0.25, 0.75), (0.75, 1)):
        bounds = np.quantile(trial.effect_B, [low, high])
        group_B = (trial.effect_B >= bounds[0]) & (trial.effect_B <= bounds[1])
        surplus_B = (target_B - effect_B)[group_B]
        far.append(abs(surplus_B.mean()) / (surplus_B.std() / group_B.sum() ** 0.5))
    assert (max(far) < 4) == fits


def test_the_effect_differs_between_patients_and_is_what_the_best_model_predicts(trial) -> None:
    assert trial.effect_B.std() > 0.5 * trial.effect_B.mean() > 0
    best_B = trial.best_predictions("effect")[:, 0]
    explained = 1 - (trial.effect_B - best_B).var() / trial.effect_B.var()
    assert 0.6 < explained < 1
    outcome = trial.study.outcomes["effect"]
    assert trial.patients["effect_target"].between(*outcome.range).all()
