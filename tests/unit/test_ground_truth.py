"""The ground truth of simulated patients: exact, monotone, and what files can reach at most."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.errors import StudyError
from common.study import Study
from common.study_file import load_study
from simulations.cohort import SiteEffects, simulate_site
from simulations.disease import DiseaseProcess
from simulations.ground_truth import best_scores, expected_auroc, score_table, scored_subsets
from simulations.processes import interaction_process, process_of, severity_process

LARGE = SiteEffects(name="large", num_patients=6000, granularity_missing=0.0, cell_missing=0.0)


@pytest.fixture(scope="module")
def demo() -> Study:
    return load_study("demo")


@pytest.fixture(scope="module")
def fracture() -> Study:
    return load_study("demo-fracture")


def test_the_posterior_is_that_of_the_joint_gaussian(demo) -> None:
    process = severity_process(demo, 3)
    names, prior_L = ["labs", "notes"], process.prior(0.7)
    random = np.random.default_rng(0)
    z_BL = prior_L + random.normal(size=(5, process.num_latent))
    summaries = {name: process.views[name].draw(z_BL, random) for name in names}
    mean_BL, covariance_LL = process.posterior(summaries, prior_L, 5)
    # The oracle: z given u in the joint distribution of both, by the Schur complement.
    loading = np.vstack([process.views[n].loading_KL for n in names])
    noise = np.concatenate([process.views[n].noise_K for n in names])
    gain = loading.T @ np.linalg.inv(loading @ loading.T + np.diag(noise**2))
    u = np.hstack([summaries[n] for n in names])
    assert np.allclose(mean_BL, prior_L + (u - loading @ prior_L) @ gain.T)
    assert np.allclose(covariance_LL, np.eye(process.num_latent) - gain @ loading)


def test_without_a_summary_the_posterior_is_the_prior(demo) -> None:
    process = severity_process(demo, 3)
    mean_BL, covariance_LL = process.posterior({}, process.prior(0.5), 2)
    assert np.array_equal(mean_BL, np.tile(process.prior(0.5), (2, 1)))
    assert np.array_equal(covariance_LL, np.eye(process.num_latent))


def test_standardised_summaries_have_a_variance_of_one(demo) -> None:
    random = np.random.default_rng(0)
    for view in severity_process(demo, 3).views.values():
        u_BK = view.draw(random.normal(size=(20_000, view.loading_KL.shape[1])), random)
        assert np.allclose(view.standardise(u_BK).std(axis=0), 1, atol=0.03)


@pytest.mark.parametrize("name", ["demo", "demo-fracture"])
def test_the_part_explained_is_that_of_many_patients(name: str) -> None:
    study = load_study(name)
    process, random = process_of(study, 1), np.random.default_rng(0)
    names, prior_L = list(study.granularities)[-2:], process.prior()
    z_BL = random.normal(size=(40_000, process.num_latent))
    summaries = {n: process.views[n].draw(z_BL, random) for n in names}
    mean_BL, covariance_LL = process.posterior(summaries, prior_L, len(z_BL))
    driver = next(iter(process.drivers.values()))
    values_BN, weights_BN = driver.nodes(mean_BL, covariance_LL, prior_L)
    expected_B = (values_BN * weights_BN).sum(axis=1)
    driver_B = driver.values(z_BL, prior_L)
    explained = expected_B.var() / driver_B.var()
    assert driver.explained(covariance_LL) == pytest.approx(explained, abs=0.015)
    # The expectation is right, and not only as variable as it should be.
    assert np.polyfit(expected_B, driver_B, 1)[0] == pytest.approx(1, abs=0.03)


def scores_of(study: Study, process: DiseaseProcess) -> dict[tuple[str, frozenset[str]], float]:
    best = best_scores(study, process, num_draws=8000)
    return {(b.outcome, frozenset(b.granularities)): b.score for b in best}


@pytest.mark.parametrize("seed", [0, 1])
def test_more_granularities_are_never_worth_less(demo, seed: int) -> None:
    process = process_of(demo, seed)
    scores = scores_of(demo, process)
    assert len(scores) == 3 * 63
    for outcome, subset in scores:
        for more in set(demo.granularities) - subset:
            assert scores[outcome, subset | {more}] > scores[outcome, subset] - 0.004
    driver = process.drivers["event"]
    for small, large in combinations([("labs",), ("labs", "notes"), tuple(demo.granularities)], 2):
        gained = driver.explained(process.covariance(large)) - driver.explained(
            process.covariance(small)
        )
        assert gained > 0


@pytest.mark.parametrize("seed", range(3))
def test_fusion_pays_and_no_granularity_is_enough(demo, seed: int) -> None:
    scores = scores_of(demo, process_of(demo, seed))
    alone = [scores["event", frozenset({name})] for name in demo.granularities]
    assert min(alone) > 0.6
    assert scores["event", frozenset(demo.granularities)] > max(alone) + 0.05


def test_equal_arguments_give_equal_scores(demo) -> None:
    process = process_of(demo, 0)
    one, two = (best_scores(demo, process, num_draws=500) for _ in range(2))
    assert one == two
    assert one != best_scores(demo, process, num_draws=500, seed=1)


def test_the_best_score_is_reached_by_the_best_predictions_and_by_no_simple_model(demo) -> None:
    site = simulate_site(demo, LARGE, seed=2)
    died_B = (site.patients["event"] == "yes").to_numpy()
    best = {
        b.granularities: b.score for b in best_scores(demo, site.process) if b.outcome == "event"
    }
    for names in (("labs",), tuple(demo.granularities)):
        predictions_B = site.best_predictions("event", names)[:, 1]
        # At 6000 patients, a standard error of about .006.
        assert roc_auc_score(died_B, predictions_B) == pytest.approx(best[names], abs=0.02)
    numbers = demo.granularities["labs"].numeric
    X = np.column_stack([np.ones(len(died_B)), site.patients[list(numbers)]])
    fitted_B = X @ np.linalg.lstsq(X, died_B.astype(float), rcond=None)[0]
    assert 0.6 < roc_auc_score(died_B, fitted_B) < best[("labs",)] + 0.02


def test_the_best_score_of_a_log_cost_is_the_linear_part_explained(demo) -> None:
    # Of the variance on the log scale, the driver makes .8² = .64 and noise .6² = .36.
    for best in best_scores(demo, process_of(demo, 0)):
        if best.outcome == "cost":
            assert best.score == pytest.approx(0.64 * best.explained, abs=0.02)


def test_a_shift_in_severity_moves_all_outcomes(demo) -> None:
    means = []
    for shift in (-1.0, 1.0):
        effects = SiteEffects(name="a", num_patients=3000, severity_shift=shift)
        patients = simulate_site(demo, effects, seed=1).patients
        died = (patients["died"] == "1").mean()
        means.append([(patients["event"] == "yes").mean(), patients["cost_euro"].mean(), died])
    assert (np.array(means[1]) > 1.2 * np.array(means[0])).all()


def test_the_expected_auroc_is_that_of_weighted_patients() -> None:
    random = np.random.default_rng(0)
    risk_B = random.uniform(size=300)
    scores_B = np.round(risk_B + random.normal(size=300), 1)  # with ties
    labels = np.repeat([1, 0], 300)
    weights = np.concatenate([risk_B, 1 - risk_B])
    oracle = roc_auc_score(labels, np.tile(scores_B, 2), sample_weight=weights)
    assert expected_auroc(scores_B, risk_B) == pytest.approx(oracle, abs=1e-12)


def test_neither_granularity_of_the_fracture_tells_anything_alone(fracture) -> None:
    scores = scores_of(fracture, process_of(fracture, 0))
    both = frozenset({"xray", "movement"})
    of_fracture = {names: score for (name, names), score in scores.items() if name == "fracture"}
    assert len(of_fracture) == 7
    for names, score in of_fracture.items():
        if both <= names:
            assert score > 0.8
        else:
            assert score == pytest.approx(0.5, abs=1e-9)


def test_what_is_measured_of_one_granularity_is_told_by_it_and_by_no_other(fracture) -> None:
    scores = scores_of(fracture, process_of(fracture, 0))
    for outcome, teller in (("angulation", "xray"), ("asymmetry", "movement")):
        for name in fracture.granularities:
            score = scores[outcome, frozenset({name})]
            # .64 of the variance is the driver's, and 12 / 13 of that shows.
            expected = 0.64 * 12 / 13 if name == teller else 0.0
            assert score == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_fractures_differ_by_hospital_and_still_show_in_both_together_only(
    fracture, shift: float
) -> None:
    effects = SiteEffects(
        name="a", num_patients=6000, severity_shift=shift, granularity_missing=0.0
    )
    site = simulate_site(fracture, effects, seed=1)
    broken_B = (site.patients["fracture"] == "yes").to_numpy()
    # The mean of the logistic function at .8 + 2.5 and .8 - 2.5 is (.9644 + .1545) / 2.
    assert broken_B.mean() == pytest.approx({0.0: 0.5, 0.8: 0.5594}[shift], abs=0.025)
    first_B, second_B = (site.summaries[name].mean(axis=1) for name in ("xray", "movement"))
    for shown_B in (first_B, abs(first_B), second_B, abs(second_B)):
        assert roc_auc_score(broken_B, shown_B) == pytest.approx(0.5, abs=0.03)
    assert roc_auc_score(broken_B, np.sign(first_B * second_B)) > 0.75


def test_an_interaction_needs_images_and_a_series(tiny_study) -> None:
    with pytest.raises(StudyError, match="images and a series"):
        interaction_process(tiny_study, 0)


def test_a_treatment_needs_a_regression_around_zero() -> None:
    table = load_study("demo-treatment").model_dump(mode="json", exclude_none=True)
    table["outcomes"]["effect"]["range"] = [0, 100]
    with pytest.raises(StudyError, match="range around 0"):
        process_of(Study.model_validate(table), 0)


def test_of_many_granularities_only_the_subsets_that_say_most_are_scored() -> None:
    names = [f"g{i}" for i in range(8)]
    subsets = scored_subsets(names)
    assert [len(s) for s in subsets] == [1] * 8 + [7] * 8 + [8]
    assert len(set(subsets)) == 17
    assert len(set(scored_subsets(names[:6]))) == 63


def test_the_table_of_scores_is_by_outcome_and_by_granularities(tiny_study) -> None:
    table = score_table(best_scores(tiny_study, process_of(tiny_study, 0), num_draws=100))
    assert list(table["event"]) == ["labs", "lifestyle", "labs+lifestyle"]
    assert set(table["event"]["labs"]) == {"metric", "score", "explained"}
