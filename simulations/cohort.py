"""Simulated hospitals: patients of a known disease process, with known site effects.

Every patient has a latent state z; the outcome and every granularity of the study are drawn from
it, so what each granularity is worth is known. Sites differ in size, prevalence, measurement and in
what they lack. A study file is all that is needed: hospitals can be simulated for a study before
anybody's data are asked for. A new kind of granularity joins by drawing its own files from z.

Letters of shapes: B patients, L latent dimensions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.files import write_atomically
from common.seeds import seed_of
from common.study import CategoricalFeature, NumericFeature, Study
from simulations.site_folder import write_site_folder

_LATENT = 4
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SiteEffects:
    """How one simulated hospital differs from the others.

    Attributes:
        severity_shift: added to the mean of the latent severity, in standard deviations; it moves
            the prevalence.
        measurement_shift: standard deviation of the offset of each of its instruments, as a part of
            the spread of a value.
        lacks: granularities that no patient of this hospital has.
        granularity_missing: the part of patients who miss any one other granularity.
        cell_missing: the part of single values that were not measured.
    """

    name: str
    num_patients: int
    severity_shift: float = 0.0
    measurement_shift: float = 0.0
    lacks: tuple[str, ...] = ()
    granularity_missing: float = 0.05
    cell_missing: float = 0.05


@dataclass(frozen=True, kw_only=True)
class SimulatedSite:
    """A simulated hospital's table, and what is known because it is simulated.

    Attributes:
        risk_BC: the true probability of each outcome class given z, of each patient.
    """

    effects: SiteEffects
    patients: pd.DataFrame
    risk_BC: Floats


def varied_sites(study: Study, *, num_sites: int, seed: int) -> list[SiteEffects]:
    """Hospitals that differ in everything: sizes from 150 to 600 patients, case mix, instruments.

    Of three hospitals in a row, one lacks a granularity (in turn), where the study has several.
    """
    random = np.random.default_rng(seed_of(seed, "sites"))
    names = list(study.granularities)
    sites = []
    for i in range(num_sites):
        lacks = (names[(i // 3) % len(names)],) if len(names) > 1 and i % 3 == 2 else ()
        sites.append(
            SiteEffects(
                name=f"hospital-{i + 1:0{len(str(num_sites))}d}",
                num_patients=round(150 * 4 ** random.uniform()),
                severity_shift=float(random.normal(0.0, 0.5)),
                measurement_shift=0.2,
                lacks=lacks,
            )
        )
    return sites


def simulate_site(study: Study, effects: SiteEffects, *, seed: int) -> SimulatedSite:
    """The patients of one simulated hospital; equal arguments give equal patients.

    The disease process (what z does to the outcome and to each feature) depends on the study and
    the seed alone, so it is the same at every hospital of a cohort.
    """
    random = np.random.default_rng(seed_of(seed, "site", effects.name))
    z_BL = random.normal(size=(effects.num_patients, _LATENT))
    z_BL[:, 0] += effects.severity_shift
    risk_BC = _risk(study, z_BL, seed)
    drawn_B = (risk_BC.cumsum(axis=1) < random.uniform(size=(len(z_BL), 1))).sum(axis=1)
    columns: dict[str, object] = {
        "patient_id": [f"{effects.name}-{i + 1:05d}" for i in range(len(z_BL))],
        study.outcome.column: [
            study.outcome.classes[min(c, risk_BC.shape[1] - 1)] for c in drawn_B
        ],
    }
    for name, granularity in study.granularities.items():
        if name in effects.lacks:
            continue
        missing_B = random.uniform(size=len(z_BL)) < effects.granularity_missing
        for column, feature in granularity.features.items():
            values = _feature(study, name, column, feature, z_BL, effects, random, seed)
            unmeasured_B = random.uniform(size=len(z_BL)) < effects.cell_missing
            columns[column] = values.mask(missing_B | unmeasured_B)
    return SimulatedSite(effects=effects, patients=pd.DataFrame(columns), risk_BC=risk_BC)


def write_cohort(
    study: Study, sites: Sequence[SiteEffects], folder: Path, *, seed: int
) -> list[Path]:
    """Writes one site folder per hospital below `folder`, and `truth.json` beside them.

    `truth.json` holds what is known of each hospital because it is simulated: its effects, its
    prevalences, and nothing of a single patient.
    """
    folders, truth = [], {}
    for effects in sites:
        site = simulate_site(study, effects, seed=seed)
        folders.append(
            write_site_folder(
                folder / effects.name,
                site=effects.name,
                dataset_id=f"simulated-{study.name}-{seed}-{effects.name}",
                patients=site.patients,
                source=f"Simulated patients of the study {study.name}, seed {seed}.",
            )
        )
        truth[effects.name] = {
            "num_patients": effects.num_patients,
            "severity_shift": effects.severity_shift,
            "measurement_shift": effects.measurement_shift,
            "lacks": list(effects.lacks),
            "mean_risk": site.risk_BC.mean(axis=0).tolist(),
        }
    write_atomically(folder / "truth.json", json.dumps(truth, indent=1).encode(), durable=False)
    return folders


def _risk(study: Study, z_BL: Floats, seed: int) -> Floats:
    """The probability of each class given z: severity counts most, with one interaction."""
    driver_B = 1.6 * z_BL[:, 0] + 0.6 * z_BL[:, 1] + 0.6 * z_BL[:, 2] * z_BL[:, 3]
    if study.num_classes == 2:
        positive_B = 1 / (1 + np.exp(-driver_B))
        return np.stack([1 - positive_B, positive_B], axis=1)
    # Ordered classes: the further along, the more severe.
    centres_C = np.linspace(-2.0, 2.0, study.num_classes)
    logits_BC = -((driver_B[:, None] - centres_C) ** 2)
    odds_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    risk_BC: Floats = odds_BC / odds_BC.sum(axis=1, keepdims=True)
    return risk_BC


def _feature(
    study: Study,
    granularity: str,
    column: str,
    feature: NumericFeature | CategoricalFeature,
    z_BL: Floats,
    effects: SiteEffects,
    random: np.random.Generator,
    seed: int,
) -> "pd.Series[float] | pd.Series[str]":
    process = np.random.default_rng(seed_of(seed, study.name, granularity, column))
    instrument = np.random.default_rng(seed_of(seed, effects.name, granularity, column))
    if isinstance(feature, NumericFeature):
        loading_L = process.normal(size=_LATENT) / _LATENT**0.5
        offset = effects.measurement_shift * instrument.normal()
        noise_B = random.normal(size=len(z_BL))
        spread_B = np.tanh((z_BL @ loading_L + offset + 0.7 * noise_B) / 2)
        low, high = feature.range
        return pd.Series(np.round((low + high) / 2 + (high - low) / 2 * spread_B, 3))
    loading_LC = process.normal(size=(_LATENT, len(feature.categories)))
    logits_BC = z_BL @ loading_LC + random.gumbel(size=(len(z_BL), len(feature.categories)))
    return pd.Series([feature.categories[c] for c in logits_BC.argmax(axis=1)], dtype=object)
