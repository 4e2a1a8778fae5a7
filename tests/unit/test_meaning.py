"""What epsilon means: limits that hold for a mechanism whose truth is known, and are reached."""

from math import exp, log
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Gaussian
from common.privacy.meaning import meaning_of, most_likely, most_right, percent_text

NORMAL = NormalDist()
epsilons = st.floats(0, 50)
deltas = st.floats(1e-9, 0.1)
chances = st.floats(0, 1)


@given(before=chances, epsilon=epsilons, delta=deltas)
def test_a_limit_is_a_probability_and_never_below_what_chance_gives(
    before: float, epsilon: float, delta: float
) -> None:
    assert before <= most_likely(before, epsilon, delta) <= 1
    assert 0.5 <= most_right(epsilon, delta) <= 1


@given(before=chances, one=epsilons, other=epsilons, delta=deltas, more=deltas)
def test_a_larger_epsilon_or_delta_never_allows_less(
    before: float, one: float, other: float, delta: float, more: float
) -> None:
    low, high = sorted((one, other))
    assert most_likely(before, low, delta) <= most_likely(before, high, delta + more) + 1e-12
    assert most_right(low, delta) <= most_right(high, delta + more) + 1e-12


def test_numbers_that_were_worked_by_hand() -> None:
    # e^ln 3 = 3: three times as likely; and of the opposite, 1 - (1 - 1/2) / 3 = 5/6.
    assert most_likely(0.01, log(3), 0.0) == pytest.approx(0.03)
    assert most_likely(0.5, log(3), 0.0) == pytest.approx(5 / 6)
    assert most_likely(0.01, log(3), 0.001) == pytest.approx(0.031)
    # Randomised response tells the truth with 3/4 and a lie with 1/4: epsilon is ln 3.
    assert most_right(log(3), 0.0) == pytest.approx(3 / 4)
    assert most_likely(0.01, 800.0, 1e-5) == 1.0


@pytest.mark.parametrize("noise", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-2])
def test_the_best_attack_on_gaussian_noise_stays_within_the_limit_and_beyond_a_false_one(
    noise: float, delta: float
) -> None:
    epsilon = epsilon_of([Charge(event=Gaussian(noise_multiplier=noise))], delta)
    # The likelihood ratio test of N(0, 1) against N(1 / noise, 1), Dong, Roth & Su 2022, eq. 6.
    mu = 1 / noise
    reached = {a: NORMAL.cdf(NORMAL.inv_cdf(a) + mu) for a in (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9)}
    assert all(power <= most_likely(a, epsilon, delta) for a, power in reached.items())
    assert NORMAL.cdf(mu / 2) <= most_right(epsilon, delta)
    # Less than what the noise costs would be passed by this very attack.
    points = [NORMAL.cdf(z / 10) for z in range(-80, 60)]
    false = epsilon * 2 / 3
    assert any(
        NORMAL.cdf(NORMAL.inv_cdf(a) + mu) > most_likely(a, false, delta) + 1e-12 for a in points
    )


def test_percents_are_rounded_up() -> None:
    assert percent_text(0.50001) == "50.1\N{NO-BREAK SPACE}%"
    assert percent_text(exp(-1e-4)) == "99.991\N{NO-BREAK SPACE}%"
    assert percent_text(1.0) == "100.0\N{NO-BREAK SPACE}%"


def test_the_sentence_says_the_limit_and_the_odds() -> None:
    text = meaning_of(1.0, 1e-5, shown="1")
    assert "epsilon 1 allows the guess to be right at most 73.2\N{NO-BREAK SPACE}%" in text
    assert "by a factor of 2.7 at most" in text
    assert "more than 20,000" in meaning_of(12.0, 1e-5, shown="12")
