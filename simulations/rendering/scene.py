"""What every renderer is given, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.seeds import seed_of

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class SiteEffects:
    """How one simulated hospital differs from the others.

    Attributes:
        severity_shift: added to the mean of the latent severity, in standard deviations; it moves
            the prevalence.
        measurement_shift: standard deviation of the offset of each of its instruments (features,
            signals), as a part of the spread of a value.
        scanner_shift: size of its scanner's brightness, contrast, blur and noise; 0 has none.
        batch_shift: size of the offset and of the scale of each marker in its assay batch.
        note_style: how far its own choice of synonyms and its verbosity go.
        measurement_rate: how often it measures series, where 1 is the usual.
        lacks: granularities that no patient of this hospital has.
        granularity_missing: the part of patients who miss any one other granularity.
        cell_missing: the part of single values that were not measured.
    """

    name: str
    num_patients: int
    severity_shift: float = 0.0
    measurement_shift: float = 0.0
    scanner_shift: float = 0.0
    batch_shift: float = 0.0
    note_style: float = 0.0
    measurement_rate: float = 1.0
    lacks: tuple[str, ...] = ()
    granularity_missing: float = 0.05
    cell_missing: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The patients who have a granularity at one hospital, and the three sources of chance.

    Attributes:
        name: of the granularity.
        ids: of the patients who have it, in the order of axis B.
        shown_BK: what it shows of them: three summaries, each of variance 1.
    """

    study: str
    name: str
    seed: int
    effects: SiteEffects
    ids: Sequence[str]
    shown_BK: Floats

    def process(self, *parts: str | int) -> np.random.Generator:
        """Chance that is the same at every hospital: how the disease shows."""
        return np.random.default_rng(seed_of(self.seed, self.study, "shows", self.name, *parts))

    def instrument(self, *parts: str | int) -> np.random.Generator:
        """Chance of the hospital, the same for all of its patients."""
        seed = seed_of(self.seed, "instrument", self.effects.name, self.name, *parts)
        return np.random.default_rng(seed)

    def patients(self) -> np.random.Generator:
        """Chance of each patient, apart from what is shown."""
        return np.random.default_rng(seed_of(self.seed, "patients", self.effects.name, self.name))


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What is written for a granularity.

    Attributes:
        columns: of the patients' table, one row for each patient of the scene.
        table: its own table, with patient_id.
        images: by file name.
        text: its own file of text.
        observed_B: for whom anything was measured at all.
    """

    observed_B: NDArray[np.bool_]
    columns: pd.DataFrame | None = None
    table: pd.DataFrame | None = None
    images: Mapping[str, Pixels] = field(default_factory=dict)
    text: str | None = None
