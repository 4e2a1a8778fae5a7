"""Arms: local only, pooled and federated training on the same patients, splits and seeds.

What joining brings a hospital is the difference between these arms on its own held-out patients.
Every arm trains the study's model with the same work: federated through the real engine; pooled on
all patients at one place (which real hospitals may not do) with the steps of all sites together;
local on one hospital's patients alone, with its share of the work. Beside them stands a pooled
logistic regression. Of a private study there are two arms, both private: federated and local only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from client.config import load_site_config
from client.data import Cohort, concatenate, read_cohort, usable_cohort
from client.evaluation import predict_at_site
from client.training import to_device
from common.errors import DataError
from common.metrics.evaluation import PERSONAL, statistics_of
from common.metrics.statistics import Floats, Labels, Metrics, Statistics
from common.models.patient_model import PatientModel
from common.privacy.sections import PatientPrivacy
from common.run_folder import site_folders
from common.study import Study
from common.study_file import override
from simulations.logistic import logistic_predictions
from simulations.oracle import Evaluated, Oracle, mean_of_sites, pooled
from simulations.over_seeds import over_seeds
from simulations.simulate import Simulation, simulate
from simulations.training_at_one_place import (
    refuse_frozen,
    train_centrally,
    train_pooled,
    train_privately_alone,
)

POOLED = "all, pooled"
MEAN = "mean of sites"
ARMS = (
    "local only",
    "federated",
    "federated, personal",
    "pooled",
    "logistic regression, pooled",
)


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """Exact metrics of one arm, variant, seed and outcome on the held-out patients of one scope.

    Attributes:
        variant: "all granularities", or "without NAME".
        scope: a site's name, `POOLED`, or `MEAN`: the unweighted mean over sites.
    """

    arm: str
    variant: str
    seed: int
    outcome: str
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
        StudyError: a study has frozen encoders.
    """
    for study in variants.values():
        refuse_frozen(study)
    whole = next(iter(variants.values()))
    left_out = {name: _lacking(study, whole, sites) for name, study in variants.items()}
    work = {
        f"{name}, seed {seed}": partial(
            run_seed,
            study,
            variant=name,
            sites=sites,
            left_out=left_out[name],
            out=out / _slug(name) / f"seed-{seed}",
            seed=seed,
        )
        for name, study in variants.items()
        for seed in seeds
    }
    parts = over_seeds(work, jobs=jobs, on_done=on_done).values()
    return [result for part in parts for result in sorted(part, key=lambda r: ARMS.index(r.arm))]


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
    run = Simulation(study=study, sites=sites, out=out, left_out=left_out)
    evaluated = _federated(run, cohorts)
    is_private = isinstance(study.privacy, PatientPrivacy)
    train_alone = train_privately_alone if is_private else train_centrally
    evaluated["local only"] = {
        name: _evaluate(train_alone(study, c.train, site=name), c, study)
        for name, c in cohorts.items()
    }
    if not is_private:
        # Who may pool patients may see them; these arms would be no comparison under privacy.
        central = train_pooled(study, list(cohorts.values()))
        evaluated["pooled"] = {name: _evaluate(central, c, study) for name, c in cohorts.items()}
        train = concatenate([cohort.train for cohort in cohorts.values()])
        evaluated["logistic regression, pooled"] = {
            name: (logistic_predictions(train, c.test, study), c.test.outcomes)
            for name, c in cohorts.items()
        }
    return [
        ArmResult(
            arm=arm, variant=variant, seed=seed, outcome=outcome, scope=scope, metrics=metrics
        )
        for arm, by_site in evaluated.items()
        for outcome, scope, metrics in scopes_of(by_site, study)
    ]


def _federated(run: Simulation, cohorts: Mapping[str, Cohort]) -> dict[str, dict[str, Evaluated]]:
    """The federated arms, by site: the shared model and, where they have one, the sites' own.

    Raises:
        DataError: a site with held-out patients took no part.
    """
    oracle = Oracle()
    simulate(run, oracle=oracle)
    shared = dict(oracle.latest())
    absent = [name for name, cohort in cohorts.items() if len(cohort.test) and name not in shared]
    if absent:
        raise DataError(
            f"Expected every site to take part in every arm, found {', '.join(absent)} absent from "
            f"the federated one. {run.out / 'report.md'} says why. Mend or remove these folders."
        )
    if not run.study.personal.has_model:
        return {"federated": shared}
    return {"federated": shared, "federated, personal": dict(oracle.latest(PERSONAL))}


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


def _evaluate(model: PatientModel, cohort: Cohort, study: Study) -> Evaluated:
    trained_on, held_out = (to_device(c, torch.device("cpu")) for c in (cohort.train, cohort.test))
    predictions = predict_at_site(model, held_out, study, trained_on=trained_on)
    return predictions, cohort.test.outcomes


def scopes_of(
    evaluated: Mapping[str, Evaluated], study: Study
) -> Iterator[tuple[str, str, Metrics]]:
    """Outcome, scope and metrics: of each site, of all patients together, and the mean of sites.

    An arm that does not predict an outcome has no metrics of it; one whose training diverged has
    undefined ones, in every scope that it touches.
    """
    for outcome, statistics in statistics_of(study).items():
        parts = {
            name: (predictions[outcome], outcomes[outcome])
            for name, (predictions, outcomes) in evaluated.items()
            if outcome in predictions
        }
        if not parts:
            continue
        by_site = {name: _metrics(statistics, *part) for name, part in parts.items()}
        for name, metrics in by_site.items():
            yield outcome, name, metrics
        both = [({outcome: p}, {outcome: o}) for p, o in parts.values()]
        predictions, outcomes = pooled(both)
        whole = _metrics(statistics, predictions[outcome], outcomes[outcome])
        yield outcome, POOLED, whole
        yield outcome, MEAN, mean_of_sites(list(by_site.values()))


def _slug(variant: str) -> str:
    return variant.replace(" ", "-")


def _metrics(statistics: Statistics, predictions_BP: Floats, labels: Labels) -> Metrics:
    """The exact metrics; undefined ones of predictions that are not finite."""
    if np.isfinite(predictions_BP).all():
        return statistics.exact_metrics(predictions_BP, labels)
    return statistics.undefined() | {"num_patients": float(labels["known_B"].sum())}
