"""Tabular granularities of simulated patients: every feature is a noisy mixture of the summaries.

Letters of shapes: B patients, K summaries, C categories.
"""

import numpy as np
import pandas as pd

from common.features import CategoricalFeature, NumericFeature
from common.granularities import TabularGranularity
from simulations.rendering.scene import Floats, Rendering, Scene


def render_table(granularity: TabularGranularity, scene: Scene) -> Rendering:
    """Columns of the patients' table; single values are missing as the hospital's effects say."""
    random = scene.patients()
    columns: dict[str, pd.Series[float] | pd.Series[str]] = {}
    for place, (column, feature) in enumerate(granularity.features.items()):
        values = _feature(column, feature, place, scene, random)
        unmeasured_B = random.uniform(size=len(scene.ids)) < scene.effects.cell_missing
        columns[column] = values.mask(unmeasured_B)
    table = pd.DataFrame(columns)
    return Rendering(columns=table, observed_B=table.notna().any(axis=1).to_numpy(dtype=np.bool_))


def _feature(
    column: str,
    feature: NumericFeature | CategoricalFeature,
    place: int,
    scene: Scene,
    random: np.random.Generator,
) -> "pd.Series[float] | pd.Series[str]":
    process, instrument = scene.process(column), scene.instrument(column)
    num_patients = len(scene.ids)
    if isinstance(feature, NumericFeature):
        mixed_B = scene.shown_BK @ mixture(process, place, scene.shown_BK.shape[1])
        offset = scene.effects.measurement_shift * instrument.normal()
        spread_B = np.tanh((mixed_B + offset + 0.3 * random.normal(size=num_patients)) / 2)
        low, high = feature.range
        return pd.Series(np.round((low + high) / 2 + (high - low) / 2 * spread_B, 3))
    num_categories = len(feature.categories)
    loading_KC = 1.5 * process.normal(size=(scene.shown_BK.shape[1], num_categories))
    logits_BC = scene.shown_BK @ loading_KC + random.gumbel(size=(num_patients, num_categories))
    return pd.Series([feature.categories[c] for c in logits_BC.argmax(axis=1)], dtype=object)


def mixture(process: np.random.Generator, place: int, num_summaries: int) -> Floats:
    """Weights of norm 1: mostly of the summary whose turn it is, with some of the others."""
    weights_K = 0.4 * process.normal(size=num_summaries)
    weights_K[place % num_summaries] = 1.0
    weights_K *= process.choice([-1.0, 1.0])
    unit_K: Floats = weights_K / np.linalg.norm(weights_K)
    return unit_K
