"""Server optimizers: two rounds worked by hand after Reddi et al. 2021, algorithm 2."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.plan import Strategy
from server.optimizer import OptimizerState, step

ADAPTIVE = ["fedadam", "fedyogi", "fedadagrad"]


def _plan(name: str) -> Strategy:
    return Strategy.model_validate(
        {"name": name, "server_learning_rate": 0.5, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.1}
    )


# Parameter 0 has updates 2 and then -1; tau = .1, so v starts at .01 and m at 0.
# m: .1 · 2 = .2, then .9 · .2 - .1 · 1 = .08.
# Adam: v = .99 · .01 + .01 · 4 = .0499, then .99 · .0499 + .01 · 1 = .059401.
# Yogi: v = .01 - .01 · 4 · sign(.01 - 4) = .05, then .05 - .01 · 1 · sign(.05 - 1) = .06.
# Adagrad: v = .01 + 4 = 4.01, then 4.01 + 1 = 5.01.
BY_HAND = {
    "fedadam": [(0.2, 0.0499), (0.08, 0.059401)],
    "fedyogi": [(0.2, 0.05), (0.08, 0.06)],
    "fedadagrad": [(0.2, 4.01), (0.08, 5.01)],
}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_two_rounds_worked_by_hand(name: str) -> None:
    plan = _plan(name)
    state = OptimizerState.start(plan, 1)
    for update, (first, second) in zip([2.0, -1.0], BY_HAND[name], strict=True):
        move_P, state = step(plan, state, np.array([update]), np.array([True]))
        assert state.first_P[0] == pytest.approx(first, rel=1e-12)
        assert state.second_P[0] == pytest.approx(second, rel=1e-12)
        # x moves by η m / (√v + τ).
        assert move_P[0] == pytest.approx(0.5 * first / (sqrt(second) + 0.1), rel=1e-12)


def test_yogi_shrinks_a_second_moment_above_the_square() -> None:
    # v = .01, update .05: .01 - .01 · .0025 · sign(.01 - .0025) = .009975; Adam's would be .009925.
    plan = _plan("fedyogi")
    _, state = step(plan, OptimizerState.start(plan, 1), np.array([0.05]), np.array([True]))
    assert state.second_P[0] == pytest.approx(0.009975, rel=1e-12)


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_averaging_moves_by_the_update_times_the_learning_rate(name: str) -> None:
    plan = _plan(name)
    state = OptimizerState.start(plan, 3)
    move_P, after = step(plan, state, np.array([2.0, -4.0, 0.0]), np.array([True, True, False]))
    assert move_P.tolist() == [1.0, -2.0, 0.0]
    assert move_P.dtype == np.float64
    assert after.first_P.size == after.second_P.size == 0


def test_the_default_learning_rate_of_averaging_is_one() -> None:
    move_P, _ = step(Strategy(), OptimizerState.start(Strategy(), 1), np.ones(1), np.ones(1, bool))
    assert move_P.tolist() == [1.0]


@given(st.sampled_from(ADAPTIVE), st.integers(0, 2**32), st.integers(1, 4))
def test_what_nobody_trained_stays_with_its_moments(name: str, seed: int, num_rounds: int) -> None:
    plan, rng = _plan(name), np.random.default_rng(seed)
    state = OptimizerState.start(plan, 6)
    for _ in range(num_rounds):
        _, state = step(plan, state, rng.normal(size=6), np.ones(6, dtype=bool))
    trained_P = rng.uniform(size=6) < 0.5
    update_P = np.where(trained_P, rng.normal(size=6), 0.0)
    move_P, after = step(plan, state, update_P, trained_P)
    assert (move_P[~trained_P] == 0).all()
    np.testing.assert_array_equal(after.first_P[~trained_P], state.first_P[~trained_P])
    np.testing.assert_array_equal(after.second_P[~trained_P], state.second_P[~trained_P])
    assert (move_P[trained_P] != 0).all()
    assert (after.first_P[trained_P] != state.first_P[trained_P]).all()


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_step_leaves_the_state_before_it_as_it_was(name: str) -> None:
    state = OptimizerState.start(_plan(name), 2)
    step(_plan(name), state, np.ones(2, dtype=np.float32), np.ones(2, dtype=bool))
    assert state.first_P.tolist() == [0.0, 0.0]
    assert state.second_P.tolist() == pytest.approx([0.01, 0.01])
