"""The one-run audit: bounds from right guesses, and what it finds and cannot find."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from common.study_file import override, without_privacy
from simulations.attacks.one_run_audit import (
    Guesses,
    epsilon_lower_bound,
    finding_of,
    guesses_of,
    p_value,
)
from simulations.attacks.study_audit import audit_study
from tests.statistical.audit_bugs import BUGS, COHORT, audited_study, scores_of

ALPHA = 1e-3
STRICT = override(audited_study(batch_size=COHORT), privacy__epsilon=0.5)


def of(num_right: int, *, num_guessed: int = 100, num_canaries: int = 1000) -> Guesses:
    return Guesses(num_canaries=num_canaries, num_guessed=num_guessed, num_right=num_right)


def test_without_delta_the_p_value_is_that_of_randomised_response() -> None:
    # 70 of 100 right, where epsilon ln 2 allows each guess to be right with chance 2/3.
    expected = binom.sf(69, 100, 2 / 3)
    assert p_value(of(70), math.log(2), 0.0) == pytest.approx(expected)


def test_a_delta_costs_once_for_each_canary() -> None:
    # P(X >= 2 of 2) = 1/4 at epsilon 0; the steepest mean of masses is P(X = 1) / 1 = 1/2, which
    # counts 2 delta times each of 10 canaries.
    guesses = of(2, num_guessed=2, num_canaries=10)
    assert p_value(guesses, 0.0, 1e-3) == pytest.approx(0.25 + 0.5 * 1e-3 * 2 * 10)


@settings(deadline=None)
@given(st.integers(0, 99), st.floats(0, 1e-6))
def test_more_right_guesses_never_lower_the_bound_and_a_larger_delta_never_raises_it(
    num_right: int, delta: float
) -> None:
    bound = epsilon_lower_bound(of(num_right), delta, alpha=ALPHA)
    assert bound <= epsilon_lower_bound(of(num_right + 1), delta, alpha=ALPHA) + 1e-9
    assert bound <= epsilon_lower_bound(of(num_right), 0.0, alpha=ALPHA) + 1e-9
    assert bound <= epsilon_lower_bound(of(num_right), delta, alpha=10 * ALPHA) + 1e-9


def test_guessing_at_random_proves_nothing() -> None:
    assert epsilon_lower_bound(of(50), 0.0, alpha=ALPHA) == 0.0


def test_randomised_response_is_bounded_below_its_epsilon_in_all_but_few_trials() -> None:
    # Coins told truly with chance e/(1+e): epsilon 1 exactly. At level .05, 1000 trials.
    random = np.random.default_rng(0)
    rights = random.binomial(500, math.e / (1 + math.e), 1000)
    values, times = np.unique(rights, return_counts=True)
    bounds = np.array(
        [
            epsilon_lower_bound(of(int(r), num_guessed=500, num_canaries=500), 0.0, alpha=0.05)
            for r in values
        ]
    )
    assert times[bounds > 1.0].sum() / 1000 <= 0.07
    assert np.average(bounds, weights=times) > 0.7


def test_canaries_in_the_middle_are_not_guessed_at() -> None:
    total_N = np.array([3.0, 0.1, -0.1, -3.0])
    is_in_N = np.array([True, False, True, False])
    assert guesses_of(total_N, is_in_N, 2).num_right == 2
    assert guesses_of(total_N, is_in_N, 4).num_right == 2


def test_correct_code_is_not_refuted_and_code_without_noise_is() -> None:
    named = {bug.name: bug for bug in BUGS}
    verdicts = {}
    for name in (None, "no noise"):
        plan, scores = scores_of(named.get(name), STRICT, 0)
        finding = finding_of(scores, plan, target="a test", confidence=0.999)
        assert finding.succeeded == finding.breaks_claim
        assert finding.epsilon_lower_bound <= finding.measures["most_possible"] + 1e-9
        verdicts[name] = finding.succeeded
    assert verdicts == {None: False, "no noise": True}


def test_training_without_privacy_is_seen_through() -> None:
    finding = audit_study(
        without_privacy(STRICT), finding_of, cohort_size=COHORT, seed=0, num_canaries=1000
    )
    assert finding.epsilon_lower_bound > 1.0
    assert finding.epsilon_claimed == math.inf
    assert not finding.succeeded
