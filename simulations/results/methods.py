"""Methods: what predicts for the held-out patients of one split, trained on the other patients.

Federated training is the plain loop, whose model equals the engine's bit for bit; a study with
something personal goes through the engine itself. Every method is given the same patients. This
module must never choose anything by looking at held-out outcomes.

Letters of shapes: B patients, P predicted numbers of a patient.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from client.evaluation import Predictions, predict_at_site
from client.training import to_device
from common.metrics.evaluation import PERSONAL
from common.models.patient_model import PatientModel, load_state
from common.outcomes import RegressionOutcome
from common.study import Study
from common.study_file import without_granularity
from simulations.bench.plain_loop import PlainSite, plain_loop
from simulations.datasets.anchors import held_out_scores, read_folders, with_apache
from simulations.logistic import logistic_predictions
from simulations.oracle import Oracle
from simulations.simulate import Simulation, simulate
from simulations.training_at_one_place import train_centrally, train_pooled

FEDERATED = "federated"
PERSONAL_MODELS = "federated, personal"
POOLED_TRAINING = "pooled training"
LOCAL_ONLY = "local only"
BOOSTING = "gradient boosting, tabular"
LOGISTIC = "logistic regression, tabular"
LINEAR = "linear model, pooled"
APACHE = "APACHE IVa"
MEDIAN = "median of training patients"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """One split: the study with its seed, and the hospitals' patients in memory.

    Attributes:
        folder: of the site folders, whose column `split` marks the held-out patients.
        source: of the data set, for anchors that it brings along.
        ids: by site, the ids of the held-out patients in the order of the cohort.
    """

    study: Study
    folder: Path
    source: Path
    hospitals: Sequence[PlainSite]
    ids: Mapping[str, Sequence[str]]


# By arm, then by site.
Predicted = Mapping[str, Mapping[str, Predictions]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One or more arms that are made together.

    Attributes:
        is_single: trained on one granularity.
        is_partial: may leave patients without a prediction (NaN).
    """

    name: str
    run: Callable[[Opened], Predicted]
    is_single: bool = False
    is_partial: bool = False


def federated(opened: Opened) -> Predicted:
    """The study as it stands, federated; and the sites' own models where the study has them."""
    study = opened.study
    if study.personal.has_model or study.personal.local_blocks:
        return _through_the_engine(opened)
    return {FEDERATED: _federated(study, opened.hospitals)}


def one_granularity(name: str, opened: Opened) -> Predicted:
    """The study with this granularity alone, federated among the sites that have it.

    Patients who lack it, of whichever site, are predicted from nothing.
    """
    study = opened.study
    for other in opened.study.granularities:
        if other != name:
            study = without_granularity(study, other)
    return {f"{name} alone": _federated(study, [_with_one(s, name) for s in opened.hospitals])}


def pooled_training(opened: Opened) -> Predicted:
    """The study's model trained on all patients at one place."""
    study = opened.study
    model = train_pooled(study, [s.cohort for s in opened.hospitals])
    return {POOLED_TRAINING: {s.name: _predicted(model, s, study) for s in opened.hospitals}}


def local_only(opened: Opened) -> Predicted:
    """Each hospital's own model, for its own held-out patients."""
    study = opened.study
    return {
        LOCAL_ONLY: {
            s.name: _predicted(train_centrally(study, s.cohort.train, site=s.name), s, study)
            for s in opened.hospitals
        }
    }


def linear(opened: Opened) -> Predicted:
    """A pooled linear model of tables, markers and means of series."""
    from client.data import concatenate

    training = concatenate([s.cohort.train for s in opened.hospitals])
    return {
        LINEAR: {
            s.name: logistic_predictions(training, s.cohort.test, opened.study)
            for s in opened.hospitals
        }
    }


def tabular(opened: Opened) -> Predicted:
    """Gradient boosting and logistic regression on the pooled tables, for the primary outcome."""
    patients = _tables(opened)
    # Trained without the held-out patients; what is fitted the other way round is thrown away.
    patients["fold"] = (patients[opened.study.evaluation.split_column] == "test").astype(int)
    scores = held_out_scores(patients, opened.study, seed=opened.study.training.seed)
    return {
        arm: _probabilities(scores.set_index("patient_id")[column], opened)
        for arm, column in ((BOOSTING, "gradient_boosting"), (LOGISTIC, "logistic"))
    }


def apache(opened: Opened) -> Predicted:
    """The clinical score that came with the data, of the patients whom it scored."""
    scores = with_apache(_tables(opened)[["patient_id"]], opened.source)
    return {APACHE: _probabilities(scores.set_index("patient_id")["apache"], opened)}


def median(opened: Opened) -> Predicted:
    """The median of all training patients, for every quantity."""
    medians = {}
    for name, outcome in opened.study.outcomes.items():
        if isinstance(outcome, RegressionOutcome):
            parts = [s.cohort.train.outcomes[name] for s in opened.hospitals]
            known = np.concatenate([p["value_B"][p["known_B"]] for p in parts])
            medians[name] = float(np.median(known))
    by_site: dict[str, Predictions] = {
        s.name: {n: np.full((len(s.cohort.test), 1), m) for n, m in medians.items()}
        for s in opened.hospitals
    }
    return {MEDIAN: by_site}


def alone(*names: str) -> tuple[Method, ...]:
    """A method for each of these granularities."""
    return tuple(
        Method(name=f"{name} alone", run=partial(one_granularity, name), is_single=True)
        for name in names
    )


FEDERATED_METHOD = Method(name=FEDERATED, run=federated)
POOLED_METHOD = Method(name=POOLED_TRAINING, run=pooled_training)
LOCAL_METHOD = Method(name=LOCAL_ONLY, run=local_only)
LINEAR_METHOD = Method(name=LINEAR, run=linear)
TABULAR_METHOD = Method(name="tabular anchors", run=tabular)
APACHE_METHOD = Method(name=APACHE, run=apache, is_partial=True)
MEDIAN_METHOD = Method(name=MEDIAN, run=median)


def _federated(study: Study, hospitals: Sequence[PlainSite]) -> dict[str, Predictions]:
    """Predictions by site; a site that has nothing of the study takes no part in training."""
    taking_part = [
        s for s in hospitals if any(a["present_B"].any() for a in s.cohort.train.arrays.values())
    ]
    model = PatientModel(study)
    load_state(model, plain_loop(study, taking_part).model)
    return {s.name: _predicted(model, s, study) for s in hospitals}


def _through_the_engine(opened: Opened) -> Predicted:
    oracle = Oracle()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(study=opened.study, sites=opened.folder, out=Path(folder))
        simulate(simulation, oracle=oracle)
    kinds = {FEDERATED: ""}
    if opened.study.personal.has_model:
        kinds[PERSONAL_MODELS] = PERSONAL
    return {
        arm: {site: predictions for site, (predictions, _) in oracle.latest(kind).items()}
        for arm, kind in kinds.items()
    }


def _predicted(model: PatientModel, site: PlainSite, study: Study) -> Predictions:
    return predict_at_site(model, site.test, study, trained_on=site.train)


def _with_one(site: PlainSite, name: str) -> PlainSite:
    """The hospital as if its patients had been described by this granularity alone."""
    cohort = replace(site.cohort, arrays={name: site.cohort.arrays[name]})
    dropped = set(site.cohort.arrays) - {name}
    cpu = torch.device("cpu")
    return replace(
        site,
        counts={k: n for k, n in site.counts.items() if k not in dropped},
        cohort=cohort,
        train=to_device(cohort.train, cpu),
        test=to_device(cohort.test, cpu),
    )


def _tables(opened: Opened) -> pd.DataFrame:
    table = read_folders([opened.folder / s.name for s in opened.hospitals])
    return table.assign(patient_id=table["patient_id"].astype(str))


def _probabilities(score: "pd.Series[float]", opened: Opened) -> dict[str, Predictions]:
    """The probability of the second class of the primary outcome, by site."""
    outcome = next(iter(opened.study.outcomes))
    by_site: dict[str, Predictions] = {}
    for site, ids in opened.ids.items():
        score_B = score.reindex(list(ids)).to_numpy(dtype=np.float64)
        by_site[site] = {outcome: np.stack([1 - score_B, score_B], axis=1)}
    return by_site
