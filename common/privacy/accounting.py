"""What a history of events costs: its epsilon for a delta, by its privacy loss distribution.

Epsilon is always computed from the whole history, and never added up, stored or carried over from
run to run. An event that is not known costs infinity. Adjacency is add or remove one patient.

Only valid accountants stand here. The central limit of Gaussian DP, which some libraries offer, is
no bound: it was 5 to 12 % below the truth in four of five settings (`Guarantees` of `epsilon_of`).
"""

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.privacy.events import Charge, Gaussian, Part

logger = logging.getLogger(__name__)

# (noise multiplier, sample rate, count); a history has each pair of the first two once, in order.
_Kind = tuple[float, float, int]
_History = tuple[_Kind, ...]

# Where a patient may have been in either part under more splits than this, all parts are added.
_MOST_SPLITS = 6
# The grid of losses is this part of epsilon: finer costs time and moves epsilon by less than .1 %.
_GRID = 2.0**-12
# It is chosen by a bound, and then by what it gave, no more often than this.
_MOST_GRIDS, _SMALLEST_GRIDDED = 4, 1e-4
# A single loss is not cut into more cells than this.
_MOST_CELLS = 2.0**19
# Above this, the Rényi bound is told: it is valid, and says that there is no protection.
_LARGEST_COMPUTED = 1e5
_ORDERS = (*range(2, 17), 20, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
# Of the bound, to find epsilon to ten digits.
_HALVINGS = 36
# Their squares are numbers still. Less noise costs infinity; more is not credited.
_SMALLEST_SIGMA, _LARGEST_SIGMA = 1e-100, 1e6
# The error that Opacus's PRV accountant is allowed, as a part of epsilon (or of 1, if less).
_PRV_ERROR = 0.005
_LARGEST_OF_PRV = 600.0


def epsilon_of(charges: Sequence[Charge], delta: float) -> float:
    """The epsilon that this history costs the patient whom it costs most, at this delta.

    Guarantees:
        - Never below the true epsilon; for q = 1, at most .1 % above the closed form.
        - The order of charges, and how equal events are divided over them, changes nothing.
        - More events, a larger sample rate, less noise or a smaller delta never cost less.
        - Under one split nobody is both in training and held out, so that the larger of the two
          histories is what counts, and not their sum (parallel composition).

    Edge cases:
        =======================================  ==================================================
        no charges, or counts of 0               0
        anything unprotected                     infinity, if anybody was in that part
        patients in either part of > 6 splits    both parts of every split are added
        `upper_bound_of` above 100,000           the bound, which may be much larger
        =======================================  ==================================================

    A new history of one kind of event takes about .1 s, and each further kind (another noise
    multiplier at a sample rate below 1) as much again; whole cohorts (q = 1) are one kind together.
    Histories that were asked for before cost nothing.

    Args:
        delta: in (0, 1).

    Raises:
        ValueError: delta is not in (0, 1).

    Source: Koskela, Jälkö & Honkela 2020, arXiv:1906.03049; rounded up as by Doroshenko et al.
    2022, arXiv:2207.04380 ("connect the dots").
    """
    _check_delta(delta)
    histories = _histories(charges)
    if histories is None:
        return math.inf
    return max(_epsilon(history, delta) for history in histories)


def upper_bound_of(charges: Sequence[Charge], delta: float) -> float:
    """A bound of epsilon from above within a millisecond, by Rényi DP at some whole orders.

    To know where to look, not to report: under sampling with noise multipliers below .5 it can be
    a hundred times `epsilon_of`.

    Raises:
        ValueError: delta is not in (0, 1).

    Source: Mironov, Talwar & Zhang 2019, arXiv:1908.10530, section 3.3; from there to epsilon by
    Canonne, Kamath & Steinke 2020, arXiv:2004.00010, proposition 12.
    """
    _check_delta(delta)
    histories = _histories(charges)
    if histories is None:
        return math.inf
    return max(_renyi_bound(history, delta) for history in histories)


def second_opinion(charges: Sequence[Charge], delta: float) -> dict[str, float]:
    """Epsilon by Opacus, of the same history: "prv" (upper end of its error) and "rdp".

    Both are bounds from above. One is infinite where that accountant cannot compute the history.

    Raises:
        ValueError: delta is not in (0, 1).
    """
    _check_delta(delta)
    histories = _histories(charges)
    if histories is None:
        return {"prv": math.inf, "rdp": math.inf}
    opinions = {"prv": _prv_epsilon, "rdp": _rdp_epsilon}
    return {
        name: max(_quietly(opinion, history, delta) if history else 0.0 for history in histories)
        for name, opinion in opinions.items()
    }


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"expected a delta in (0, 1), found {delta}")


def _histories(charges: Sequence[Charge]) -> tuple[_History, ...] | None:
    """What may have happened to one patient, in each case; None: something without a mechanism."""
    charges = [c for c in charges if not (isinstance(c.event, Gaussian) and c.event.count == 0)]
    if any(not isinstance(c.event, Gaussian) for c in charges):
        return None
    common = [c.event for c in charges if c.part is Part.ALL]
    choices = []
    for split in sorted({c.split for c in charges if c.part is not Part.ALL}):
        parts = [
            [c.event for c in charges if c.split == split and c.part is part]
            for part in (Part.TRAIN, Part.TEST)
        ]
        choices.append([part for part in parts if part])
    if sum(len(parts) > 1 for parts in choices) > _MOST_SPLITS:
        choices = [[[event for part in parts for event in part]] for parts in choices]
    cases = product(*choices)
    histories = {_history([*common, *(e for part in case for e in part)]) for case in cases}
    return tuple(sorted(histories))


def _history(events: Sequence[Any]) -> _History:
    """Equal events together, in an order that depends on nothing but the events.

    Sums over whole cohorts compose, exactly, to one with the noise of 1 / sqrt(sum of count / σ²).
    """
    counts: Counter[tuple[float, float]] = Counter()
    for event in events:
        counts[min(event.noise_multiplier, _LARGEST_SIGMA), event.sample_rate] += event.count
    whole = {sigma: n for (sigma, rate), n in counts.items() if rate == 1.0}
    kinds = [(sigma, rate, n) for (sigma, rate), n in counts.items() if rate < 1.0]
    if whole:
        precision = math.fsum(n / sigma / sigma for sigma, n in sorted(whole.items()))
        kinds.append((1 / math.sqrt(precision), 1.0, 1))
    return tuple(sorted(kinds))


@lru_cache(maxsize=4096)
def _epsilon(history: _History, delta: float) -> float:
    bound = _renyi_bound(history, delta)
    if not 0 < bound < _LARGEST_COMPUTED:
        return bound
    interval, epsilon = _interval(history, bound), bound
    for _ in range(_MOST_GRIDS):
        losses = (_loss(*kind, interval) for kind in history)
        whole = reduce(lambda one, other: one.compose(other), losses)
        epsilon = min(epsilon, _least_epsilon(whole.get_delta_for_epsilon, delta, epsilon))
        # Where the bound was far too large, so was the grid.
        finer = _interval(history, max(epsilon, _SMALLEST_GRIDDED))
        if finer > interval / 8:
            break
        interval = finer
    return epsilon


def _least_epsilon(delta_of: Callable[[float], float], delta: float, bound: float) -> float:
    """The least epsilon, rounded up, whose delta is small enough; the bound, if even that has more.

    By halving: dp-accounting's own inverse divides by exp(-epsilon), which is 0 from 745 on.
    """
    if delta_of(0.0) <= delta:
        return 0.0
    low, high = 0.0, bound
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(middle) <= delta else (middle, high)
    return high


def _interval(history: _History, bound: float) -> float:
    """The width of the grid of losses, a power of two.

    Every point of a coarser grid is one of a finer grid, so that coarser never means smaller.
    """
    least_noise = min(sigma for sigma, _, _ in history)
    # The loss of a single sum is cut where the noise is 10 standard deviations away.
    span = 10 / least_noise + 0.5 / least_noise**2
    return 2.0 ** max(
        math.floor(math.log2(bound * _GRID)), math.ceil(math.log2(2 * span / _MOST_CELLS))
    )


@lru_cache(maxsize=256)
def _loss(sigma: float, rate: float, count: int, interval: float) -> Any:
    """The distribution of the privacy loss of all events of one kind, rounded up."""
    from dp_accounting import NeighboringRelation  # type: ignore[import-untyped]
    from dp_accounting.pld.privacy_loss_distribution import (  # type: ignore[import-untyped]
        from_gaussian_mechanism,
    )

    return from_gaussian_mechanism(
        sigma,
        pessimistic_estimate=True,
        value_discretization_interval=interval,
        sampling_prob=rate,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    ).self_compose(count)


def _renyi_bound(history: _History, delta: float) -> float:
    if not history:
        return 0.0
    divergence = sum(count * _renyi(sigma, rate) for sigma, rate, count in history)
    orders = np.array(_ORDERS, dtype=np.float64)
    to_epsilon = np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(np.min(divergence + to_epsilon)))


@lru_cache(maxsize=4096)
def _renyi(sigma: float, rate: float) -> NDArray[np.float64]:
    """The Rényi divergence of one sum at each of the orders."""
    orders = np.array(_ORDERS, dtype=np.float64)
    if sigma < _SMALLEST_SIGMA:
        return np.full(len(orders), np.inf)
    if rate == 1.0:
        return orders / 2 / sigma**2
    k = np.arange(_ORDERS[-1] + 1)
    exponents = (k * k - k) / 2 / sigma**2 + k * math.log(rate)
    terms = exponents + _log_binomials() + (orders[:, None] - k) * math.log1p(-rate)
    divergence: NDArray[np.float64] = np.logaddexp.reduce(terms, axis=1) / (orders - 1)
    return np.maximum(divergence, 0.0)


@lru_cache(maxsize=1)
def _log_binomials() -> NDArray[np.float64]:
    """The logarithm of α over k, by order α and k; -inf for k > α."""
    log_factorial = np.array([math.lgamma(n + 1) for n in range(_ORDERS[-1] + 1)])
    table = np.full((len(_ORDERS), len(log_factorial)), -np.inf)
    for row, order in zip(table, _ORDERS, strict=True):
        upto = log_factorial[: order + 1]
        row[: order + 1] = log_factorial[order] - upto - upto[::-1]
    return table


def _prv_epsilon(history: _History, delta: float) -> float:
    from opacus.accountants import PRVAccountant  # type: ignore[import-untyped]

    accountant = PRVAccountant()
    accountant.history = list(history)
    error = _PRV_ERROR * max(1.0, _renyi_bound(history, delta))
    epsilon = float(accountant.get_epsilon(delta, eps_error=error))
    # Exponentials overflow: it told 760 where the truth is 5411.
    return epsilon if epsilon < _LARGEST_OF_PRV else math.inf


def _rdp_epsilon(history: _History, delta: float) -> float:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = list(history)
    orders = [*accountant.DEFAULT_ALPHAS, *_ORDERS[_ORDERS.index(64) :]]
    return float(accountant.get_epsilon(delta, alphas=orders))


def _quietly(opinion: Callable[[_History, float], float], history: _History, delta: float) -> float:
    """The opinion, without warnings (of lost precision, or orders at the edge); inf if none."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            epsilon = opinion(history, delta)
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as fault:
        logger.info("an accountant gave no second opinion: %s", type(fault).__name__)
        return math.inf
    return math.inf if math.isnan(epsilon) else epsilon
