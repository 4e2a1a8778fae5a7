"""The Gaussian canary audit: a lower bound of epsilon from how noisy the traces of canaries are.

It asks of private training what its accounting assumes: that one patient moves what is released by
so much, and that noise hides it so well. Where the code adds less noise than it charges for, lets a
patient count for more, or trains more often than it says, the bound rises above the claim.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import kstest, norm

from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Gaussian
from common.privacy.plan import PrivacyPlan
from simulations.attacks.canary_training import CanaryScores, Floats
from simulations.attacks.finding import Finding

ATTACK = "Gaussian canary audit"
NUM_CANARIES = 10_000
# Below it, the traces of canaries that were not there are not normal, and nothing follows.
LEAST_P_VALUE = 1e-4
LIMITS = (
    "A bound for noise that is normal, as the test of the traces says it is, and for patients who "
    "enter steps independently of one another. It notices what is wrong with noise, clip, sample "
    "rate and the number of steps by a tenth or more, not less; normalisation statistics and "
    "evaluation are not audited."
)
# A trace without any noise, for whose logarithm there is no room.
_NO_NOISE = 1e-9
# What a history of events may cost at most before it is called infinite.
_MOST_SIGNAL = 1e4


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What is seen of the mechanism, in units of the standard deviation of its noise.

    Attributes:
        shift: how much further the canaries that were there moved, of all rounds together.
        shift_error: its standard error.
        excess: how much more the variance of their traces is, because they were not in every step.
        excess_error: its standard error.
        num_steps: of all rounds together.
    """

    shift: float
    shift_error: float
    excess: float
    excess_error: float
    num_steps: int


def finding_of(
    scores: CanaryScores, plan: PrivacyPlan, *, target: str, confidence: float
) -> Finding:
    """What these traces say about the plan's claim.

    The attack: the canaries' mean trace over the noise of those that were left out says how well
    one patient can be told from none (mu of Gaussian differential privacy); where patients are
    sampled, mean and variance together say how often a canary was in a step and how hidden it was
    then. From the confidence limits of both follows what the whole run costs at least.

    Strength: one training run; the patient is the worst that there can be, and the bound is close
    to the claim where the code does what the plan says. Limits: `LIMITS`.

    Args:
        confidence: of the bound, one-sided; 1 - confidence is the chance of a false alarm at most.

    Raises:
        ValueError: the confidence is not in (.5, 1).

    Source: Andrew et al. 2024, arXiv:2302.03098 (canaries, one run); Dong, Roth & Su 2022,
    arXiv:1905.02383 (mu); add or remove one patient.
    Differs from the source in: canaries are gradients of patients in our own training code, each
    along a coordinate of its own; subsampling is taken apart from noise by the second moment.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"expected a confidence in (.5, 1), found {confidence}")
    traces = traces_of(scores)
    delta = plan.delta or 1e-5
    bound = epsilon_lower_bound(traces, delta, sample_rate=plan.sample_rate, confidence=confidence)
    p_value = normality_of(scores)
    is_normal = p_value >= LEAST_P_VALUE or bound == math.inf
    return Finding(
        attack=ATTACK,
        target=target,
        measures={
            "confidence": confidence,
            "delta": delta,
            "mu": traces.shift,
            "mu_error": traces.shift_error,
            "normality_p_value": p_value,
            "num_canaries": float(len(scores.is_in_N)),
            "num_steps": float(traces.num_steps),
        },
        epsilon_lower_bound=bound if is_normal else None,
        epsilon_claimed=plan.epsilon,
        succeeded=bound > plan.epsilon if is_normal else True,
        limits=LIMITS,
    )


def traces_of(scores: CanaryScores) -> Traces:
    """Shift and excess variance of the canaries that were there, over those that were not."""
    total_N, is_in_N = scores.total_N, scores.is_in_N
    inside, outside = total_N[is_in_N], total_N[~is_in_N]
    noise = float(outside.std())
    signal = float(inside.mean() - outside.mean())
    if noise <= _NO_NOISE * abs(signal):
        return _without_noise(signal, scores.num_steps)
    shift = signal / noise
    # The error of the noise itself weighs as much as that of the means, where the shift is large.
    variance = inside.var() / noise**2 / len(inside) + 1 / len(outside)
    shift_error = math.sqrt(variance + shift**2 / (2 * len(outside)))
    square_in, square_out = (
        _squares(scores, members_N) / noise**2 for members_N in (is_in_N, ~is_in_N)
    )
    errors = square_in.var() / len(square_in) + square_out.var() / len(square_out)
    return Traces(
        shift=shift,
        shift_error=shift_error,
        excess=float(square_in.mean() - square_out.mean()),
        excess_error=math.sqrt(errors),
        num_steps=scores.num_steps,
    )


def _without_noise(signal: float, num_steps: int) -> Traces:
    shift = math.inf if signal > 0 else 0.0
    return Traces(shift=shift, shift_error=0.0, excess=0.0, excess_error=0.0, num_steps=num_steps)


def _squares(scores: CanaryScores, members_N: "np.ndarray") -> Floats:
    """Of each canary, the squared distance from the mean of its kind, round by round, summed."""
    score_NR = scores.score_NR[members_N]
    square_N: Floats = np.square(score_NR - score_NR.mean(axis=0)).sum(axis=1)
    return square_N


def normality_of(scores: CanaryScores) -> float:
    """The chance that normal noise would look less normal than that of canaries left out.

    Source: Kolmogorov and Smirnov's test, with mean and deviation estimated: of thousands of values
    that makes it say "normal" more often than its level, not less.
    """
    outside = scores.total_N[~scores.is_in_N]
    deviation = outside.std()
    if deviation == 0:
        return 0.0
    return float(kstest((outside - outside.mean()) / deviation, "norm").pvalue)


def epsilon_lower_bound(
    traces: Traces, delta: float, *, sample_rate: float, confidence: float
) -> float:
    """The least epsilon at `delta` of a mechanism that leaves such traces, at this confidence.

    Guarantees:
        - 0 where the shift cannot be told from none; infinite where there is no noise.
        - Where everybody is in every step, it is that of a single Gaussian of shift mu, whatever
          the number of steps.
        - Where patients are sampled, the least excess of variance within its limit counts, with
          the cheapest of the least, the most and the measured shift.

    Args:
        sample_rate: that the plan claims; 1: the excess of variance is not looked at.
    """
    if traces.shift == math.inf:
        return math.inf
    alpha = 1 - confidence
    if sample_rate == 1.0:
        far = float(norm.isf(alpha))
        return _epsilon(traces.shift - far * traces.shift_error, 0.0, traces.num_steps, delta)
    # Half of the chance of an error for each of the two; the shift is bounded from both sides.
    excess = traces.excess - float(norm.isf(alpha / 2)) * traces.excess_error
    far = float(norm.isf(alpha / 4)) * traces.shift_error
    shifts = (traces.shift - far, traces.shift, traces.shift + far)
    return min(_epsilon(shift, excess, traces.num_steps, delta) for shift in shifts)


def _epsilon(shift: float, excess: float, num_steps: int, delta: float) -> float:
    """Epsilon of `num_steps` sums of sampled patients that leave this shift and excess.

    With q the sample rate, sigma the noise multiplier and T steps, the shift is sqrt(T) q / sigma
    and the excess q (1 - q) / sigma^2.
    """
    if shift <= 0:
        return 0.0
    excess = max(excess, 0.0)
    inverse_sigma = (excess / shift + shift / num_steps) * math.sqrt(num_steps)
    if inverse_sigma > _MOST_SIGNAL:
        return math.inf
    rate = min(1.0, shift / (inverse_sigma * math.sqrt(num_steps)))
    event = Gaussian(noise_multiplier=1 / inverse_sigma, sample_rate=rate, count=num_steps)
    return epsilon_of([Charge(event=event)], delta)
