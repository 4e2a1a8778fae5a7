"""Searches by Optuna that go on where they were: asked in batches, told in order, kept on SQLite.

A sampler's random state is not in Optuna's storage, so that a search that went on from there would
try other things than one that was never interrupted. Here every start replays the search from its
beginning, with the same seed; what was trained before comes from its file and costs nothing.
"""

import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import StudyError

if TYPE_CHECKING:
    import optuna

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how.

    Attributes:
        name: of the search in its storage; unique there.
        sampler: of Optuna, new and with a seed.
        suggest: the values of a trial.
        directions: "maximize" or "minimize" of each objective.
        num_trials: in all.
        batch: trials that are asked for before any of them is told; it decides what is tried, and
            must not depend on the machine.
    """

    name: str
    sampler: "optuna.samplers.BaseSampler"
    suggest: Callable[["optuna.Trial"], Values]
    directions: Sequence[str]
    num_trials: int
    batch: int


def run_search(
    search: Search,
    storage: "optuna.storages.BaseStorage",
    evaluate: Callable[[Sequence[Values]], Sequence[Sequence[float] | None]],
    *,
    goes_on: Callable[[], bool] = lambda: True,
) -> "optuna.Study":
    """The study of all trials; `storage` keeps them for Optuna's own tools.

    Guarantees:
        - Whatever `evaluate` returns from its files, and whatever it makes, the same is tried.

    Args:
        evaluate: the objectives of each of a batch; None: it failed.
        goes_on: asked before each batch; the search ends early where it says no.
    """
    tool = optuna_or_error()
    tool.logging.set_verbosity(tool.logging.WARNING)
    with warnings.catch_warnings():
        # Some samplers' options are marked as experimental; which release is used is pinned.
        warnings.simplefilter("ignore", tool.exceptions.ExperimentalWarning)
        study: optuna.Study = tool.create_study(
            study_name=search.name,
            storage=storage,
            sampler=search.sampler,
            directions=list(search.directions),
        )
        while len(study.trials) < search.num_trials and goes_on():
            size = min(search.batch, search.num_trials - len(study.trials))
            trials = [study.ask() for _ in range(size)]
            asked = [search.suggest(trial) for trial in trials]
            for trial, objectives in zip(trials, evaluate(asked), strict=True):
                if objectives is None:
                    study.tell(trial, state=tool.trial.TrialState.FAIL)
                else:
                    study.tell(trial, list(objectives))
    return study


def new_storage(path: Path) -> "optuna.storages.BaseStorage":
    """An empty SQLite file for searches; what an earlier start has kept in it is replayed.

    It does not wait for the disk: what a search has learned stands in the pieces' files.
    """
    tool = optuna_or_error()
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    storage: optuna.storages.BaseStorage = tool.storages.RDBStorage(
        f"sqlite:///{path.resolve()}", engine_kwargs={"creator": connect}
    )
    return storage


def grid_search(
    name: str,
    space: Mapping[str, Sequence[Any]],
    storage: "optuna.storages.BaseStorage",
    evaluate: Callable[[Values], float | None],
    *,
    direction: str,
) -> "optuna.Study":
    """The study of every combination of a space, each tried once.

    Args:
        evaluate: the objective, of values that are known already; None: it failed.
    """
    tool = optuna_or_error()
    # A failed trial is one of the results, which we tell ourselves.
    tool.logging.set_verbosity(tool.logging.ERROR)

    def objective(trial: "optuna.Trial") -> float:
        value = evaluate({k: trial.suggest_categorical(k, v) for k, v in space.items()})
        return nan if value is None else value

    study: optuna.Study = tool.create_study(
        study_name=name,
        storage=storage,
        sampler=tool.samplers.GridSampler(space, seed=0),
        direction=direction,
    )
    # The sampler itself stops once nothing is left.
    study.optimize(objective)
    return study


def optuna_or_error() -> Any:
    """The module `optuna`.

    Raises:
        StudyError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise StudyError(
            "Expected the package optuna for searching settings, found none. Install it: "
            "pip install 'wardround[sweep]'."
        ) from None
    return optuna
