"""A search for the settings that no other beats in both utility and epsilon: NSGA-II.

Source: Deb, Pratap, Agarwal and Meyarivan 2002, IEEE Transactions on Evolutionary Computation 6(2),
section III; as implemented by Optuna.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import StudyError
from common.plan import Training
from simulations.experiments.search import Search, optuna_or_error, run_search
from simulations.experiments.settings import Axes, Setting, Target
from simulations.experiments.validation import Validated

if TYPE_CHECKING:
    import optuna

NAME = "pareto"
_MOST_IN_A_GENERATION = 12
# Of a setting that is not asked for by name, this many times more or less than the study's own.
_SPAN = 3.0

Tried = tuple[Target, Setting, Validated]


@dataclass(frozen=True, kw_only=True)
class Pareto:
    """The space of a search, from the least to the largest of each; None: as the study says."""

    epsilon: tuple[float, float]
    clip: tuple[float, float]
    learning_rate: tuple[float, float]
    rounds: tuple[int, int]
    local_steps: tuple[int, int] | None
    batch_size: tuple[int, int] | None
    num_trials: int


def pareto_of(
    epsilons: Sequence[float], axes: Axes, training: Training, clip: float, *, num_trials: int
) -> Pareto:
    """The space between the values that are asked for; around the study's own where none are.

    Raises:
        StudyError: there are no two epsilons to search between.
    """
    if len(set(epsilons)) < 2:
        raise StudyError(
            f"Expected at least two finite epsilons to search between, found {len(set(epsilons))}. "
            "Name two by --epsilons, or use --sampler grid."
        )
    rounds = axes.rounds or (max(1, round(training.rounds / _SPAN)), round(training.rounds * _SPAN))
    clips = axes.clip or (clip / _SPAN, clip * _SPAN)
    rates = axes.learning_rate or (training.learning_rate / _SPAN, training.learning_rate * _SPAN)
    return Pareto(
        epsilon=(min(epsilons), max(epsilons)),
        clip=(min(clips), max(clips)),
        learning_rate=(min(rates), max(rates)),
        rounds=(min(rounds), max(rounds)),
        local_steps=_span(axes.local_steps),
        batch_size=_span(axes.batch_size),
        num_trials=num_trials,
    )


def front_of(
    pareto: Pareto,
    storage: "optuna.storages.BaseStorage",
    evaluate: Callable[[Sequence[tuple[Target, Setting]]], Sequence[Validated]],
    *,
    is_higher: bool,
) -> tuple[list[Tried], list[tuple[Target, Setting]]]:
    """All that was tried, in order; and the front, by epsilon.

    Args:
        is_higher: whether more of the metric is better.
    """
    tool = optuna_or_error()
    tried: list[Tried] = []

    def objectives(asked: Sequence[Mapping[str, Any]]) -> list[tuple[float, float] | None]:
        cases = [_case(values) for values in asked]
        told = list(evaluate(cases))
        tried.extend((*case, v) for case, v in zip(cases, told, strict=True))
        return [
            None if v.mean is None else (v.mean, values["epsilon"])
            for values, v in zip(asked, told, strict=True)
        ]

    size = min(pareto.num_trials, _MOST_IN_A_GENERATION)
    search = Search(
        name=NAME,
        sampler=tool.samplers.NSGAIISampler(population_size=size, seed=0),
        suggest=lambda trial: _suggested(pareto, trial),
        directions=("maximize" if is_higher else "minimize", "minimize"),
        num_trials=pareto.num_trials,
        batch=size,
    )
    study = run_search(search, storage, objectives)
    # What a trial suggested is rounded; the rounded values are what was trained.
    best = {tried[trial.number][:2] for trial in study.best_trials}
    return tried, sorted(best, key=lambda case: (case[0].epsilon or 0.0, case[1].name))


def _suggested(pareto: Pareto, trial: "optuna.Trial") -> dict[str, Any]:
    values: dict[str, Any] = {
        name: float(f"{trial.suggest_float(name, *getattr(pareto, name), log=True):.3g}")
        for name in ("epsilon", "clip", "learning_rate")
    }
    for name in ("rounds", "local_steps", "batch_size"):
        if (span := getattr(pareto, name)) is not None:
            values[name] = trial.suggest_int(name, *span, log=True)
    return values


def _case(values: Mapping[str, Any]) -> tuple[Target, Setting]:
    setting = {name: value for name, value in values.items() if name != "epsilon"}
    return Target(epsilon=values["epsilon"]), Setting(**setting)


def _span(values: Sequence[int]) -> tuple[int, int] | None:
    return (min(values), max(values)) if values else None
