"""What each granularity is worth: the best prediction that any model could make from a subset.

Exact up to Monte Carlo error: the posterior of z is Gaussian (`simulations.disease`). Files say at
most as much as the summaries they are rendered from, so what a model reaches is at most this.

Letters of shapes: B patients, C classes, L latent dimensions, K summaries, N nodes.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.seeds import seed_of
from common.study import Study
from common.subsets import subsets_of
from simulations.disease import DiseaseProcess, Driver, Floats
from simulations.outcome_draws import concordance_weights, cost_mean_and_variance, risk_of

NUM_DRAWS = 20_000
_NUM_PARTNERS = 5  # whom a patient is compared with, for concordance


@dataclass(frozen=True, kw_only=True)
class BestScore:
    """What can be known of an outcome from some granularities, at a hospital where all have them.

    Attributes:
        metric: "auroc" (of several classes: the mean of each against the rest), "r_squared" (on
            the outcome's scale), "c_index" (Harrell's), or "r_squared_of_effect".
        score: of the best predictor.
        explained: the part of the variance of the outcome's driver (the log-odds, of a binary
            outcome) that is explained; in closed form.
    """

    outcome: str
    granularities: tuple[str, ...]
    metric: str
    score: float
    explained: float


def best_scores(
    study: Study,
    process: DiseaseProcess,
    *,
    severity_shift: float = 0.0,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> list[BestScore]:
    """The best score of every outcome from every subset of granularities, each with all patients.

    Beyond six granularities, of subsets only the single ones, all but one, and all.

    Guarantees:
        - Equal arguments give equal scores, and all subsets are scored on the same draws.
        - More granularities explain no less, and score no less beyond Monte Carlo error (at 20 000
          draws, a standard error of about .003 for AUROC).
    """
    random = np.random.default_rng(seed_of(seed, study.name, "ground truth"))
    prior_L = process.prior(severity_shift)
    z_BL = prior_L + random.normal(size=(num_draws, process.num_latent))
    summaries = {name: view.draw(z_BL, random) for name, view in process.views.items()}
    drivers = {name: driver.values(z_BL, prior_L) for name, driver in process.drivers.items()}
    scorers = {name: _scorer(o, drivers[name]) for name, o in study.outcomes.items()}
    effect = None if process.treatment is None else process.treatment.target
    scores = []
    for subset in scored_subsets(list(study.granularities)):
        shown = {name: summaries[name] for name in subset}
        mean_BL, covariance_LL = process.posterior(shown, prior_L, num_draws)
        for name, outcome in study.outcomes.items():
            driver = process.drivers[name]
            explained = driver.explained(covariance_LL)
            metric, scorer = scorers[name]
            if name == effect:
                metric, score = "r_squared_of_effect", explained
            else:
                nodes = driver.nodes(mean_BL, covariance_LL, prior_L)
                score = scorer(_expectation(outcome, *nodes))
            scores.append(
                BestScore(
                    outcome=name,
                    granularities=subset,
                    metric=metric,
                    score=score,
                    explained=explained,
                )
            )
    return scores


def scored_subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The non-empty subsets, small ones first; of more than six names only those that say most."""
    if len(names) <= 6:
        return subsets_of(names)[1:]
    all_but_one = [tuple(n for n in names if n != without) for without in reversed(names)]
    return [*((name,) for name in names), *all_but_one, tuple(names)]


def best_expectation(
    process: DiseaseProcess,
    outcome: AnyOutcome | None,
    driver: Driver,
    summaries: Mapping[str, Floats],
    present: Mapping[str, NDArray[np.bool_]],
    prior_L: Floats,
) -> Floats:
    """The best prediction for each patient from those of these summaries that the patient has.

    Returns:
        The risk (B, C) of classes; the expected value (B, 1) of a quantity, on its scale; the
        expected driver (B, 1) of survival, and where no outcome is given.
    """
    names = list(summaries)
    present_BG = np.stack([present[name] for name in names], axis=1)
    patterns_PG, pattern_B = np.unique(present_BG, axis=0, return_inverse=True)
    parts = []
    for p, pattern_G in enumerate(patterns_PG):
        chosen_B = pattern_B.ravel() == p
        kept = {n: summaries[n][chosen_B] for n, has in zip(names, pattern_G, strict=True) if has}
        mean_BL, covariance_LL = process.posterior(kept, prior_L, int(chosen_B.sum()))
        values_BN, weights_BN = driver.nodes(mean_BL, covariance_LL, prior_L)
        parts.append((chosen_B, _expectation(outcome, values_BN, weights_BN)))
    best_BC = np.zeros((len(present_BG), parts[0][1].shape[1]))
    for chosen_B, part_BC in parts:
        best_BC[chosen_B] = part_BC
    return best_BC


def _expectation(outcome: AnyOutcome | None, values_BN: Floats, weights_BN: Floats) -> Floats:
    if isinstance(outcome, ClassOutcome):
        risk_BC: Floats = np.einsum("bnc,bn->bc", risk_of(outcome, values_BN), weights_BN)
        return risk_BC
    if isinstance(outcome, RegressionOutcome):
        values_BN = cost_mean_and_variance(outcome, values_BN)[0]
    mean_B1: Floats = (values_BN * weights_BN).sum(axis=1, keepdims=True)
    return mean_B1


def _scorer(outcome: AnyOutcome, driver_B: Floats) -> tuple[str, Callable[[Floats], float]]:
    """The metric of an outcome, and what gives it for the best predictions of these patients."""
    if isinstance(outcome, ClassOutcome):
        risk_BC = risk_of(outcome, driver_B)
        columns = [1] if risk_BC.shape[1] == 2 else list(range(risk_BC.shape[1]))
        return "auroc", lambda best_BC: float(
            np.mean([expected_auroc(best_BC[:, c], risk_BC[:, c]) for c in columns])
        )
    if isinstance(outcome, RegressionOutcome):
        mean_B, variance_B = cost_mean_and_variance(outcome, driver_B)
        total = float(mean_B.var() + variance_B.mean())
        return "r_squared", lambda best_B1: float(best_B1.var()) / total
    pairs = [
        (shift, *concordance_weights(driver_B, np.roll(driver_B, shift)))
        for shift in range(1, _NUM_PARTNERS + 1)
    ]
    return "c_index", lambda best_B1: _concordance(best_B1[:, 0], pairs)


def expected_auroc(scores_B: Floats, risk_B: Floats) -> float:
    """The AUROC to expect of scores where the outcome of each patient has this probability.

    Nothing is drawn: a patient counts as positive by the risk and as negative by the rest of it.

    >>> expected_auroc(np.array([0.1, 0.9]), np.array([0.0, 1.0]))
    1.0
    """
    _, place_B = np.unique(np.round(scores_B, 12), return_inverse=True)
    positive_S = np.bincount(place_B, risk_B)
    negative_S = np.bincount(place_B, 1 - risk_B)
    below_S = negative_S.cumsum() - negative_S / 2  # ties count half
    return float((positive_S * below_S).sum() / (positive_S.sum() * negative_S.sum()))


def _concordance(scores_B: Floats, pairs: Sequence[tuple[int, Floats, Floats]]) -> float:
    """Harrell's C to expect, without drawing times.

    Args:
        pairs: of every patient and the one so many places before: the chance that the one is seen
            to die first, and that the other is.
    """
    right = seen = 0.0
    for shift, first_B, second_B in pairs:
        higher_B = scores_B - np.roll(scores_B, shift)
        right += float(first_B[higher_B > 0].sum() + second_B[higher_B < 0].sum())
        right += float((first_B + second_B)[higher_B == 0].sum()) / 2
        seen += float((first_B + second_B).sum())
    return right / seen


def score_table(scores: Collection[BestScore]) -> dict[str, dict[str, dict[str, float | str]]]:
    """By outcome, then by granularities ("labs+notes"): metric, score and part explained."""
    table: dict[str, dict[str, dict[str, float | str]]] = {}
    for best in scores:
        table.setdefault(best.outcome, {})["+".join(best.granularities)] = {
            "metric": best.metric,
            "score": round(best.score, 4),
            "explained": round(best.explained, 4),
        }
    return table
