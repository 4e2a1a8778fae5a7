"""What a history costs: laws of epsilon, a closed form as oracle, and who pays for what."""

import json
import math
import random
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr, ndtr

from common.privacy.accounting import epsilon_of, second_opinion, upper_bound_of
from common.privacy.events import (
    Charge,
    Event,
    Gaussian,
    Part,
    Unprotected,
    charge_from_json,
    charge_to_json,
)
from tests.golden.make_epsilon_table import optimistic_epsilon_of

DELTA = 1e-5
# One training of a hospital of 120 patients.
STEPS = Gaussian(noise_multiplier=2.0, sample_rate=0.13, count=80)


def paid(*events: Event, part: Part = Part.TRAIN, split: str = "a") -> list[Charge]:
    return [Charge(event=event, part=part, split=split) for event in events]


def steps_of(sigma: float, rate: float, count: int) -> list[Charge]:
    return paid(Gaussian(noise_multiplier=sigma, sample_rate=rate, count=count))


def closed_form(mu: float, delta: float) -> float:
    """Epsilon of N(mu, 1) against N(0, 1). Balle & Wang 2018, arXiv:1805.06530, theorem 8."""

    def delta_of(epsilon: float) -> float:
        upper = ndtr(mu / 2 - epsilon / mu)
        return float(upper - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))

    if delta_of(0.0) <= delta:
        return 0.0
    low, high = 0.0, mu**2 / 2 + 20 * mu + 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(middle) <= delta else (middle, high)
    return high


sigmas = st.floats(0.5, 50.0)
rates = st.floats(0.001, 1.0)
counts = st.integers(1, 500)
deltas = st.floats(-8, -2).map(lambda x: 10.0**x)


def test_the_known_answer_of_whole_cohorts_is_found() -> None:
    # Balle & Wang: ten sums with sigma = 11.797, mu = sqrt(10) / 11.797, cost 1.0000 at 1e-5.
    assert closed_form(math.sqrt(10) / 11.797, DELTA) == pytest.approx(1.0000, abs=5e-5)
    assert epsilon_of(steps_of(11.797, 1.0, 10), DELTA) == pytest.approx(1.0000, abs=2e-4)


@settings(max_examples=12)
@given(sigma=st.floats(0.05, 1000.0), count=st.integers(1, 1000), delta=deltas)
def test_whole_cohorts_cost_the_closed_form_and_at_most_a_thousandth_more(
    sigma: float, count: int, delta: float
) -> None:
    exact = closed_form(math.sqrt(count) / sigma, delta)
    found = epsilon_of(steps_of(sigma, 1.0, count), delta)
    if exact > 1e4:
        assert found >= exact
    else:
        assert exact * (1 - 1e-9) <= found <= 1.001 * exact + 1e-6


@settings(max_examples=6)
@given(sigma=st.floats(0.6, 20.0), rate=st.floats(0.01, 0.9), count=st.integers(1, 60))
def test_epsilon_is_never_below_the_bound_of_losses_rounded_down(
    sigma: float, rate: float, count: int
) -> None:
    charges = steps_of(sigma, rate, count)
    found = epsilon_of(charges, DELTA)
    below = optimistic_epsilon_of(charges, DELTA, interval=max(0.02 * found / count, 1e-5))
    assert below <= found <= below + max(0.05 * found, 0.01)


def test_rounds_cost_what_one_long_training_costs() -> None:
    twenty = [charge for _ in range(20) for charge in steps_of(1.1, 0.064, 16)]
    assert epsilon_of(twenty, DELTA) == epsilon_of(steps_of(1.1, 0.064, 320), DELTA)
    # The reference of pitfall 1: an engine per round would say 2.24 for ever.
    assert epsilon_of(twenty, DELTA) == pytest.approx(7.0, abs=0.5)
    assert epsilon_of(steps_of(1.1, 0.064, 16), DELTA) < 0.5 * epsilon_of(twenty, DELTA)


def test_a_ledger_that_is_read_back_costs_what_the_grouped_history_costs() -> None:
    charges = [*steps_of(9.0, 1.0, 1), *(c for _ in range(6) for c in steps_of(1.5, 0.2, 7))]
    lines = [json.dumps(charge_to_json(charge)) for charge in charges]
    replayed = [charge_from_json(json.loads(line)) for line in lines]
    grouped = [*steps_of(9.0, 1.0, 1), *steps_of(1.5, 0.2, 42)]
    assert epsilon_of(replayed, DELTA) == epsilon_of(grouped, DELTA)


@settings(max_examples=6)
@given(
    kinds=st.lists(st.tuples(sigmas, rates, counts), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_the_order_of_charges_changes_nothing(
    kinds: list[tuple[float, float, int]], seed: int
) -> None:
    charges = [charge for kind in kinds for charge in steps_of(*kind)]
    shuffled = random.Random(seed).sample(charges, len(charges))
    assert epsilon_of(shuffled, DELTA) == epsilon_of(charges, DELTA)


@settings(max_examples=6)
@given(sigma=sigmas, rate=rates, count=counts, delta=deltas, more=st.floats(1.0, 3.0))
def test_more_of_anything_never_costs_less(
    sigma: float, rate: float, count: int, delta: float, more: float
) -> None:
    found = epsilon_of(steps_of(sigma, rate, count), delta) * (1 - 1e-9)
    assert epsilon_of(steps_of(sigma, rate, math.ceil(more * count)), delta) >= found
    assert epsilon_of(steps_of(sigma, min(1.0, more * rate), count), delta) >= found
    assert epsilon_of(steps_of(sigma / more, rate, count), delta) >= found
    assert epsilon_of(steps_of(sigma, rate, count), delta / more) >= found
    assert epsilon_of([*steps_of(sigma, rate, count), *steps_of(20.0, 0.5, 3)], delta) >= found


def test_each_step_more_costs_more() -> None:
    costs = [epsilon_of(steps_of(2.0, 0.1, count), DELTA) for count in (10, 11, 12, 40, 41)]
    assert costs == sorted(set(costs))


def test_nothing_costs_nothing() -> None:
    assert epsilon_of([], DELTA) == 0.0
    assert epsilon_of(steps_of(1.0, 0.5, 0), DELTA) == 0.0
    assert upper_bound_of([], DELTA) == 0.0
    assert second_opinion([], DELTA) == {"prv": 0.0, "rdp": 0.0}
    assert epsilon_of([*steps_of(1e-9, 1.0, 0), *paid(STEPS)], DELTA) == epsilon_of(
        paid(STEPS), DELTA
    )


@pytest.mark.parametrize("part", list(Part))
def test_what_has_no_mechanism_costs_infinity(part: Part) -> None:
    charges = [*paid(STEPS), *paid(Unprotected(), part=part)]
    assert epsilon_of(charges, DELTA) == math.inf
    assert upper_bound_of(charges, DELTA) == math.inf
    assert second_opinion(charges, DELTA) == {"prv": math.inf, "rdp": math.inf}


def test_an_event_that_is_not_known_costs_infinity() -> None:
    unknown: Any = object()
    assert epsilon_of([Charge(event=unknown)], DELTA) == math.inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, math.inf])
def test_a_delta_that_is_no_probability_is_an_error(delta: float) -> None:
    for ask in (epsilon_of, upper_bound_of, second_opinion):
        with pytest.raises(ValueError, match=r"delta in \(0, 1\)"):
            ask(paid(STEPS), delta)


def test_training_and_held_out_patients_of_a_split_pay_apart() -> None:
    small, large = Gaussian(noise_multiplier=5.0), Gaussian(noise_multiplier=2.0)
    both = [*paid(small), *paid(large, part=Part.TEST)]
    assert epsilon_of(both, DELTA) == epsilon_of(paid(large), DELTA)
    other_way = [*paid(large), *paid(small, part=Part.TEST)]
    assert epsilon_of(other_way, DELTA) == epsilon_of(paid(large), DELTA)


def test_what_looks_at_everybody_is_paid_by_both_parts() -> None:
    charges = [
        *paid(Gaussian(noise_multiplier=5.0)),
        *paid(Gaussian(noise_multiplier=2.0), part=Part.TEST),
        *paid(Gaussian(noise_multiplier=3.0), part=Part.ALL),
    ]
    both = paid(Gaussian(noise_multiplier=2.0), Gaussian(noise_multiplier=3.0))
    assert epsilon_of(charges, DELTA) == epsilon_of(both, DELTA)


def test_a_patient_may_be_in_training_under_one_split_and_held_out_under_another() -> None:
    noise = {("a", "train"): 2.0, ("a", "test"): 9.0, ("b", "train"): 9.0, ("b", "test"): 2.0}
    charges = [
        charge
        for (split, part), sigma in noise.items()
        for charge in paid(Gaussian(noise_multiplier=sigma), part=Part(part), split=split)
    ]
    worst = max(
        epsilon_of(
            paid(
                Gaussian(noise_multiplier=noise["a", a]), Gaussian(noise_multiplier=noise["b", b])
            ),
            DELTA,
        )
        for a, b in product(("train", "test"), repeat=2)
    )
    assert epsilon_of(charges, DELTA) == worst
    twice = paid(Gaussian(noise_multiplier=2.0, count=2))
    assert epsilon_of(charges, DELTA) == epsilon_of(twice, DELTA)


@pytest.mark.parametrize(("num_splits", "num_paid"), [(6, 6), (7, 14)])
def test_beyond_six_splits_everything_is_added(num_splits: int, num_paid: int) -> None:
    event = Gaussian(noise_multiplier=10.0)
    charges = [
        charge
        for i in range(num_splits)
        for part in (Part.TRAIN, Part.TEST)
        for charge in paid(event, part=part, split=str(i))
    ]
    expected = steps_of(10.0, 1.0, num_paid)
    assert epsilon_of(charges, DELTA) == epsilon_of(expected, DELTA)


def test_many_splits_of_which_one_part_alone_was_used_are_no_more_than_their_sum() -> None:
    charges = [c for i in range(9) for c in paid(STEPS, split=str(i))]
    assert epsilon_of(charges, DELTA) == epsilon_of(steps_of(2.0, 0.13, 9 * 80), DELTA)


@settings(max_examples=12)
@given(sigma=sigmas, rate=rates, count=counts, delta=deltas)
def test_the_quick_bound_is_above_and_not_far_above(
    sigma: float, rate: float, count: int, delta: float
) -> None:
    charges = steps_of(sigma, rate, count)
    found, bound = epsilon_of(charges, delta), upper_bound_of(charges, delta)
    assert found <= bound
    if 0.1 < found < 300 and rate > 10 * delta:
        assert bound < 4 * found


@pytest.mark.parametrize(
    ("sigma", "rate", "count"),
    [(1e-300, 1.0, 1), (1e-160, 0.5, 3), (1e-3, 0.1, 10), (0.01, 1.0, 10**9), (1e300, 1.0, 1)],
)
def test_extreme_noise_costs_a_number_and_warns_of_nothing(
    sigma: float, rate: float, count: int
) -> None:
    found = epsilon_of(steps_of(sigma, rate, count), DELTA)
    assert 0 <= found <= math.inf
    assert (found < 1e-3) == (sigma > 1)


def test_large_epsilons_are_exact_where_exponentials_are_not() -> None:
    # exp(-epsilon) is 0 from 745 on.
    for sigma in (0.03, 0.02, 0.01):
        exact = closed_form(1 / sigma, DELTA)
        assert exact > 690
        assert exact * (1 - 1e-9) <= epsilon_of(steps_of(sigma, 1.0, 1), DELTA) <= 1.001 * exact


def test_a_second_opinion_is_near_and_not_below() -> None:
    charges = [*paid(STEPS), *steps_of(9.0, 1.0, 1), *steps_of(2.5, 0.05, 60)]
    found, opinions = epsilon_of(charges, DELTA), second_opinion(charges, DELTA)
    assert opinions["prv"] == pytest.approx(found, rel=0.02)
    assert found <= opinions["rdp"] <= 1.25 * found
    assert found <= opinions["prv"]


def test_a_second_opinion_is_of_the_patient_who_pays_most() -> None:
    charges = [*paid(STEPS), *paid(Gaussian(noise_multiplier=9.0), part=Part.TEST)]
    assert second_opinion(charges, DELTA) == second_opinion(paid(STEPS), DELTA)


@pytest.mark.parametrize(("sigma", "rate"), [(0.02, 0.5), (0.01, 1.0)])
def test_there_is_no_second_opinion_where_the_accountant_cannot_compute_it(
    sigma: float, rate: float
) -> None:
    # Of the second, Opacus says 760, and the closed form 5411.
    assert second_opinion(steps_of(sigma, rate, 1), DELTA)["prv"] == math.inf
