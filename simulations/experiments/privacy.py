"""The privacy experiment: how useful a study is at each level of privacy, fairly compared.

For every target inner validation chooses among the settings; then the chosen one alone is trained
on all training patients with every seed and judged on the held-out ones, beside each hospital
alone, all pooled, and the same without privacy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.privacy.plan import check_private
from common.study import Study
from simulations.experiments.attacks import attack_pieces, audit_piece, told_of
from simulations.experiments.experiment import Experiment, Point, Run, Sweep, Trial
from simulations.experiments.pareto import Pareto, front_of
from simulations.experiments.pieces import Made, OnProgress, Piece, make_pieces
from simulations.experiments.runs import (
    charges_of,
    is_better_higher,
    measure,
    most_spent,
)
from simulations.experiments.search import grid_search, new_storage
from simulations.experiments.settings import Question, Setting, Target
from simulations.experiments.tuning_cost import epsilon_with_trials
from simulations.experiments.validation import Inner, Validated, best_of, validated
from simulations.results.measure import primary_metric

if TYPE_CHECKING:
    import optuna

STORAGE = "optuna.db"


def check_sweep(sweep: Sweep) -> None:
    """Nothing, if every study that the experiment needs can be trained.

    Raises:
        StudyError: one is malformed, cannot be private, or has fewer folds than are asked for.
    """
    for base in (sweep.bases.private, sweep.bases.reference):
        sweep.inner.check(base)
    for question in sweep.questions:
        for setting in question.settings:
            check_private(sweep.bases.study(question.target, setting))


def run_sweep(
    sweep: Sweep, *, sites: Path, out: Path, jobs: int, on_progress: OnProgress
) -> Experiment:
    """The experiment; what lies finished in `out` is not made again.

    Guarantees:
        - The number of processes, and interruptions, change nothing.
        - Held-out patients have no part in any choice.
    """
    workplace = _Workplace(sites=sites, out=out, jobs=jobs, on_progress=on_progress)
    chosen = _chosen(sweep, workplace)
    pieces = {
        (question.name, seed): _measured(sweep, question, seed, sites)
        for question, _ in chosen
        for seed in range(sweep.num_seeds)
    }
    made = workplace.make(list(pieces.values()), "runs")
    points = [
        _point(
            sweep,
            question,
            trials,
            {seed: made[pieces[question.name, seed].name] for seed in range(sweep.num_seeds)},
        )
        for question, trials in chosen
    ]
    if sweep.is_audited:
        points = workplace.audited(points)
    if sweep.attacks == "all":
        points = workplace.attacked(points, sweep.bases.delta)
    kinds = {
        n for p in points for r in p.runs for s in r.made["spent"].values() for n in s["noise"]
    }
    return Experiment(sweep=sweep, points=points[:-1], reference=points[-1], noise=sorted(kinds))


@dataclass(frozen=True, kw_only=True)
class _Workplace:
    """Where and with how many processes an experiment is made."""

    sites: Path
    out: Path
    jobs: int
    on_progress: OnProgress

    def make(self, pieces: Sequence[Piece], phase: str) -> dict[str, Made]:
        return make_pieces(
            pieces, self.out, jobs=self.jobs, phase=phase, on_progress=self.on_progress
        )

    def validated(self, studies: Sequence[Study], inner: Inner) -> list[Validated]:
        return validated(
            studies,
            inner,
            sites=self.sites,
            out=self.out,
            jobs=self.jobs,
            phase="choosing settings",
            on_progress=self.on_progress,
        )

    def audited(self, points: Sequence[Point]) -> list[Point]:
        pieces = {
            p.name: audit_piece(
                p.study, next((r.made["spent"] for r in p.runs if r.made["spent"]), {})
            )
            for p in points
            if p.target.is_private
        }
        made = self.make([piece for piece in pieces.values() if piece], "audits")
        return [
            replace(p, audit=made[piece.name]) if (piece := pieces.get(p.name)) else p
            for p in points
        ]

    def attacked(self, points: Sequence[Point], delta: float) -> list[Point]:
        """The points with what the attacks on patients found; of a failed one, nothing."""
        pieces = {
            p.name: attack_pieces(p.study, self.sites, epsilon=p.epsilon, delta=delta)
            for p in points
            if not p.failures
        }
        every = {piece.name: piece for own in pieces.values() for piece in own}
        made = self.make(list(every.values()), "attacks")
        return [
            replace(p, attacks=told_of([made[piece.name] for piece in pieces.get(p.name, [])]))
            for p in points
        ]


def _chosen(sweep: Sweep, workplace: _Workplace) -> list[tuple[Question, Sequence[Trial]]]:
    """Every question with one setting left, and the trials that chose it; without privacy last."""
    questions = list(sweep.questions)
    asked = questions[-1:] if sweep.pareto is not None else questions
    compared = [question for question in asked if len(question.settings) > 1]
    found: list[tuple[Question, Sequence[Trial]]] = []
    storage = None
    if sweep.pareto is not None or compared:
        storage = new_storage(workplace.out / STORAGE)
    if sweep.pareto is not None and storage is not None:
        found = _on_the_front(sweep, sweep.pareto, storage, workplace)
    trials = _trials(sweep, compared, workplace)
    for question in asked:
        mine = [trial for trial in trials if trial.question == question.name]
        setting = question.settings[0]
        if mine and storage is not None:
            setting = _best(sweep, question, mine, storage)
        found.append((replace(question, settings=(setting,)), mine))
    return found


def _trials(sweep: Sweep, questions: Sequence[Question], workplace: _Workplace) -> list[Trial]:
    """What inner validation says of every setting of every question."""
    cases = [(question, setting) for question in questions for setting in question.settings]
    studies = [sweep.bases.study(question.target, setting) for question, setting in cases]
    told = workplace.validated(studies, sweep.inner) if studies else []
    return [
        Trial(question=question.name, target=question.target, setting=setting, validated=v)
        for (question, setting), v in zip(cases, told, strict=True)
    ]


def _best(
    sweep: Sweep,
    question: Question,
    trials: Sequence[Trial],
    storage: "optuna.storages.BaseStorage",
) -> Setting:
    """The setting that inner validation prefers; its trials are noted in Optuna's storage."""
    _, metric = primary_metric(sweep.bases.reference)
    by_name = {trial.setting.name: trial for trial in trials}

    def evaluate(values: Mapping[str, Any]) -> float | None:
        return by_name[values["setting"]].validated.mean

    direction = "maximize" if is_better_higher(metric) else "minimize"
    space = {"setting": list(by_name)}
    grid_search(question.name, space, storage, evaluate, direction=direction)
    best: Setting = best_of(
        {trial.setting: trial.validated for trial in trials}, is_higher=is_better_higher(metric)
    )
    return best


def _on_the_front(
    sweep: Sweep,
    pareto: Pareto,
    storage: "optuna.storages.BaseStorage",
    workplace: _Workplace,
) -> list[tuple[Question, Sequence[Trial]]]:
    """A question for each setting that no other beats in both utility and epsilon."""
    _, metric = primary_metric(sweep.bases.reference)

    def evaluate(asked: Sequence[tuple[Target, Setting]]) -> list[Validated]:
        studies = [sweep.bases.study(target, setting) for target, setting in asked]
        return workplace.validated(studies, sweep.inner)

    tried, front = front_of(pareto, storage, evaluate, is_higher=is_better_higher(metric))
    # Every one of them was looked at to know the front, so each point owes them all.
    trials = [
        Trial(question=target.name, target=target, setting=setting, validated=v)
        for target, setting, v in tried
    ]
    return [
        (Question(name=f"{t.name}, {s.name}", target=t, settings=(s,)), trials) for t, s in front
    ]


def _measured(sweep: Sweep, question: Question, seed: int, sites: Path) -> Piece:
    study = sweep.bases.study(question.target, question.settings[0])
    return Piece(
        name=f"measure-{_slug(question.target.name)}-{study.hash[:12]}-seed-{seed}",
        make=partial(measure, study, seed, sites),
    )


def _point(
    sweep: Sweep, question: Question, trials: Sequence[Trial], made: Mapping[int, Made]
) -> Point:
    charged = [c for t in trials for c in t.validated.charges] if sweep.charges_tuning else []
    runs = []
    for seed, part in made.items():
        spent = most_spent(part["spent"])
        reported = spent
        if charged and spent is not None:
            own = charges_of(part["spent"])
            reported = epsilon_with_trials(own, charged, delta=sweep.bases.delta)
        runs.append(Run(seed=seed, made=part, epsilon_spent=spent, epsilon_reported=reported))
    setting = question.settings[0]
    return Point(
        name=question.name,
        target=question.target,
        setting=setting,
        study=sweep.bases.study(question.target, setting),
        trials=trials,
        runs=runs,
    )


def _slug(name: str) -> str:
    return name.replace(" ", "-")
