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
from client.dp_training import train_privately
from client.evaluation import predict_at_site
from client.normalise import moments_of
from client.training import to_device, train
from common.arrays import Arrays
from common.errors import DataError, StudyError
from common.metrics.evaluation import PERSONAL, statistics_of
from common.metrics.statistics import Floats, Labels, Metrics, Statistics
from common.models.patient_model import PatientModel, load_state, state_of, trainable_manifest
from common.normalisation import normalisation_of
from common.privacy.mechanisms import NoiseSource
from common.privacy.plan import plan_of
from common.privacy.sections import PatientPrivacy
from common.run_folder import site_folders
from common.seeds import seed_of
from common.study import Study
from common.study_file import override
from common.tail_average import TailAverage
from simulations.logistic import logistic_predictions
from simulations.oracle import Evaluated, Oracle, mean_of_sites, pooled
from simulations.over_seeds import over_seeds
from simulations.simulate import Simulation, simulate

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


def train_centrally(study: Study, patients: Cohort, *, site: str) -> PatientModel:
    """The study's model, trained on these patients at one place, round after round.

    Normalised by these patients' own moments where the study's normalisation is federated.

    Raises:
        StudyError: the study has frozen encoders.
    """
    refuse_frozen(study)
    model = PatientModel(study)
    if study.normalisation.method == "federated":
        named = state_of(model).unpack()
        named |= normalisation_of(study, moments_of(patients, study))
        load_state(model, Arrays.pack(named))
    on_device = to_device(patients, torch.device("cpu"))

    def train_round(round_number: int) -> None:
        train(model, on_device, study, seed=seed_of(study.training.seed, site, round_number))

    return _after_rounds(model, study, train_round)


def train_privately_alone(study: Study, patients: Cohort, *, site: str) -> PatientModel:
    """The study's model, trained on one hospital's patients alone, with the study's privacy.

    A hospital that trains for itself owes its patients the same when it gives the model away. It
    is normalised by the public ranges, and repeatable, so that it protects nobody here.
    """
    model = PatientModel(study)
    plan = plan_of(study, cohort_size=max(len(patients), 1))
    on_device = to_device(patients, torch.device("cpu"))

    def train_round(round_number: int) -> None:
        seed = seed_of(study.training.seed, site, round_number)
        source = NoiseSource.seeded(seed_of(seed, "noise"))
        train_privately(model, on_device, study, plan, source=source, seed=seed)

    return _after_rounds(model, study, train_round)


def _after_rounds(
    model: PatientModel, study: Study, train_round: Callable[[int], None]
) -> PatientModel:
    """The model after all rounds, or the mean of the last ones, as the study would release it."""
    average = TailAverage.of(study, trainable_manifest(model))
    tail = average.start()
    for round_number in range(study.training.rounds):
        train_round(round_number)
        if average.takes(round_number + 1):
            tail = average.add(tail, state_of(model), round_number=round_number + 1)
    load_state(model, average.released(tail, state_of(model)))
    return model


def refuse_frozen(study: Study) -> None:
    """Nothing, if every encoder is trained.

    Raises:
        StudyError: some are frozen; they would stay as they were drawn, because the arms start
            from no other model.
    """
    if study.model.frozen:
        raise StudyError(
            "Expected a study that trains every encoder, found model.frozen = "
            f"{', '.join(study.model.frozen)} in '{study.name}'. Comparisons start from no other "
            "model: train these encoders here, or use `wardround simulate --init-from`."
        )


def train_pooled(study: Study, cohorts: Sequence[Cohort]) -> PatientModel:
    """The study's model, trained on all sites' patients at one place with the work of all sites."""
    train = concatenate([cohort.train for cohort in cohorts])
    return train_centrally(_with_work_of(study, len(cohorts)), train, site="pooled")


def _with_work_of(study: Study, num_sites: int) -> Study:
    """The study with the local steps of all sites together, where it counts work in steps."""
    if study.training.local_steps is None:
        return study
    return override(study, training__local_steps=study.training.local_steps * num_sites)


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
