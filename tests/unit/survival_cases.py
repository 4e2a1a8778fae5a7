"""Patients with a predicted survival, for tests of what is made of them."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.metrics.survival import SurvivalStatistics

CUTS = (10.0, 20.0, 40.0)
STATISTICS = SurvivalStatistics(cut_points=CUTS, has_likelihood=True)
ORDER_ONLY = SurvivalStatistics(cut_points=CUTS, has_likelihood=False)
Floats = NDArray[np.float64]
Cohort = tuple[Floats, dict[str, NDArray[Any]]]


def labels_of(
    times: list[float], events: list[bool], known: list[bool] | None = None
) -> dict[str, NDArray[Any]]:
    return {
        "known_B": np.array([True] * len(times) if known is None else known, dtype=np.bool_),
        "time_B": np.array(times, dtype=np.float32),
        "event_B": np.array(events, dtype=np.bool_),
    }


def curves(hazards: list[tuple[float, float, float]]) -> Floats:
    return np.cumprod(1 - np.array(hazards, dtype=np.float64).reshape(-1, len(CUTS)), axis=1)


def drawn(num_patients: int, seed: int) -> Cohort:
    """Patients whose risk tells something of their time; some outlive the last cut point."""
    rng = np.random.default_rng(seed)
    hazard_BK = rng.uniform(0.01, 0.6, (num_patients, 1)) * rng.uniform(
        0.8, 1.2, (num_patients, len(CUTS))
    )
    times = rng.exponential(8 / hazard_BK[:, 0])
    events = rng.random(num_patients) < 0.6
    return np.cumprod(1 - hazard_BK, axis=1), labels_of(times.tolist(), events.tolist())


# Few different times and risks, so that ties are common.
tied_patients = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 5.0, 10.0, 15.0, 20.0, 40.0, 41.0]) | st.floats(0, 60),
        st.booleans(),
        st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1),
    ),
    max_size=25,
)


def as_cohort(rows: list[tuple[float, bool, float]]) -> Cohort:
    labels = labels_of([r[0] for r in rows], [r[1] for r in rows])
    return curves([(r[2], r[2] / 2, r[2] / 3) for r in rows]), labels
