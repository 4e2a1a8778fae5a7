"""One run of an experiment: an ordinary simulation with its own folder and ledger, and its numbers.

What is kept of a run is what its hospitals' ledgers and its oracle say. A run that fails with an
error of ours, or whose predictions are not finite, is a result like any other: a failed one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from client.config import load_site_config
from client.ledger.approvals import groups_of
from client.ledger.verification import chain_of, readable_books
from common.errors import WardroundError
from common.privacy.events import Charge, Gaussian, Part, charge_from_json, charge_to_json
from common.privacy.plan import split_of
from common.privacy.sections import PatientPrivacy
from common.run_folder import site_folders
from common.study import Study
from common.study_file import override
from simulations.arms import POOLED, run_seed, scopes_of
from simulations.experiments.pieces import Made
from simulations.oracle import Oracle
from simulations.results.measure import primary_metric
from simulations.simulate import Simulation, simulate

FEDERATED = "federated"
DIVERGED = "diverged"
_ERRORS = ("mae", "rmse", "loss", "calibration_error")


def is_better_higher(metric: str) -> bool:
    """Whether more of a metric is better.

    >>> is_better_higher("auroc"), is_better_higher("mae")
    (True, False)
    """
    return metric not in _ERRORS


def validate(study: Study, fold: int, seed: int, sites: Path, out: Path) -> Made:
    """How the federated model does on this fold of the training patients; the others train it.

    Guarantees:
        - Held-out patients are left out altogether: nothing here depends on them.

    Returns:
        "value" (of the main metric over all patients of the fold; None where the run failed),
        "failed", and "spent" as `measure` tells it.
    """
    torch.set_num_threads(1)
    study = override(study, training__seed=seed, evaluation__validation_fold=fold)
    outcome, metric = primary_metric(study)
    oracle = Oracle()
    try:
        simulate(Simulation(study=study, sites=sites, out=out), oracle=oracle)
    except WardroundError as error:
        return {"value": None, "failed": error.code, "spent": {}}
    value = next(
        metrics[metric]
        for name, scope, metrics in scopes_of(dict(oracle.latest()), study)
        if (name, scope) == (outcome, POOLED)
    )
    return {
        "value": value,
        "failed": "" if value is not None else DIVERGED,
        "spent": _spent(study, sites, out),
    }


def measure(study: Study, seed: int, sites: Path, out: Path) -> Made:
    """All arms of one seed on the held-out patients, and what the federated run has cost.

    Returns:
        "results" (of `simulations.arms.ArmResult`), "failed", and "spent": of each hospital
        "epsilon" (by its ledger), "cohort_size", "noise_multiplier", "sample_rate", "num_steps",
        "noise" (kinds of source), "charges"; nothing without privacy.
    """
    try:
        results = run_seed(study, variant="", sites=sites, left_out=frozenset(), out=out, seed=seed)
    except WardroundError as error:
        return {"results": [], "failed": error.code, "spent": {}}
    return {
        "results": [asdict(result) for result in results],
        "failed": "",
        "spent": _spent(override(study, training__seed=seed), sites, out),
    }


def is_diverged(metrics: Mapping[str, float | None]) -> bool:
    """Whether there were patients, and of none of them a finite prediction."""
    known = [name for name, value in metrics.items() if value is not None]
    return known == ["num_patients"] and bool(metrics["num_patients"])


def charges_of(spent: Mapping[str, Any]) -> dict[str, list[Charge]]:
    """The charges of a run, by hospital."""
    return {site: [charge_from_json(c) for c in s["charges"]] for site, s in spent.items()}


def most_spent(spent: Mapping[str, Any]) -> float | None:
    """The epsilon of the hospital whose patients paid most; None without privacy."""
    return max((s["epsilon"] for s in spent.values()), default=None)


def most_noise(spent: Mapping[str, Any]) -> float | None:
    """The noise multiplier of the hospital that added most, relative to the clip."""
    return max((s["noise_multiplier"] for s in spent.values()), default=None)


def _spent(study: Study, sites: Path, out: Path) -> dict[str, Any]:
    if not isinstance(study.privacy, PatientPrivacy):
        return {}
    told = json.loads((out / "results.json").read_text(encoding="utf-8"))["privacy"]["sites"]
    return {
        config.name: _of_site(
            study, told[config.name]["epsilon"], out, config.name, config.dataset_id
        )
        for config in map(load_site_config, site_folders(sites))
        if told.get(config.name, {}).get("epsilon") is not None
    }


def _of_site(study: Study, epsilon: float, out: Path, site: str, dataset_id: str) -> dict[str, Any]:
    """What a simulated hospital's ledger says of a run.

    Its charges stand under the study's split alone: all runs of an experiment are on the same data,
    which the key of each run's own ledger would make look different.
    """
    books, _ = readable_books(chain_of(out / "sites" / site, dataset_id))
    split = split_of(study.evaluation)
    groups = groups_of(replace(charge, split=split) for charge in books.charges())
    noise, rate, num_steps = _steps(groups)
    return {
        "epsilon": epsilon,
        "cohort_size": books.cohort_size,
        "noise_multiplier": noise,
        "sample_rate": rate,
        "num_steps": num_steps,
        "noise": sorted({r.source_kind for r in books.reservations}),
        "charges": [charge_to_json(_times(charge, n)) for charge, n in groups.items()],
    }


def _times(charge: Charge, count: int) -> Charge:
    if not isinstance(charge.event, Gaussian):
        return charge
    return replace(charge, event=replace(charge.event, count=count))


def _steps(groups: Mapping[Charge, int]) -> tuple[float, float, int]:
    """Noise multiplier, sample rate and number of the steps of training.

    They are what was done most often to training patients: moments are released once, before.
    """
    known = [
        (charge.event.noise_multiplier, charge.event.sample_rate, count)
        for charge, count in groups.items()
        if charge.part is Part.TRAIN and isinstance(charge.event, Gaussian)
    ]
    return max(reversed(known), key=lambda kind: kind[2])
