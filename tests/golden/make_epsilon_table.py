"""Writes `epsilon_table.json`: epsilon of one kind of training, by three accountants and a bound.

    .venv/bin/python -m tests.golden.make_epsilon_table

Of each row: n patients, Poisson samples of `batch` of them in expectation, `steps` steps of noise
multiplier `sigma`, for adding or removing one patient at `delta`. "optimistic" is dp-accounting's
privacy loss distribution rounded down, on a grid that is .5 % of epsilon over all steps: the truth
lies between it and "pld". "prv" is told with an error of .005, or of .5 % of a bound of epsilon.
It takes some minutes.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.privacy.accounting import epsilon_of, second_opinion
from common.privacy.events import Charge, Gaussian

TABLE = Path(__file__).with_name("epsilon_table.json")

# n, batch, steps, sigma, delta
ROWS: list[tuple[int, int, int, float, float]] = [
    # One step, and the largest and smallest noise.
    (30, 30, 1, 0.3, 1e-5),
    (30, 30, 1, 1.0, 1e-5),
    (30, 30, 1, 3.73, 1e-5),
    (30, 30, 1, 50.0, 1e-5),
    (30, 30, 1, 200.0, 1e-5),
    (300, 32, 1, 0.5, 1e-5),
    (300, 32, 1, 1.0, 1e-4),
    (5000, 128, 1, 0.6, 1e-6),
    (50000, 512, 1, 0.7, 1e-5),
    # Every patient in every step.
    (30, 64, 10, 11.797, 1e-5),
    (46, 64, 60, 8.0, 1e-4),
    (60, 64, 100, 3.0, 1e-5),
    (50, 50, 10, 0.8, 1e-5),
    (120, 128, 1000, 200.0, 1e-5),
    (300, 300, 30, 20.0, 1e-6),
    # Hospitals of 30 to 300 patients.
    (30, 8, 40, 2.0, 1e-4),
    (30, 8, 120, 10.0, 1e-3),
    (46, 8, 60, 1.0, 1e-5),
    (46, 8, 60, 5.25, 1e-4),
    (46, 16, 90, 12.44, 1e-5),
    (50, 10, 250, 0.9, 1e-4),
    (75, 32, 90, 4.0, 1e-4),
    (100, 32, 200, 6.0, 1e-4),
    (120, 16, 240, 1.2, 1e-5),
    (120, 16, 240, 7.83, 1e-5),
    (150, 64, 150, 15.0, 1e-5),
    (200, 32, 700, 2.5, 1e-4),
    (250, 8, 320, 0.5, 1e-5),
    (300, 64, 500, 1.5, 1e-5),
    (300, 64, 500, 6.72, 1e-5),
    (300, 64, 500, 17.88, 1e-5),
    (300, 32, 1000, 12.02, 1e-5),
    (300, 150, 100, 0.3, 1e-5),
    # Larger ones.
    (1000, 64, 16, 1.1, 1e-5),
    (1000, 64, 320, 1.1, 1e-5),
    (1000, 256, 80, 3.0, 1e-6),
    (2000, 100, 400, 0.8, 1e-6),
    (5000, 128, 780, 0.9, 1e-5),
    (5000, 64, 2000, 2.0, 1e-5),
    (10000, 256, 1200, 1.0, 1e-6),
    (20000, 512, 400, 4.0, 1e-6),
    (50000, 512, 2940, 0.7, 1e-5),
    (50000, 512, 980, 1.5, 1e-6),
    (50000, 2048, 250, 200.0, 1e-5),
]


def charges_of(row: dict[str, Any] | tuple[int, int, int, float, float]) -> list[Charge]:
    """The history of a row."""
    values = [row[k] for k in ("n", "batch", "steps", "sigma")] if isinstance(row, dict) else row
    n, batch, steps, sigma = values[:4]
    event = Gaussian(noise_multiplier=sigma, sample_rate=min(1.0, batch / n), count=steps)
    return [Charge(event=event)]


def optimistic_epsilon_of(charges: list[Charge], delta: float, *, interval: float) -> float:
    """A bound of epsilon from below: every loss is rounded down to the grid."""
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    losses = None
    for charge in charges:
        assert isinstance(charge.event, Gaussian)
        loss = from_gaussian_mechanism(
            charge.event.noise_multiplier,
            pessimistic_estimate=False,
            use_connect_dots=False,
            value_discretization_interval=interval,
            sampling_prob=charge.event.sample_rate,
        ).self_compose(charge.event.count)
        losses = loss if losses is None else losses.compose(loss)
    return 0.0 if losses is None else float(losses.get_epsilon_for_delta(delta))


def row_of(n: int, batch: int, steps: int, sigma: float, delta: float) -> dict[str, Any]:
    """One row of the table, computed."""
    charges = charges_of((n, batch, steps, sigma, delta))
    pld = epsilon_of(charges, delta)
    opinions = second_opinion(charges, delta)
    return {
        "n": n,
        "batch": batch,
        "steps": steps,
        "sigma": sigma,
        "delta": delta,
        "optimistic": optimistic_epsilon_of(charges, delta, interval=0.005 * pld / steps),
        "pld": pld,
        "prv": opinions["prv"],
        "rdp": opinions["rdp"],
    }


def main() -> None:
    """Computes all rows and writes the table."""
    table = {
        "made_by": "tests/golden/make_epsilon_table.py",
        "versions": {name: version(name) for name in ("dp-accounting", "opacus")},
        "adjacency": "add or remove one patient",
        "rows": [row_of(*row) for row in ROWS],
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
