"""Federated averaging as a plain loop in one process: what the engine is measured against.

The same patients, the same local training and the same arithmetic, but no messages, no checks,
no journal and no checkpoints. It is also another implementation of the whole run: its model
must equal the engine's bit for bit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client.config import load_site_config
from client.data import Cohort, read_cohort
from client.evaluation import evaluate, outcomes_of, predict_at_site
from client.normalise import moments_of
from client.policy import Policy
from client.training import Patients, to_device, train
from client.withholding import released_counts, released_moments
from common.arrays import Arrays
from common.errors import StudyError
from common.metrics.evaluation import statistics_of
from common.metrics.statistics import EvaluationSums
from common.models.patient_model import PatientModel, load_state, state_of, trainable_manifest
from common.normalisation import add_moments, normalisation_of
from common.run_folder import site_folders
from common.seeds import seed_of
from common.study import Study
from common.tail_average import TailAverage
from server.aggregation import SiteUpdate, aggregate, combine_of
from server.optimizer import OptimizerState, step


@dataclass(frozen=True, kw_only=True)
class PlainSite:
    """One hospital's patients in memory; `counts` are those that its policy lets leave."""

    name: str
    policy: Policy
    counts: dict[str, int]
    cohort: Cohort
    train: Patients
    test: Patients


@dataclass(frozen=True, kw_only=True)
class PlainRun:
    """What came of a plain loop.

    Attributes:
        model: parameters and normalisation after the last round.
        evaluations: the pooled sums of the models after 0…R rounds, by outcome.
        seconds: of each round, its evaluation included; the last evaluation is not.
    """

    model: Arrays
    evaluations: list[dict[str, EvaluationSums]]
    seconds: list[float]


def read_sites(
    study: Study, sites: Path, *, left_out: frozenset[str] = frozenset()
) -> list[PlainSite]:
    """The hospitals below `sites`, by name, on the CPU. Their data must be without errors.

    Args:
        left_out: names of sites that are not read.
    """
    plain = []
    for folder in site_folders(sites):
        config = load_site_config(folder)
        if config.name in left_out:
            continue
        cohort, findings = read_cohort(config, study)
        if cohort is None:
            raise ValueError(f"expected usable data in {folder}, found {findings}")
        cpu = torch.device("cpu")
        plain.append(
            PlainSite(
                name=config.name,
                policy=config.policy,
                counts=released_counts(cohort.train.counts(), config.policy),
                cohort=cohort,
                train=to_device(cohort.train, cpu),
                test=to_device(cohort.test, cpu),
            )
        )
    return sorted(plain, key=lambda site: site.name)


def plain_loop(
    study: Study,
    sites: list[PlainSite],
    *,
    build: Callable[[Study], PatientModel] = PatientModel,
    clock: Callable[[], float] = time.perf_counter,
) -> PlainRun:
    """Federated averaging over `sites`, one after the other, on one thread.

    A hospital's personal model leaves the shared one alone, and is not trained here.

    Args:
        build: makes the model of the study.

    Raises:
        StudyError: the study has `personal.local_blocks`; the loop keeps nothing at a site.
    """
    if study.personal.local_blocks:
        raise StudyError(
            "Expected a study without personal.local_blocks for the plain loop, found "
            f"{len(study.personal.local_blocks)} patterns in '{study.name}'. Simulate it instead."
        )
    torch.set_num_threads(1)
    model = _normalised_model(build(study), study, sites)
    parameters = _trained(model)
    plan = study.strategy
    optimizer = OptimizerState.start(plan, sum(p.numel() for p in parameters))
    combine = combine_of(plan.combine, plan.trimmed_fraction)
    average = TailAverage.of(study, trainable_manifest(model))
    tail = average.start()
    current = torch.nn.utils.parameters_to_vector(parameters).detach()
    evaluations, seconds = [], []
    for round_number in range(study.training.rounds):
        started = clock()
        total, updates = _visited(model, current, sites, study, round_number)
        combined = aggregate(
            updates,
            combine,
            equal_weights=plan.weights == "equal",
            min_sites=plan.min_sites_per_block,
        )
        move_P, optimizer = step(plan, optimizer, combined.update.flat, combined.trained_P)
        moved = current.numpy().astype(np.float64) + move_P
        current = torch.from_numpy(moved.astype(np.float32))
        if average.takes(round_number + 1):
            _set(parameters, current)
            tail = average.add(tail, state_of(model), round_number=round_number + 1)
        evaluations.append(total)
        seconds.append(clock() - started)
    _set(parameters, current)
    load_state(model, average.released(tail, state_of(model)))
    total = _nobody(study)
    for site in sites:
        total = _add(total, _evaluated(model, site, study))
    evaluations.append(total)
    return PlainRun(model=state_of(model), evaluations=evaluations, seconds=seconds)


def _visited(
    model: PatientModel,
    current: torch.Tensor,
    sites: list[PlainSite],
    study: Study,
    round_number: int,
) -> tuple[dict[str, EvaluationSums], list[SiteUpdate]]:
    """One round at every site: sums of the `current` model, and what training made of it."""
    parameters, manifest = _trained(model), trainable_manifest(model)
    total, updates = _nobody(study), []
    for site in sites:
        _set(parameters, current)
        total = _add(total, _evaluated(model, site, study))
        seed = seed_of(study.training.seed, site.name, round_number)
        train(model, site.train, study, seed=seed)
        trained = torch.nn.utils.parameters_to_vector(parameters).detach()
        update = Arrays(manifest=manifest, flat=(trained - current).numpy())
        updates.append(SiteUpdate(site=site.name, update=update, counts=site.counts))
    return total, updates


def _trained(model: PatientModel) -> list[torch.nn.Parameter]:
    """As `trainable_manifest`: what is frozen is no part of an update."""
    return [p for p in model.parameters() if p.requires_grad]


def _normalised_model(model: PatientModel, study: Study, sites: list[PlainSite]) -> PatientModel:
    if study.normalisation.method == "federated":
        moments = add_moments(_released(site, study) for site in sites)
        buffers = dict(model.named_buffers())
        for name, value in normalisation_of(study, moments).items():
            buffers[name].copy_(torch.from_numpy(value))
    return model


def _released(site: PlainSite, study: Study) -> Arrays:
    """The hospital's moments as its policy lets them leave."""
    train = site.cohort.train
    return released_moments(moments_of(train, study), train.counts(), site.policy)


def _evaluated(model: PatientModel, site: PlainSite, study: Study) -> dict[str, EvaluationSums]:
    predictions = predict_at_site(model, site.test, study, trained_on=site.train)
    return evaluate(predictions, outcomes_of(site.test), study)


def _nobody(study: Study) -> dict[str, EvaluationSums]:
    return {name: statistics.zero() for name, statistics in statistics_of(study).items()}


def _add(
    one: dict[str, EvaluationSums], other: dict[str, EvaluationSums]
) -> dict[str, EvaluationSums]:
    return {name: sums + other[name] for name, sums in one.items()}


def _set(parameters: list[torch.nn.Parameter], values_P: torch.Tensor) -> None:
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(values_P.clone(), parameters)
