"""The experiment as a tidy CSV: a line for each seed, arm, scope, outcome and metric."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from common.study import Study
from simulations.arms import POOLED
from simulations.experiments.experiment import Experiment, Point, Run
from simulations.experiments.runs import DIVERGED, FEDERATED, is_diverged, most_noise
from simulations.experiments.settings import clip_of
from simulations.results.measure import primary_metric

COLUMNS = (
    "study",
    "point",
    "seed",
    "epsilon_asked",
    "epsilon_spent",
    "epsilon_reported",
    "delta",
    "clip",
    "rounds",
    "local_steps",
    "local_epochs",
    "learning_rate",
    "batch_size",
    "noise_multiplier",
    "tuning_trainings",
    "arm",
    "scope",
    "outcome",
    "metric",
    "value",
    "failed",
)
TRIAL_COLUMNS = (
    "point",
    "setting",
    "epsilon_asked",
    "epsilon_spent",
    "validation",
    "metric",
    "value",
    "failed",
)


def to_csv(experiment: Experiment) -> str:
    """A line per point, seed, arm, scope, outcome and metric.

    Guarantees:
        - A failed run has one line, with the code of its failure and no value.
        - So has a failed attack; each figure of the others has one, with the attack for the arm.
        - An undefined metric is empty; a diverged model's are all, and say so.
    """
    return _csv(
        COLUMNS,
        (
            row
            for point in (*experiment.points, experiment.reference)
            for row in (
                *(row for run in point.runs for row in _rows(experiment, point, run)),
                *_attack_rows(experiment, point),
            )
        ),
    )


def trials_to_csv(experiment: Experiment) -> str:
    """A line for each training of inner validation, by which settings were chosen."""
    _, metric = primary_metric(experiment.sweep.bases.reference)
    pairs = experiment.sweep.inner.pairs
    # In a search for a front all points have the same trials.
    lists = {tuple(id(t) for t in p.trials): p.trials for p in experiment.points}
    lists[()] = experiment.reference.trials
    rows = (
        (
            trial.question,
            trial.setting.name,
            _asked(trial.target),
            _number(trial.validated.epsilon),
            f"fold {fold}, seed {seed}",
            metric,
            _number(value),
            "" if value is not None else " ".join(sorted(set(trial.validated.failed))),
        )
        for trials in lists.values()
        for trial in trials
        for (fold, seed), value in zip(pairs, trial.validated.values, strict=True)
    )
    return _csv(TRIAL_COLUMNS, rows)


def _rows(experiment: Experiment, point: Point, run: Run) -> Iterator[Sequence[object]]:
    head = _head(experiment, point, run)
    if run.made["failed"]:
        outcome, metric = primary_metric(point.study)
        yield (*head, FEDERATED, POOLED, outcome, metric, "", run.made["failed"])
    for result in run.made["results"]:
        failed = DIVERGED if is_diverged(result["metrics"]) else ""
        for metric, value in result["metrics"].items():
            arm, scope, outcome = result["arm"], result["scope"], result["outcome"]
            yield (*head, arm, scope, outcome, metric, _number(value), failed)


def _attack_rows(experiment: Experiment, point: Point) -> Iterator[Sequence[object]]:
    """A line for each figure of each attack: of no seed of the runs, and of no hospital's model."""
    head = _head(experiment, point, None)
    audits = [{"attack": "audit", "target": "", **point.audit}] if point.audit else []
    for told in (*audits, *point.attacks):
        arm = f"attack: {told['attack']}"
        if told["failed"]:
            yield (*head, arm, "", "", "", "", told["failed"])
            continue
        bounds = {n: told[n] for n in _BOUNDS if told.get(n) is not None}
        for metric, value in (bounds | dict(told["measures"])).items():
            yield (*head, arm, told["target"], "", metric, _number(_float(value)), "")


_BOUNDS = ("epsilon_lower_bound", "epsilon_claimed")


def _float(value: float | str | None) -> float | None:
    return None if value is None else float(value)


def _head(experiment: Experiment, point: Point, run: Run | None) -> Sequence[object]:
    study: Study = point.study
    training = study.training
    is_private = point.target.is_private
    return (
        study.name,
        point.name,
        "" if run is None else run.seed,
        _asked(point.target),
        _epsilon(run.epsilon_spent if run else None, is_private),
        _epsilon(run.epsilon_reported if run else None, is_private),
        _number(experiment.sweep.bases.delta if is_private else None),
        _number(clip_of(study)),
        training.rounds,
        "" if training.local_steps is None else training.local_steps,
        "" if training.local_epochs is None else training.local_epochs,
        training.learning_rate,
        training.batch_size,
        _number(most_noise(run.made["spent"]) if run else None),
        point.num_trainings,
    )


def _asked(target: Any) -> str:
    if not target.is_private:
        return "inf"
    return _number(target.epsilon)


def _epsilon(value: float | None, is_private: bool) -> str:
    return _number(value) if is_private else "inf"


def _number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _csv(head: Sequence[str], rows: Iterator[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
