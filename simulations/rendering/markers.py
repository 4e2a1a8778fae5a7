"""Genomic markers of simulated patients: a few causal ones among many, with linkage.

Every marker has a liability: Gaussian, correlated with that of its neighbour within a block of five
(linkage). A few causal markers carry one summary each. A dosage counts the alleles by two
thresholds on the liability; an expression is the liability on the study's range.

Letters of shapes: B patients, M markers, K summaries.
"""

from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.granularities import MarkersGranularity
from simulations.rendering.scene import Floats, Rendering, Scene

_BLOCK = 5
_LINKAGE = 0.5


def render_markers(granularity: MarkersGranularity, scene: Scene) -> Rendering:
    """One row per patient: patient_id and the markers; an assay batch shifts and scales each."""
    random = scene.patients()
    liability_BM = _liability(scene, len(granularity.markers), random)
    instrument = scene.instrument()
    batch_2M = scene.effects.batch_shift * instrument.normal(size=(2, liability_BM.shape[1]))
    liability_BM = liability_BM * np.exp(0.5 * batch_2M[0]) + batch_2M[1]
    if granularity.unit == "dosage" and granularity.range == (0.0, 2.0):
        values_BM = _dosages(liability_BM, scene)
    else:
        low, high = granularity.range
        values_BM = (low + high) / 2 + (high - low) / 8 * liability_BM
        decimals = max(0, 4 - int(np.ceil(np.log10(high - low))))
        values_BM = np.clip(np.round(values_BM, decimals), low, high)
    unmeasured_BM = random.uniform(size=values_BM.shape) < scene.effects.cell_missing
    values_BM = np.where(unmeasured_BM, np.nan, values_BM)
    table = pd.DataFrame(values_BM, columns=list(granularity.markers))
    if granularity.unit == "dosage" and granularity.range == (0.0, 2.0):
        table = table.astype("Int64")
    table.insert(0, "patient_id", list(scene.ids))
    observed_B: NDArray[np.bool_] = np.any(~unmeasured_BM, axis=1)
    return Rendering(table=table, observed_B=observed_B)


def causal_markers(scene: Scene, num_markers: int) -> NDArray[np.int64]:
    """The places of the causal markers: a tenth of all, six at least, as far as there are any."""
    num_causal = min(num_markers, max(6, num_markers // 10))
    places = scene.process("causal").permutation(num_markers)[:num_causal]
    return np.sort(places).astype(np.int64)


def _liability(scene: Scene, num_markers: int, random: np.random.Generator) -> Floats:
    own_BM = random.normal(size=(len(scene.ids), num_markers))
    sign = scene.process("signs").choice([-1.0, 1.0], size=num_markers)
    for turn, place in enumerate(causal_markers(scene, num_markers)):
        shown_B = sign[place] * scene.shown_BK[:, turn % scene.shown_BK.shape[1]]
        own_BM[:, place] = np.sqrt(0.7) * shown_B + np.sqrt(0.3) * own_BM[:, place]
    liability_BM = own_BM.copy()
    for place in range(1, num_markers):
        if place % _BLOCK:
            before_B = liability_BM[:, place - 1]
            liability_BM[:, place] = (
                _LINKAGE * before_B + np.sqrt(1 - _LINKAGE**2) * own_BM[:, place]
            )
    return liability_BM


def _dosages(liability_BM: Floats, scene: Scene) -> Floats:
    """0, 1 or 2 alleles, with the frequencies of Hardy and Weinberg at a standard liability."""
    num_markers = liability_BM.shape[1]
    frequencies = [scene.process("alleles", m).uniform(0.2, 0.5) for m in range(num_markers)]
    normal = NormalDist()
    one_M = np.array([normal.inv_cdf((1 - f) ** 2) for f in frequencies])
    two_M = np.array([normal.inv_cdf(1 - f**2) for f in frequencies])
    dosage_BM: Floats = (liability_BM > one_M).astype(np.float64) + (liability_BM > two_M)
    return dosage_BM
