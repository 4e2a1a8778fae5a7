"""The least noise that keeps a run within its epsilon: of training, of moments, of the evaluation.

Epsilon is asked of `common.privacy.accounting` alone, so that a calibrated plan cannot disagree
with the ledger.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from common.errors import StudyError
from common.privacy.accounting import epsilon_of, upper_bound_of
from common.privacy.events import Charge, Gaussian

# Beyond these, a noise multiplier protects nobody, or leaves nothing of what it is added to.
LEAST_NOISE, MOST_NOISE = 0.01, 10_000.0
# A search ends with an epsilon between this part of the target and the target.
_TIGHT = 0.995
_MOST_GUESSES = 60
# Noise multipliers are rounded up to this many digits, so that people can compare them.
_DIGITS = 4
# What follows from noise that costs next to nothing is not held to less than this.
_LEAST_EPSILON = 0.01


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What the noise of a run must be enough for.

    Attributes:
        target: epsilon of training and moments together, and of the evaluation; None: what follows
            from the noise multiplier that training has at least.
        cap: an epsilon that nothing may exceed.
        sample_rate, num_steps: of training, in the whole run.
        moments_share: the part of epsilon that moments may cost; None: none are released.
        training_floor, floor: noise multipliers that training, and anything, has at least.
    """

    target: float | None
    cap: float
    delta: float
    sample_rate: float
    num_steps: int
    moments_share: float | None
    training_floor: float
    floor: float


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise multipliers of one run at one site; `moments` is None where none are released."""

    training: float
    moments: float | None
    evaluation: float


@lru_cache(maxsize=1024)
def noise_of(demand: Demand) -> Noise:
    """The least noise that meets a demand.

    Guarantees:
        - Training and moments together cost at most the target and the cap; so does the evaluation.
        - Moments alone cost at most their share of the target; without one, of what training costs.
        - Without a target, the evaluation costs at most what training and moments do.

    Raises:
        StudyError: no sane noise is enough.
    """
    steps = Gaussian(
        noise_multiplier=max(demand.training_floor, demand.floor, LEAST_NOISE),
        sample_rate=demand.sample_rate,
        count=demand.num_steps,
    )
    if demand.target is None:
        moments = _moments(demand, _cost((steps,), demand.delta))
        epsilon = _cost((steps, *moments), demand.delta)
        if epsilon <= demand.cap:
            return _with_evaluation(demand, epsilon, steps, moments)
    target = min(demand.cap, math.inf if demand.target is None else demand.target)
    moments = _moments(demand, target)
    steps = with_least_noise(steps, target, demand.delta, besides=moments)
    return _with_evaluation(demand, target, steps, moments)


def _cost(events: tuple[Gaussian, ...], delta: float) -> float:
    return epsilon_of([Charge(event=event) for event in events], delta)


def _moments(demand: Demand, epsilon: float) -> tuple[Gaussian, ...]:
    if demand.moments_share is None:
        return ()
    target = demand.moments_share * _of_others(demand, epsilon)
    return (with_least_noise(_one_release(demand), target, demand.delta),)


def _of_others(demand: Demand, epsilon: float) -> float:
    """The epsilon of training; where it follows from noise, at least `_LEAST_EPSILON`."""
    return min(demand.cap, max(epsilon, _LEAST_EPSILON)) if demand.target is None else epsilon


def _one_release(demand: Demand) -> Gaussian:
    return Gaussian(noise_multiplier=max(demand.floor, LEAST_NOISE))


def _with_evaluation(
    demand: Demand, epsilon: float, steps: Gaussian, moments: tuple[Gaussian, ...]
) -> Noise:
    target = min(demand.cap, _of_others(demand, epsilon))
    evaluation = with_least_noise(_one_release(demand), target, demand.delta)
    return Noise(
        training=steps.noise_multiplier,
        moments=moments[0].noise_multiplier if moments else None,
        evaluation=evaluation.noise_multiplier,
    )


def with_least_noise(
    event: Gaussian, target: float, delta: float, *, besides: tuple[Gaussian, ...] = ()
) -> Gaussian:
    """The event with the least noise, no less than it has, at which the whole costs the target.

    Guarantees:
        - Its epsilon, together with `besides`, is at most the target, and at least .98 of it unless
          the event is returned as it came.

    Args:
        target: epsilon, above 0.
        besides: what the same patients pay for as well.

    Raises:
        StudyError: no sane noise is enough.
    """

    def cost(sigma: float, ask: Callable[..., float] = epsilon_of) -> float:
        events = (replace(event, noise_multiplier=sigma), *besides)
        return ask([Charge(event=e) for e in events], delta)

    low, low_cost = event.noise_multiplier, cost(event.noise_multiplier)
    if low_cost <= target:
        return event
    high = _above(lambda sigma: cost(sigma, upper_bound_of), low, target)
    high_cost = cost(high)
    if high_cost > target:
        raise StudyError(
            f"Expected a noise multiplier of at most {MOST_NOISE:g} to be enough for epsilon "
            f"{target:.3g} at delta {delta:g} over {event.count} steps at sample rate "
            f"{event.sample_rate:.3g}, found that it is not. Allow a larger epsilon, or train in "
            "fewer steps or smaller batches."
        )
    for guess_number in range(_MOST_GUESSES):
        if high_cost >= _TIGHT * target:
            break
        guess = _guess(low, low_cost, high, high_cost, target, halve=guess_number % 3 == 2)
        if not low < guess < high:
            break
        guess_cost = cost(guess)
        if guess_cost <= target:
            high, high_cost = guess, guess_cost
        else:
            low, low_cost = guess, guess_cost
    return replace(event, noise_multiplier=high)


def _above(bound: Callable[[float], float], low: float, target: float) -> float:
    """A noise multiplier not far above the least one that keeps a falling bound within a target."""
    high = MOST_NOISE
    while high > 1.01 * low:
        middle = _rounded_up(math.sqrt(low * high))
        low, high = (low, middle) if bound(middle) <= target else (middle, high)
    return max(low, high)


def _guess(
    low: float, low_cost: float, high: float, high_cost: float, target: float, *, halve: bool
) -> float:
    """Where a line between the ends, on scales of logarithms, meets the target."""
    width = math.log(high / low)
    part = 0.5
    if not halve and high_cost > 0 and low_cost < math.inf:
        aim = (1 + _TIGHT) / 2 * target
        part = math.log(low_cost / aim) / math.log(low_cost / high_cost)
    return _rounded_up(low * math.exp(min(max(part, 0.02), 0.98) * width))


def _rounded_up(sigma: float) -> float:
    """A number of few digits, not below `sigma`.

    >>> _rounded_up(1.23412)
    1.235
    """
    digits = _DIGITS - 1 - math.floor(math.log10(sigma))
    rounded = round(sigma, digits)
    return rounded if rounded >= sigma else round(rounded + 10.0**-digits, digits)
