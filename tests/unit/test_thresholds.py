"""Thresholds, recalibration and intervals: counts of the scores, coverage, and no small group."""

import itertools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_score, recall_score

from common.metrics.classification import ClassStatistics
from common.metrics.intervals import FEWEST, auroc_error, proportion
from common.metrics.noised_classes import NoisedClasses
from common.metrics.recalibrating import line_of
from common.metrics.statistics import EvaluationSums
from common.metrics.thresholds import GRID, ScoreCells, decisions, score_cells

PLAIN = ClassStatistics(num_classes=2, score_bins=200)
NOISED = NoisedClasses(num_classes=2, score_bins=10)


def patients(num_patients: int, seed: int = 0, slope: float = 1.0):
    """Scores, and outcomes of which logit P = slope · logit(score)."""
    rng = np.random.default_rng(seed)
    logit_B = rng.normal(-0.5, 1.5, num_patients)
    score_B = 1 / (1 + np.exp(-logit_B))
    label_B = (rng.random(num_patients) < 1 / (1 + np.exp(-slope * logit_B))).astype(int)
    return score_B, label_B


def labels(label_B) -> dict[str, np.ndarray]:
    return {"label_B": label_B, "known_B": np.ones(len(label_B), dtype=np.bool_)}


def cells_of(num_patients: int, seed: int = 0, slope: float = 1.0) -> ScoreCells:
    score_B, label_B = patients(num_patients, seed, slope)
    scores_BC = np.stack([1 - score_B, score_B], axis=1)
    cells = score_cells(PLAIN.sums_of(scores_BC, labels(label_B)))
    assert cells is not None
    return cells


def noised_cells(num_patients: int, sd: float, seed: int = 0, slope: float = 1.0) -> ScoreCells:
    score_B, label_B = patients(num_patients, seed, slope)
    scores_BC = np.stack([1 - score_B, score_B], axis=1)
    vector_N = NOISED.vector_of(scores_BC, labels(label_B))
    noise_N = sd * np.random.default_rng(seed + 10_000).standard_normal(len(vector_N))
    cells = score_cells(NOISED.sums_from(vector_N + noise_N, sd**2))
    assert cells is not None
    return cells


# Decisions.


def test_decisions_are_those_of_scikit_learn_at_each_threshold() -> None:
    score_B, label_B = patients(3000)
    found = decisions(cells_of(3000))
    assert [d.threshold for d in found] == [t for t in GRID if t < 0.95]
    for decision in found:
        flagged_B = score_B >= decision.threshold
        assert decision.flagged == pytest.approx(flagged_B.mean())
        assert decision.sensitivity.value == pytest.approx(recall_score(label_B, flagged_B))
        assert decision.specificity.value == pytest.approx(recall_score(1 - label_B, ~flagged_B))
        assert decision.ppv.value == pytest.approx(precision_score(label_B, flagged_B))
        assert decision.npv.value == pytest.approx(precision_score(1 - label_B, ~flagged_B))
        assert decision.f1.value == pytest.approx(f1_score(label_B, flagged_B))


@pytest.mark.parametrize("num_patients", [25, 60, 200])
def test_between_any_two_thresholds_are_enough_patients(num_patients: int) -> None:
    score_B, _ = patients(num_patients)
    found = [d.threshold for d in decisions(cells_of(num_patients))]
    counts, _ = np.histogram(score_B, [0.0, *found, 1.0])
    assert counts.min() >= FEWEST


def cells_with(positives: int, negatives: int) -> ScoreCells:
    spread_S = np.full(10, 1.0)
    return ScoreCells(
        edges=np.arange(11) / 10,
        positives_S=spread_S * positives / 10,
        negatives_S=spread_S * negatives / 10,
        noise_variance=0.0,
    )


def test_a_class_of_fewer_than_ten_patients_has_no_decisions_and_no_line() -> None:
    assert decisions(cells_with(10, 90))
    assert line_of(cells_with(10, 90)) is not None
    for few in (cells_with(9, 90), cells_with(90, 9)):
        assert decisions(few) == []
        assert line_of(few) is None


def test_a_histogram_of_wide_bins_has_thresholds_at_its_own_edges() -> None:
    found = decisions(cells_with(1000, 1000))
    assert [round(d.threshold, 9) for d in found] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_outcomes_of_several_classes_and_withheld_histograms_have_no_cells() -> None:
    several = ClassStatistics(num_classes=3, score_bins=10).zero()
    assert score_cells(several) is None
    assert score_cells(EvaluationSums(sums={"num_patients": np.asarray(5.0)})) is None


def test_counts_that_noise_drowns_have_no_decisions() -> None:
    assert decisions(noised_cells(2000, sd=3.0))
    assert decisions(noised_cells(60, sd=40.0)) == []


def test_of_noised_counts_the_noise_between_two_thresholds_is_small_beside_them() -> None:
    cells = noised_cells(400, sd=6.0)
    both_S = cells.positives_S + cells.negatives_S
    edges = [0.0, *(d.threshold for d in decisions(cells)), 1.0]
    assert len(edges) > 3
    for low, high in itertools.pairwise(edges):
        inside_S = (cells.edges[:-1] >= low) & (cells.edges[:-1] < high)
        assert both_S[inside_S].sum() >= 4 * np.sqrt(2 * 36.0 * inside_S.sum())


# Intervals.


def coverage(num_patients: int, true: float, sd: float, told_sd: float, trials: int = 4000):
    """The part of intervals of a proportion that hold it."""
    rng = np.random.default_rng(5)
    drawn = rng.binomial(num_patients, true, trials)
    hits = drawn + sd * rng.standard_normal(trials)
    misses = num_patients - drawn + sd * rng.standard_normal(trials)
    held = 0
    for h, m in zip(hits, misses, strict=True):
        low, high = proportion(h, m, hits_noise=told_sd**2, misses_noise=told_sd**2).interval
        held += low <= true <= high
    return held / trials


@pytest.mark.parametrize(("n", "true"), [(30, 0.5), (50, 0.1), (200, 0.9), (1000, 0.02)])
def test_about_95_of_100_intervals_hold_the_true_part(n: int, true: float) -> None:
    assert 0.93 <= coverage(n, true, 0.0, 0.0) <= 0.98


def test_about_95_of_100_intervals_hold_it_with_noise_and_fewer_if_the_noise_is_not_told() -> None:
    # Hits and misses with a noise of 8 each: 200 · sqrt(.3 · .7 / 200) is 6.5 by itself.
    assert 0.93 <= coverage(200, 0.3, 8.0, 8.0) <= 0.98
    assert coverage(200, 0.3, 8.0, 0.0) < 0.9
    assert coverage(200, 0.3, 8.0, 16.0) > 0.985


def test_nobody_has_no_part() -> None:
    with pytest.raises(ValueError, match="found 0"):
        proportion(0, 0)


def test_the_interval_of_f1_holds_the_true_f1() -> None:
    score_B, label_B = patients(200_000)
    true = f1_score(label_B, score_B >= 0.5)
    held = 0
    for seed in range(1, 201):
        found = {d.threshold: d.f1.interval for d in decisions(cells_of(150, seed), (0.5,))}
        held += found[0.5][0] <= true <= found[0.5][1]
    assert 0.90 <= held / 200 <= 0.99


def test_the_error_of_an_auroc_is_that_of_a_simulation() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(1000):
        # Exponential scores, as Hanley and McNeil assume: the true AUROC is 3 / (3 + 1).
        positives, negatives = rng.exponential(3, (60, 1)), rng.exponential(1, (1, 90))
        found.append((positives > negatives).mean())
    assert auroc_error(0.75, 60, 90) == pytest.approx(np.std(found), rel=0.07)
    assert auroc_error(0.75, 40, 60) > 1.1 * float(np.std(found))


# Recalibration.


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_the_line_is_the_logistic_regression_on_logits_of_scores(slope: float) -> None:
    score_B, label_B = patients(4000, seed=3, slope=slope)
    logit_B = np.log(score_B / (1 - score_B))
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(logit_B[:, None], label_B)
    line = line_of(cells_of(4000, seed=3, slope=slope))
    assert line is not None
    assert line.slope == pytest.approx(oracle.coef_[0, 0], rel=0.02)
    assert line.slope_interval[0] < slope < line.slope_interval[1]
    assert line.expected == pytest.approx(score_B.sum(), rel=0.001)
    assert line.observed == label_B.sum()


def test_the_shift_is_of_logits_with_the_slope_kept_at_one() -> None:
    # Scores that are too low by 1 on the scale of logits, for everyone.
    rng = np.random.default_rng(2)
    logit_B = rng.normal(-1, 1, 8000)
    label_B = (rng.random(8000) < 1 / (1 + np.exp(-(logit_B + 1)))).astype(int)
    score_B = 1 / (1 + np.exp(-logit_B))
    sums = PLAIN.sums_of(np.stack([1 - score_B, score_B], axis=1), labels(label_B))
    line = line_of(score_cells(sums))
    assert line is not None
    assert line.shift == pytest.approx(1.0, abs=0.06)
    assert line.shift_interval[0] < 1 < line.shift_interval[1]


def held(slopes: list, true: float) -> float:
    return float(
        np.mean([line.slope_interval[0] <= true <= line.slope_interval[1] for line in slopes])
    )


def test_about_95_of_100_intervals_hold_the_true_slope_with_and_without_noise() -> None:
    exact = [line_of(cells_of(300, seed, slope=0.8)) for seed in range(200)]
    assert 0.91 <= held(exact, 0.8) <= 0.99
    # Bins of noised counts are wide: the slope that they give without noise is what is aimed at.
    aim = line_of(noised_cells(200_000, sd=1e-3, slope=0.8)).slope
    noised = [noised_cells(500, sd=3.0, seed=seed, slope=0.8) for seed in range(200)]
    assert 0.91 <= held([line_of(cells) for cells in noised], aim) <= 0.99
    untold = [
        line_of(
            ScoreCells(
                edges=c.edges,
                positives_S=c.positives_S,
                negatives_S=c.negatives_S,
                noise_variance=0.0,
            )
        )
        for c in noised
    ]
    assert held([line for line in untold if line is not None], aim) < 0.9


def test_scores_that_tell_outcomes_apart_altogether_have_no_line() -> None:
    cells = ScoreCells(
        edges=np.arange(11) / 10,
        positives_S=np.array([0.0] * 5 + [10.0] * 5),
        negatives_S=np.array([10.0] * 5 + [0.0] * 5),
        noise_variance=0.0,
    )
    assert line_of(cells) is None


def test_scores_that_are_all_alike_have_no_line() -> None:
    cells = ScoreCells(
        edges=np.arange(11) / 10,
        positives_S=np.eye(10)[3] * 20,
        negatives_S=np.eye(10)[3] * 40,
        noise_variance=0.0,
    )
    assert line_of(cells) is None
