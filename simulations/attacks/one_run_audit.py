"""The one-run audit: a lower bound of epsilon from how many coins of canaries are guessed right.

It assumes nothing of the noise. What it can reach is limited by the number of canaries, and lies
far below the truth: it finds training without noise or without clip, and not half of the noise.

The chance delta of a failure counts once for each canary: at the delta of a plan no guesses could
show anything. So the audit is about the same run at a delta of a billionth, at which its events
cost more.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from common.privacy.accounting import epsilon_of
from common.privacy.plan import PrivacyPlan
from simulations.attacks.canary_training import CanaryScores
from simulations.attacks.finding import Finding

ATTACK = "one-run audit"
LIMITS = (
    "A bound whatever the noise is, and a weak one, at a smaller delta than the study's: of so "
    "many canaries it cannot exceed what all guesses right would show, so that it cannot fail a "
    "claim above that. It finds training without noise or without clip, rarely a factor of two."
)
DELTA = 1e-9
# How many canaries are guessed at, as parts of all; each further part costs confidence.
_PARTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_HALVINGS = 40
_MOST_EPSILON = 50.0


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """How many coins were guessed at, and how many guesses were right, of so many canaries."""

    num_canaries: int
    num_guessed: int
    num_right: int


def finding_of(
    scores: CanaryScores, plan: PrivacyPlan, *, target: str, confidence: float
) -> Finding:
    """What these traces say about the plan's claim.

    The attack: canaries whose traces went furthest are guessed to have been there, those whose went
    least not to have been; of those between, nothing is said. More guesses right than epsilon
    allows, but for a small chance, refute the claim.

    Strength: one training run, and no assumption about the mechanism; canaries are the worst
    patients that there can be. Limits: `LIMITS`.

    Args:
        confidence: of the bound, one-sided, over all numbers of guesses that are tried.

    Source: Steinke, Nasr & Jagielski 2023, arXiv:2305.08846, algorithm 1 and theorem 5.2; add or
    remove one patient.
    """
    claimed = epsilon_of(plan.whole(), DELTA)
    numbers = sorted({max(2, 2 * round(part * len(scores.is_in_N) / 2)) for part in _PARTS})
    alpha = (1 - confidence) / len(numbers)
    tried = [guesses_of(scores.total_N, scores.is_in_N, number) for number in numbers]
    bounds = [epsilon_lower_bound(guesses, DELTA, alpha=alpha) for guesses in tried]
    best = int(np.argmax(bounds))
    size = len(scores.is_in_N)
    perfect = (Guesses(num_canaries=size, num_guessed=n, num_right=n) for n in numbers)
    return Finding(
        attack=ATTACK,
        target=target,
        measures={
            "confidence": confidence,
            "delta": DELTA,
            "num_canaries": float(size),
            "num_guessed": float(tried[best].num_guessed),
            "num_right": float(tried[best].num_right),
            "most_possible": max(epsilon_lower_bound(g, DELTA, alpha=alpha) for g in perfect),
        },
        epsilon_lower_bound=bounds[best],
        epsilon_claimed=claimed,
        succeeded=bounds[best] > claimed,
        limits=LIMITS,
    )


def guesses_of(
    total_N: NDArray[np.float64], is_in_N: NDArray[np.bool_], num_guessed: int
) -> Guesses:
    """The guesses about the `num_guessed` canaries at the ends, half of them at each.

    >>> guesses_of(np.array([5.0, -1.0, 0.2, 3.0]), np.array([True, False, True, False]), 2)
    Guesses(num_canaries=4, num_guessed=2, num_right=2)
    """
    order_N = np.argsort(total_N, kind="stable")
    half = num_guessed // 2
    right = is_in_N[order_N[len(order_N) - half :]].sum() + (~is_in_N[order_N[:half]]).sum()
    return Guesses(num_canaries=len(order_N), num_guessed=2 * half, num_right=int(right))


def epsilon_lower_bound(guesses: Guesses, delta: float, *, alpha: float) -> float:
    """The largest epsilon at which so many right guesses had a chance of `alpha` at most.

    Guarantees:
        - More right guesses never lower it; a larger delta or a smaller alpha never raises it.
        - 0 where guessing at random does as well.
    """
    if p_value(guesses, 0.0, delta) > alpha:
        return 0.0
    low, high = 0.0, _MOST_EPSILON
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(guesses, middle, delta) <= alpha else (low, middle)
    return low


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """The most chance that (epsilon, delta)-privacy leaves for so many right guesses.

    Source: Steinke, Nasr & Jagielski 2023, theorem 5.2 and appendix D.
    """
    chance = 1 / (1 + math.exp(-epsilon))
    right, guessed = guesses.num_right, guesses.num_guessed
    beta = float(binom.sf(right - 1, guessed, chance))
    masses = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guessed, chance))
    steepest = float(np.max(masses / np.arange(1, right + 1), initial=0.0))
    return min(1.0, beta + steepest * delta * 2 * guesses.num_canaries)
