"""Arms: local only, pooled and federated training on the same patients, splits and seeds.

What joining brings a hospital is the difference between these arms on its own held-out patients.
Every arm trains the study's model with the same work: federated through the real engine; pooled on
all patients at one place (which real hospitals may not do) with the steps of all sites together;
local on one hospital's patients alone, with its share of the work. Beside them stands a pooled
logistic regression.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.config import load_site_config
from client.data import Cohort, read_cohort, usable_cohort
from client.evaluation import predict_at_site
from client.normalise import moments_of
from client.training import to_device, train
from common.arrays import Arrays
from common.errors import DataError
from common.models.patient_model import PatientModel, load_state, state_of
from common.normalisation import normalisation_of
from common.run_folder import site_folders
from common.seeds import seed_of
from common.study import Study
from common.study_file import override
from simulations.logistic import logistic_scores
from simulations.oracle import Oracle, exact_metrics
from simulations.simulate import Simulation, simulate

POOLED = "all, pooled"
MEAN = "mean of sites"
ARMS = ("local only", "federated", "pooled", "logistic regression, pooled")


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """Exact metrics of one arm, variant and seed on the held-out patients of one scope.

    Attributes:
        variant: "all granularities", or "without NAME".
        scope: a site's name, `POOLED`, or `MEAN`: the unweighted mean over sites.
    """

    arm: str
    variant: str
    seed: int
    scope: str
    metrics: Mapping[str, float | None]


def run_arms(
    variants: Mapping[str, Study],
    sites: Path,
    out: Path,
    *,
    seeds: Sequence[int],
    jobs: int,
    on_done: Callable[[str], None] = lambda _: None,
) -> list[ArmResult]:
    """The results of all arms, by variant and seed; federated runs keep their folders in `out`.

    Args:
        variants: the studies to compare, by name; they share the splits. The first one has all
            granularities; sites that have none of another's are left out of that variant.
        jobs: processes at once; results do not depend on it.
        on_done: told the name of each variant and seed that is finished.

    Raises:
        DataError: a site's data cannot be used for the first study; every reason is told.
    """
    whole = next(iter(variants.values()))
    left_out = {name: _lacking(study, whole, sites) for name, study in variants.items()}
    tasks = [(name, study, seed) for name, study in variants.items() for seed in seeds]
    results: list[ArmResult] = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        pending = {
            pool.submit(
                run_seed,
                study,
                variant=name,
                sites=sites,
                left_out=left_out[name],
                out=out / _slug(name) / f"seed-{seed}",
                seed=seed,
            ): f"{name}, seed {seed}"
            for name, study, seed in tasks
        }
        for future in as_completed(pending):
            results += future.result()
            on_done(pending[future])
    order = {(name, seed): i for i, (name, _, seed) in enumerate(tasks)}
    return sorted(results, key=lambda r: (order[r.variant, r.seed], ARMS.index(r.arm)))


def run_seed(
    study: Study, *, variant: str, sites: Path, left_out: frozenset[str], out: Path, seed: int
) -> list[ArmResult]:
    """The results of all arms for one seed."""
    torch.set_num_threads(1)
    study = override(study, training__seed=seed)
    cohorts = {
        folder.name: _cohort(folder, study)
        for folder in site_folders(sites)
        if folder.name not in left_out
    }
    pooled = concatenate([cohort.train for cohort in cohorts.values()])
    oracle = Oracle()
    run = Simulation(study=study, sites=sites, out=out, left_out=left_out)
    simulate(run, oracle=oracle)
    scores = {"federated": {name: oracle.latest(name, study.num_classes) for name in cohorts}}
    absent = [name for name, c in cohorts.items() if len(scores["federated"][name]) != len(c.test)]
    if absent:
        raise DataError(
            f"Expected every site to take part in every arm, found {', '.join(absent)} absent from "
            f"the federated one. {out / 'report.md'} says why. Mend or remove these folders."
        )
    central = train_centrally(_with_work_of(study, len(cohorts)), pooled, site="pooled")
    scores["pooled"] = {name: _scores(central, c, study) for name, c in cohorts.items()}
    scores["local only"] = {
        name: _scores(train_centrally(study, c.train, site=name), c, study)
        for name, c in cohorts.items()
    }
    scores["logistic regression, pooled"] = {
        name: logistic_scores(pooled, c.test, study.num_classes) for name, c in cohorts.items()
    }
    return [
        ArmResult(arm=arm, variant=variant, seed=seed, scope=scope, metrics=metrics)
        for arm, by_site in scores.items()
        for scope, metrics in _scopes(by_site, cohorts).items()
    ]


def train_centrally(study: Study, patients: Cohort, *, site: str) -> PatientModel:
    """The study's model, trained on these patients at one place, round after round.

    Normalised by these patients' own moments where the study's normalisation is federated.
    """
    model = PatientModel(study)
    if study.normalisation.method == "federated":
        named = state_of(model).unpack()
        named |= normalisation_of(study, moments_of(patients, study))
        load_state(model, Arrays.pack(named))
    on_device = to_device(patients, torch.device("cpu"))
    for round_number in range(study.training.rounds):
        train(model, on_device, study, seed=seed_of(study.training.seed, site, round_number))
    return model


def _with_work_of(study: Study, num_sites: int) -> Study:
    """The study with the local steps of all sites together, where it counts work in steps."""
    if study.training.local_steps is None:
        return study
    return override(study, training__local_steps=study.training.local_steps * num_sites)


def concatenate(cohorts: Sequence[Cohort]) -> Cohort:
    """The patients of several cohorts as one."""
    arrays = {
        name: {key: np.concatenate([c.arrays[name][key] for c in cohorts]) for key in granularity}
        for name, granularity in cohorts[0].arrays.items()
    }
    return Cohort(
        arrays=arrays,
        labels_B=np.concatenate([c.labels_B for c in cohorts]),
        is_test_B=np.concatenate([c.is_test_B for c in cohorts]),
    )


def _lacking(study: Study, whole: Study, sites: Path) -> frozenset[str]:
    """The sites that can take part in the `whole` study, and have no granularity of `study`."""
    cohorts = {folder.name: _cohort(folder, whole) for folder in site_folders(sites)}
    return frozenset(
        name
        for name, cohort in cohorts.items()
        if not any(cohort.arrays[g]["present_B"].any() for g in study.granularities)
    )


def _cohort(folder: Path, study: Study) -> Cohort:
    return usable_cohort(*read_cohort(load_site_config(folder), study))


def _scores(model: PatientModel, cohort: Cohort, study: Study) -> NDArray[np.float64]:
    trained_on, held_out = (to_device(c, torch.device("cpu")) for c in (cohort.train, cohort.test))
    return predict_at_site(model, held_out, study, trained_on=trained_on)


def _scopes(
    scores: Mapping[str, NDArray[np.float64]], cohorts: Mapping[str, Cohort]
) -> dict[str, dict[str, Any]]:
    """Metrics by site, of all patients together, and the mean over sites where defined."""
    labels = {name: cohort.test.labels_B for name, cohort in cohorts.items()}
    scopes = {name: exact_metrics(scores[name], labels[name]) for name in cohorts}
    pooled = exact_metrics(
        np.concatenate([scores[name] for name in cohorts]),
        np.concatenate([labels[name] for name in cohorts]),
    )
    mean: dict[str, float | None] = {}
    for metric in pooled:
        known = [m[metric] for m in scopes.values() if m[metric] is not None]
        mean[metric] = float(np.mean(known)) if known else None
    return scopes | {POOLED: pooled, MEAN: mean}


def _slug(variant: str) -> str:
    return variant.replace(" ", "-")
