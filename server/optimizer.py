"""Server optimizers: from the combined update of a round to the next parameters.

Source: Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2. FedAvg and FedProx add
the update times the server's learning rate; FedProx differs at the sites.

Letters of shapes: P parameters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.plan import Strategy


@dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """First and second moments (P) of the updates, float64; empty where they are not used."""

    first_P: NDArray[np.float64]
    second_P: NDArray[np.float64]

    @classmethod
    def start(cls, plan: Strategy, num_parameters: int) -> "OptimizerState":
        """The state before the first round: m = 0, v = tau² (Reddi et al., algorithm 2)."""
        is_adaptive = plan.name in ("fedadam", "fedyogi", "fedadagrad")
        size = num_parameters if is_adaptive else 0
        return cls(first_P=np.zeros(size), second_P=np.full(size, plan.tau**2))


def step(
    plan: Strategy,
    state: OptimizerState,
    update_P: NDArray[np.floating],
    trained_P: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], OptimizerState]:
    """What to add to the parameters, and the next state.

    Guarantees:
        - A parameter that no site trained does not move, and its moments stay as they were.

    Differs from the source in: that guarantee; there, momentum would move an encoder that nobody
    trained in this round.
    """
    delta_P = update_P.astype(np.float64)
    if plan.name in ("fedavg", "fedprox"):
        return plan.step_size * delta_P, state
    first_P = plan.beta_1 * state.first_P + (1 - plan.beta_1) * delta_P
    square_P = delta_P**2
    match plan.name:
        case "fedadagrad":
            second_P = state.second_P + square_P
        case "fedadam":
            second_P = plan.beta_2 * state.second_P + (1 - plan.beta_2) * square_P
        case "fedyogi":
            sign_P = np.sign(state.second_P - square_P)
            second_P = state.second_P - (1 - plan.beta_2) * square_P * sign_P
    move_P = plan.step_size * first_P / (np.sqrt(second_P) + plan.tau)
    next_state = OptimizerState(
        first_P=np.where(trained_P, first_P, state.first_P),
        second_P=np.where(trained_P, second_P, state.second_P),
    )
    return np.where(trained_P, move_P, 0.0), next_state
