"""Simulated hospitals: patients of a known disease process, with known site effects.

Every patient has a latent state z; the outcomes and every granularity of the study are drawn from
it, so what each granularity is worth is known. Sites differ in size, prevalence, measurement and in
what they lack. A study file is all that is needed: hospitals can be simulated for a study before
anybody's data are asked for.

What is known of a single patient stays in memory: no file of a hospital may hold it.

Letters of shapes: B patients, C classes, K summaries, L latent dimensions.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.files import write_atomically
from common.granularities import (
    AnyGranularity,
    ImagesGranularity,
    MarkersGranularity,
    NotesGranularity,
    SequencesGranularity,
    SeriesGranularity,
    TabularGranularity,
)
from common.outcomes import ClassOutcome
from common.seeds import seed_of
from common.study import Study
from simulations.disease import DiseaseProcess, Floats
from simulations.ground_truth import NUM_DRAWS, best_expectation, best_scores, score_table
from simulations.outcome_draws import draw_outcome, draw_treatment, risk_of
from simulations.processes import process_of
from simulations.rendering.images import render_images
from simulations.rendering.markers import render_markers
from simulations.rendering.notes import render_notes
from simulations.rendering.scene import Rendering, Scene, SiteEffects
from simulations.rendering.sequences import render_sequences
from simulations.rendering.series import render_series
from simulations.rendering.tables import render_table
from simulations.site_folder import write_site_folder

__all__ = ["SimulatedSite", "SiteEffects", "simulate_site", "varied_sites", "write_cohort"]


@dataclass(frozen=True, kw_only=True)
class SimulatedSite:
    """A simulated hospital's data, and what is known because it is simulated.

    Attributes:
        patients: one row per patient: outcomes, and the features of tabular granularities.
        renderings: by granularity, what stands in files of their own.
        drivers: by outcome, the number through which it depends on z.
        summaries: by granularity, what it shows of each patient, seen or not (B, K).
        present: by granularity, which patients have it.
    """

    study: Study
    effects: SiteEffects
    process: DiseaseProcess
    patients: pd.DataFrame
    drivers: Mapping[str, Floats]
    summaries: Mapping[str, Floats]
    present: Mapping[str, NDArray[np.bool_]]
    renderings: Mapping[str, Rendering]

    @property
    def risk_BC(self) -> Floats:  # noqa: N802 - a shape suffix
        """The true probability of each class of the first outcome given z, of each patient.

        It has no columns where the first outcome has no classes.
        """
        name, outcome = next(iter(self.study.outcomes.items()))
        if not isinstance(outcome, ClassOutcome):
            return np.empty((len(self.patients), 0))
        return risk_of(outcome, self.drivers[name])

    @property
    def effect_B(self) -> Floats | None:  # noqa: N802 - a shape suffix
        """The true effect of the treatment on each patient; None where the study is of none."""
        treatment = self.process.treatment
        return None if treatment is None else self.drivers[treatment.target]

    def best_predictions(
        self, outcome: str, granularities: Collection[str] | None = None
    ) -> Floats:
        """What the best model would predict for each patient from what the patient has.

        Args:
            granularities: those that the model may see; all by default.

        Returns:
            The risk (B, C) of classes; the expected value (B, 1) of a quantity, on its scale (of a
            treatment's target: the expected effect); the expected driver (B, 1) of survival.
        """
        allowed = set(self.summaries if granularities is None else granularities)
        treatment = self.process.treatment
        is_effect = treatment is not None and treatment.target == outcome
        return best_expectation(
            self.process,
            None if is_effect else self.study.outcomes[outcome],
            self.process.drivers[outcome],
            {name: u_BK for name, u_BK in self.summaries.items() if name in allowed},
            self.present,
            self.process.prior(self.effects.severity_shift),
        )


def varied_sites(study: Study, *, num_sites: int, seed: int) -> list[SiteEffects]:
    """Hospitals that differ in everything: sizes from 150 to 600 patients, case mix, instruments.

    Of two or three granularities, every third hospital lacks one, in turn. Of G granularities, four
    or more, the first of G hospitals lacks none, and each other lacks one, in turn: all have the
    first, and every other is lacking somewhere.
    """
    random = np.random.default_rng(seed_of(seed, "sites"))
    sites = []
    for i in range(num_sites):
        sites.append(
            SiteEffects(
                name=f"hospital-{i + 1:0{len(str(num_sites))}d}",
                num_patients=round(150 * 4 ** random.uniform()),
                severity_shift=float(random.normal(0.0, 0.5)),
                measurement_shift=0.2,
                scanner_shift=0.15,
                batch_shift=0.2,
                note_style=0.5,
                measurement_rate=float(np.round(2 ** random.uniform(-1.0, 1.0), 3)),
                lacks=_lacking(list(study.granularities), i),
            )
        )
    return sites


def _lacking(names: Sequence[str], i: int) -> tuple[str, ...]:
    if len(names) > 3:
        return (names[i % len(names)],) if i % len(names) else ()
    return (names[(i // 3) % len(names)],) if len(names) > 1 and i % 3 == 2 else ()


def simulate_site(study: Study, effects: SiteEffects, *, seed: int) -> SimulatedSite:
    """The patients of one simulated hospital; equal arguments give equal patients.

    The disease process (what z does to the outcomes, and how granularities show it) depends on the
    study and the seed alone, so it is the same at every hospital of a cohort.
    """
    process = process_of(study, seed)
    random = np.random.default_rng(seed_of(seed, "site", effects.name))
    prior_L = process.prior(effects.severity_shift)
    z_BL = prior_L + random.normal(size=(effects.num_patients, process.num_latent))
    ids = [f"{effects.name}-{i + 1:05d}" for i in range(len(z_BL))]
    drivers = {name: driver.values(z_BL, prior_L) for name, driver in process.drivers.items()}
    columns = _outcome_columns(study, process, drivers, z_BL, effects.name, seed)
    tables = [pd.DataFrame({"patient_id": ids, **columns})]
    summaries, present, renderings = {}, {}, {}
    for name, granularity in study.granularities.items():
        own = np.random.default_rng(seed_of(seed, "summaries", effects.name, name))
        summaries[name] = process.views[name].draw(z_BL, own)
        shown_BK = process.views[name].standardise(summaries[name])
        has_B = own.uniform(size=len(z_BL)) >= effects.granularity_missing
        present[name] = np.zeros(len(z_BL), dtype=np.bool_)
        if name in effects.lacks or not has_B.any():
            continue
        scene = Scene(
            study=study.name,
            name=name,
            seed=seed,
            effects=effects,
            ids=[i for i, has in zip(ids, has_B, strict=True) if has],
            shown_BK=shown_BK[has_B],
        )
        rendering = _render(granularity, scene)
        present[name][has_B] = rendering.observed_B
        if rendering.columns is None:
            renderings[name] = rendering
        else:
            here = rendering.columns.set_index(np.flatnonzero(has_B))
            tables.append(here.reindex(range(len(ids))))
    return SimulatedSite(
        study=study,
        effects=effects,
        process=process,
        patients=pd.concat(tables, axis=1),
        drivers=drivers,
        summaries=summaries,
        present=present,
        renderings=renderings,
    )


def _outcome_columns(
    study: Study,
    process: DiseaseProcess,
    drivers: Mapping[str, Floats],
    z_BL: Floats,
    site: str,
    seed: int,
) -> dict[str, object]:
    columns: dict[str, object] = {}
    for name, outcome in study.outcomes.items():
        random = np.random.default_rng(seed_of(seed, "outcome", site, name))
        if process.treatment is not None and process.treatment.target == name:
            given, target_B = draw_treatment(process.treatment, z_BL, random)
            columns |= {outcome.columns[0]: target_B, **given}
        else:
            columns |= draw_outcome(outcome, drivers[name], random)
    return columns


def _render(granularity: AnyGranularity, scene: Scene) -> Rendering:
    match granularity:
        case TabularGranularity():
            return render_table(granularity, scene)
        case SeriesGranularity():
            return render_series(granularity, scene)
        case ImagesGranularity():
            return render_images(granularity, scene)
        case MarkersGranularity():
            return render_markers(granularity, scene)
        case NotesGranularity():
            return render_notes(granularity, scene)
        case SequencesGranularity():
            return render_sequences(granularity, scene)


def write_cohort(
    study: Study, sites: Sequence[SiteEffects], folder: Path, *, seed: int
) -> list[Path]:
    """Writes one site folder per hospital below `folder`, and `truth.json` beside them.

    `truth.json` holds what is known of each hospital because it is simulated, the best score that
    any model could reach from each subset of granularities, and nothing of a single patient.
    """
    folders, hospitals = [], {}
    for effects in sites:
        site = simulate_site(study, effects, seed=seed)
        folders.append(_write_site(site, folder / effects.name, seed=seed))
        hospitals[effects.name] = _truth(site)
    process = process_of(study, seed)
    truth = {
        "study": study.name,
        "seed": seed,
        "best_scores": {
            "of": "a hospital without a severity shift, whose patients have these granularities",
            "num_draws": NUM_DRAWS,
            "outcomes": score_table(best_scores(study, process, seed=seed)),
        },
        "hospitals": hospitals,
    }
    write_atomically(folder / "truth.json", json.dumps(truth, indent=1).encode(), durable=False)
    return folders


def _write_site(site: SimulatedSite, folder: Path, *, seed: int) -> Path:
    name, study = site.effects.name, site.study.name
    for granularity in site.study.granularities:
        # Of a cohort that was written here before: this hospital may now lack it.
        for suffix in (".csv", ".fasta"):
            (folder / f"{granularity}{suffix}").unlink(missing_ok=True)
    for granularity, rendering in site.renderings.items():
        if rendering.text is not None:
            path = folder / f"{granularity}.fasta"
            write_atomically(path, rendering.text.encode(), durable=False)
    return write_site_folder(
        folder,
        site=name,
        dataset_id=f"simulated-{study}-{seed}-{name}",
        patients=site.patients,
        tables={g: r.table for g, r in site.renderings.items() if r.table is not None},
        images={g: r.images for g, r in site.renderings.items() if r.images},
        source=f"Simulated patients of the study {study}, seed {seed}.",
    )


def _truth(site: SimulatedSite) -> dict[str, object]:
    """Every setting of the hospital, so that it can be simulated again, and means."""
    truth: dict[str, object] = {k: v for k, v in asdict(site.effects).items() if k != "name"}
    truth["mean_risk"] = site.risk_BC.mean(axis=0).tolist()
    if site.effect_B is not None:
        truth["mean_effect"] = float(site.effect_B.mean())
    return truth
