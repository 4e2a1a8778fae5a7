"""Made-up numbers of hospitals alone and together: known metrics in every resample."""

from collections.abc import Mapping

import numpy as np

from simulations.joining.resample import People, num_resamples_of
from simulations.joining.training import Kind, Measured, Piece

ENOUGH = People(num_training=100, num_held_out=50, too_few="")
FEW = People(
    num_training=20,
    num_held_out=12,
    too_few="2 of 12 held-out patients are of class “yes”, and an interval takes at least 10",
)
# By arm, then by hospital: the metric, or why there is none.
Told = Mapping[str, Mapping[str, float | str]]


def measured(told: Told, people: Mapping[str, People], *, spread: float = 0.01) -> Measured:
    """Each metric, and resamples that spread around it with this standard deviation.

    The same arm and hospital spread alike in every piece, and all arms of a hospital independently.
    """
    values: dict[str, dict[str, np.ndarray]] = {arm: {} for arm in told}
    reasons: dict[str, dict[str, str]] = {arm: {} for arm in told}
    for arm, by_site in told.items():
        for site, value in by_site.items():
            if isinstance(value, str):
                reasons[arm][site] = value
                continue
            seed = sum(ord(letter) * 31**n for n, letter in enumerate(f"{arm}/{site}"[:12]))
            size = num_resamples_of(len(people))
            around_R = np.random.default_rng(seed).normal(scale=spread, size=size)
            values[arm][site] = np.concatenate([[value], value + around_R])
    return Measured(values=values, reasons=reasons, people=people)


def piece_of(seed: int, kind: Kind = "all hospitals", absent: str = "") -> Piece:
    return Piece(seed=seed, kind=kind, absent=absent)


PEOPLE = {"north": ENOUGH, "south": ENOUGH, "west": ENOUGH, "isle": FEW}


def everybody(seed: int, *, shift: float = 0.0) -> Measured:
    """North gains .10, south loses .08, west gains nothing, and isle has too few patients."""
    return measured(
        {
            "local only": {"north": 0.70, "south": 0.80 + shift, "west": 0.75, "isle": 0.5},
            "federated": {"north": 0.80, "south": 0.72 + shift, "west": 0.75, "isle": 0.9},
            "pooled": {"north": 0.81, "south": 0.73, "west": 0.75, "isle": 0.9},
        },
        PEOPLE,
    )


def all_pieces() -> dict[Piece, Measured]:
    """Three seeds, each without north and without imaging, too."""
    pieces = {}
    for seed in range(3):
        pieces[piece_of(seed)] = everybody(seed, shift=0.004 * seed)
        pieces[piece_of(seed, "without hospital", "north")] = measured(
            {
                "without hospital north": {
                    "north": 0.60,
                    "south": 0.62,
                    "west": 0.65,
                    "isle": 0.9,
                }
            },
            PEOPLE,
        )
        pieces[piece_of(seed, "without granularity", "imaging")] = measured(
            {
                "without granularity imaging": {
                    "north": 0.80,
                    "south": 0.72,
                    "west": "it has nothing but imaging",
                    "isle": 0.9,
                }
            },
            PEOPLE,
        )
    return pieces
