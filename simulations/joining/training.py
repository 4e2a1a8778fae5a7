"""One piece of work: the federations and models of one seed, as metrics on resamples of patients.

A piece is the federation of all hospitals with what stands beside it (alone, personal, pooled), or
the federation without one hospital, or the study without one granularity. Every piece is a run of
the real engine. Its folder is thrown away: what remains are metrics on resamples.

Letters of shapes: R resamples.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from client.data import Cohort
from client.evaluation import predict, predict_at_site
from client.training import to_device
from common.errors import WardroundError
from common.metrics.evaluation import PERSONAL
from common.metrics.statistics import Floats
from common.model_file import load_model
from common.models.patient_model import PatientModel
from common.privacy.sections import PatientPrivacy
from common.study import Study
from common.study_file import without_granularity
from simulations.joining.resample import (
    People,
    drawn_at,
    num_resamples_of,
    resampled,
    too_few,
)
from simulations.oracle import Evaluated, Oracle
from simulations.read_sites import read_cohorts
from simulations.results.measure import primary_metric
from simulations.simulate import Simulation, simulate
from simulations.training_at_one_place import train_centrally, train_pooled, train_privately_alone

ALONE = "local only"
JOINED = "federated"
JOINED_PERSONAL = "federated, personal"
POOLED = "pooled"

Kind = Literal["all hospitals", "without hospital", "without granularity"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What is trained together, for one seed.

    Attributes:
        absent: the hospital or granularity that is left out; empty where none is.
    """

    seed: int
    kind: Kind = "all hospitals"
    absent: str = ""

    @property
    def name(self) -> str:
        """As progress and files call it.

        >>> Piece(seed=0, kind="without hospital", absent="va").name
        'seed 0, without hospital va'
        """
        return f"seed {self.seed}, {self.arm}"

    @property
    def arm(self) -> str:
        """What its federation is called."""
        return f"{self.kind} {self.absent}".strip()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The main metric of each arm at each hospital, on resamples of its held-out patients.

    Attributes:
        values: by arm, then by hospital, shape (R,); the first is of all patients.
        reasons: by arm, then by hospital, why there are none.
        people: by hospital.
    """

    values: Mapping[str, Mapping[str, Floats]]
    reasons: Mapping[str, Mapping[str, str]]
    people: Mapping[str, People]

    @property
    def has_failed(self) -> bool:
        """Whether an arm came to nothing by an error, which another try may not meet."""
        return any(r.startswith(_FAILED) for by in self.reasons.values() for r in by.values())


_FAILED = "its training ended with error"
_DIVERGED = "its training diverged"
_ABSENT = "the hospital took no part to the end"

# By hospital, what was predicted for its held-out patients; a text where nothing was.
Judged = Mapping[str, Evaluated | str]


def measure(piece: Piece, study: Study, sites: Path) -> Measured:
    """The metrics of every arm of the piece.

    Guarantees:
        - An arm that fails by an error of ours, diverges or leaves a hospital out has a reason at
          each hospital that it concerns, and all others are made.

    Args:
        study: with the seed of the piece.

    Raises:
        DataError: a hospital's data cannot be used; every reason is told.
    """
    torch.set_num_threads(1)
    # On shared cores, the waiting threads of small problems cost many times what they save.
    with threadpool_limits(limits=1):
        cohorts = read_cohorts(study, sites)
        if piece.kind == "without hospital":
            judged = {piece.arm: _tried(lambda: _without_hospital(piece, study, sites, cohorts))}
        elif piece.kind == "without granularity":
            judged = {piece.arm: _tried(lambda: _without_granularity(piece, study, sites, cohorts))}
        else:
            judged = _everybody(study, sites, cohorts)
        return _measured(judged, study, cohorts)


def people_of(cohort: Cohort, study: Study) -> People:
    """Who a hospital's numbers are of."""
    outcome, _ = primary_metric(study)
    labels = cohort.test.outcomes[outcome]
    return People(
        num_training=len(cohort.train),
        num_held_out=int(labels["known_B"].sum()),
        too_few=too_few(labels, study.primary),
    )


def _tried(make: Callable[[], Judged]) -> Judged | str:
    try:
        return make()
    except WardroundError as error:
        return f"{_FAILED} {error.code}"


def _everybody(study: Study, sites: Path, cohorts: Mapping[str, Cohort]) -> dict[str, Judged | str]:
    judged = {ALONE: _tried(lambda: _alone(study, cohorts))}
    oracle = Oracle()
    is_told = _tried(lambda: _federated(study, sites, oracle))
    judged[JOINED] = is_told if isinstance(is_told, str) else oracle.latest()
    is_private = isinstance(study.privacy, PatientPrivacy)
    if study.personal.has_model and not is_private:
        judged[JOINED_PERSONAL] = is_told if isinstance(is_told, str) else oracle.latest(PERSONAL)
    if not is_private:
        # Who may pool patients may see them; this arm would be no comparison under privacy.
        judged[POOLED] = _tried(lambda: _pooled(study, cohorts))
    return judged


def _alone(study: Study, cohorts: Mapping[str, Cohort]) -> Judged:
    train = train_privately_alone if isinstance(study.privacy, PatientPrivacy) else train_centrally
    return {
        site: _judge(train(study, cohort.train, site=site), cohort, study)
        for site, cohort in cohorts.items()
    }


def _pooled(study: Study, cohorts: Mapping[str, Cohort]) -> Judged:
    model = train_pooled(study, list(cohorts.values()))
    return {site: _judge(model, cohort, study) for site, cohort in cohorts.items()}


def _federated(
    study: Study, sites: Path, oracle: Oracle, left_out: frozenset[str] = frozenset()
) -> Judged:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        simulate(Simulation(study=study, sites=sites, out=out, left_out=left_out), oracle=oracle)
    return oracle.latest()


def _without_hospital(
    piece: Piece, study: Study, sites: Path, cohorts: Mapping[str, Cohort]
) -> Judged:
    """The others' model at each of them; and at the absent hospital as it is, nothing fitted."""
    absent = piece.absent
    num_left, fewest = len(cohorts) - 1, study.strategy.min_sites
    if num_left < fewest:
        why = f"without it {num_left} would be left, and the study takes {fewest} (min_sites)"
        return dict.fromkeys(cohorts, why)
    oracle = Oracle()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        left_out = frozenset({absent})
        simulate(Simulation(study=study, sites=sites, out=out, left_out=left_out), oracle=oracle)
        if study.personal.local_blocks:
            return {**oracle.latest(), absent: "blocks of the model stay at the hospitals"}
        model = load_model(study, out)
    test = cohorts[absent].test
    # As `wardround predict` does for a hospital that took no part: without an intercept of its own.
    predictions = predict(model, to_device(test, torch.device("cpu")))
    return {**oracle.latest(), absent: (predictions, test.outcomes)}


def _without_granularity(
    piece: Piece, study: Study, sites: Path, cohorts: Mapping[str, Cohort]
) -> Judged:
    """The study without it, among the hospitals that have anything else."""
    rest = [name for name in study.granularities if name != piece.absent]
    lacking = frozenset(
        site
        for site, cohort in cohorts.items()
        if not any(cohort.arrays[g]["present_B"].any() for g in rest)
    )
    smaller = without_granularity(study, piece.absent)
    judged = _federated(smaller, sites, Oracle(), lacking)
    return {**judged, **dict.fromkeys(lacking, f"it has nothing but {piece.absent}")}


def _judge(model: PatientModel, cohort: Cohort, study: Study) -> Evaluated:
    train, test = (to_device(c, torch.device("cpu")) for c in (cohort.train, cohort.test))
    return predict_at_site(model, test, study, trained_on=train), cohort.test.outcomes


def _measured(
    judged: Mapping[str, Judged | str], study: Study, cohorts: Mapping[str, Cohort]
) -> Measured:
    people = {site: people_of(cohort, study) for site, cohort in cohorts.items()}
    num_resamples = num_resamples_of(len(people))
    values: dict[str, dict[str, Floats]] = {arm: {} for arm in judged}
    reasons: dict[str, dict[str, str]] = {arm: {} for arm in judged}
    for arm, by_site in judged.items():
        for site, person in people.items():
            found = by_site if isinstance(by_site, str) else by_site.get(site, _ABSENT)
            if isinstance(found, str):
                reasons[arm][site] = found
                continue
            drawn_RB = drawn_at(site, person.num_held_out, num_resamples=num_resamples)
            values_R = resampled(*found, study, drawn_RB)
            values[arm][site] = values_R
            if np.isnan(values_R[0]):
                reasons[arm][site] = person.too_few or _DIVERGED
    return Measured(values=values, reasons=reasons, people=people)
