"""Series of simulated patients: irregular measurements whose course carries the summaries.

In each signal one summary is the trend, one the variability from measurement to measurement, and
one, under the patient's own usual level, moves the level; which one does what differs by signal.

Letters of shapes: B patients, K summaries, R readings.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.features import NumericFeature
from common.granularities import SeriesGranularity
from simulations.rendering.scene import Floats, Rendering, Scene

# Parts of a signal's range.
_LEVEL, _USUAL, _TREND, _VARIABILITY = 0.05, 0.05, 0.12, 0.03


def render_series(granularity: SeriesGranularity, scene: Scene) -> Rendering:
    """A long table: patient_id, minutes, signal, value; some patients are measured often.

    How often a patient is measured depends on the hospital and on chance alone. Each patient has
    two measurements of a signal or more, before single ones are missing.
    """
    random = scene.patients()
    num_patients = len(scene.ids)
    usual = min(20.0, max(4.0, granularity.num_steps / 2)) * scene.effects.measurement_rate
    diligence_B = random.gamma(3.0, 1 / 3, size=num_patients)
    parts = []
    for place, (signal, feature) in enumerate(granularity.signals.items()):
        num_readings_B = 2 + random.poisson(usual * diligence_B)
        patient_R = np.repeat(np.arange(num_patients), num_readings_B)
        time_R = random.uniform(size=len(patient_R))  # 0 to 1, over the window of the study
        part_R = _course(scene, signal, place, patient_R, time_R, random)
        kept_R = random.uniform(size=len(patient_R)) >= scene.effects.cell_missing
        parts.append(
            pd.DataFrame(
                {
                    "place": patient_R[kept_R],
                    "minutes": _minutes(granularity, time_R[kept_R]),
                    "signal": signal,
                    "value": _values(feature, part_R[kept_R]),
                }
            )
        )
    table = pd.concat(parts).sort_values(["place", "minutes"], kind="stable", ignore_index=True)
    observed_B = np.isin(np.arange(num_patients), table["place"].to_numpy())
    table.insert(0, "patient_id", np.asarray(scene.ids, dtype=object)[table.pop("place")])
    return Rendering(table=table, observed_B=observed_B)


def _course(
    scene: Scene,
    signal: str,
    place: int,
    patient_R: NDArray[np.int64],
    time_R: Floats,
    random: np.random.Generator,
) -> Floats:
    """The readings of one signal, where 0 is the middle of its range and ±.5 its ends."""
    turn = place % 3
    trend_B, variability_B, level_B = (scene.shown_BK[:, (turn + i) % 3] for i in range(3))
    sign = scene.process(signal).choice([-1.0, 1.0])
    offset = scene.effects.measurement_shift * scene.instrument(signal).normal()
    usual_B = _LEVEL * level_B + _USUAL * random.normal(size=len(level_B))
    course_R = usual_B[patient_R] + sign * _TREND * trend_B[patient_R] * (time_R - 0.5)
    spread_B = _VARIABILITY * np.exp(0.6 * variability_B)
    course_R = course_R + spread_B[patient_R] * random.normal(size=len(time_R))
    result_R: Floats = course_R + 0.1 * offset
    return result_R


def _minutes(granularity: SeriesGranularity, time_R: Floats) -> Floats:
    start, end = granularity.start_minutes, granularity.end_minutes
    decimals = 0 if end - start >= 240 else 2
    minutes_R = np.round(start + (end - start) * time_R, decimals)
    # Rounding may reach the end, which is outside of the window.
    minutes_R = np.where(minutes_R < end, minutes_R, start)
    return minutes_R.astype(np.float64)


def _values(feature: NumericFeature, part_R: Floats) -> Floats:
    low, high = feature.range
    decimals = max(0, 3 - int(np.ceil(np.log10(high - low))))
    values_R = np.round((low + high) / 2 + (high - low) * part_R, decimals)
    clipped_R: Floats = np.clip(values_R, low, high)
    return clipped_R
