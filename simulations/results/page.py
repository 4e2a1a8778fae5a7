"""What a results page shows, as a declaration; `simulations.results.pages` has one for each study.

Letters of shapes: B patients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.study import Study
from simulations.results.held_out import HeldOut
from simulations.results.methods import FEDERATED, Method

EVERYBODY = "all held-out patients"
BEST_SINGLE = "the best single granularity"


@dataclass(frozen=True, kw_only=True)
class Split:
    """One division into training and held-out patients, with the seed of training.

    Attributes:
        repeat: splits of one repeat hold out every patient of the study at most once.
    """

    fold: int
    seed: int
    repeat: int

    @property
    def name(self) -> str:
        """As tables and files call it.

        >>> Split(fold=1, seed=2, repeat=0).name
        'fold 1, seed 2'
        """
        return f"fold {self.fold}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Held-out patients on whom arms are compared."""

    name: str
    chosen: Callable[[HeldOut], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The federated arm against another on the same patients, by a paired bootstrap.

    Attributes:
        other: an arm, or `BEST_SINGLE`.
        aim: the difference, federated minus other, is to be above this.
    """

    other: str
    group: str = EVERYBODY
    aim: float | None = 0.0


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A number that the federated arm is to reach in the primary metric."""

    text: str
    at_least: float
    of_sites: bool
    arm: str = FEDERATED


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A number that stands beside the arms and was not made from predictions kept here."""

    name: str
    pooled: float
    sites: float
    pooled_sd: float | None = None
    sites_sd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """The results page of one study.

    Attributes:
        study: the name of the shipped study.
        importer: writes the site folders of a fold: (source, out, fold).
        num_folds: how many folds the importer knows.
        has_seed_per_fold: seed i goes with fold i; otherwise every seed with every fold.
        groups: beside all held-out patients; for the primary outcome.
        columns: by outcome, the metrics that tables show, where not all of them.
        references: made from the study, the site folders of fold 0, and published results.
        notes: sentences that a reader must know.
    """

    study: str
    importer: Callable[[Path, Path, int], object]
    methods: tuple[Method, ...]
    comparisons: tuple[Comparison, ...]
    num_folds: int = 1
    has_seed_per_fold: bool = False
    groups: tuple[Group, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aims: tuple[Aim, ...] = ()
    references: Callable[[Study, Path, Path], Sequence[Reference]] | None = None
    notes: tuple[str, ...] = ()

    def splits(self, num_seeds: int) -> list[Split]:
        """The splits of seeds 0…num_seeds-1."""
        folds, seeds = range(self.num_folds), range(num_seeds)
        if self.has_seed_per_fold:
            return [
                Split(fold=s % self.num_folds, seed=s, repeat=s // self.num_folds) for s in seeds
            ]
        return [Split(fold=f, seed=s, repeat=s) for s in seeds for f in folds]


def everybody(held: HeldOut) -> NDArray[np.bool_]:
    """All of them."""
    return np.ones(len(held), dtype=np.bool_)


def whom_an_arm_scores(arm: str, outcome: str) -> Callable[[HeldOut], NDArray[np.bool_]]:
    """The patients for whom the arm has a prediction; nobody where the arm has failed."""

    def chosen(held: HeldOut) -> NDArray[np.bool_]:
        predicted = held.predictions.get(arm, {}).get(outcome)
        if predicted is None:
            return ~everybody(held)
        is_scored_B: NDArray[np.bool_] = np.isfinite(predicted[:, 0])
        return is_scored_B

    return chosen


def whose_outcome_is_known(outcome: str) -> Callable[[HeldOut], NDArray[np.bool_]]:
    """The patients of whom this outcome is known."""
    return lambda held: np.asarray(held.outcomes[outcome]["known_B"], dtype=np.bool_)


def who_have_any(*granularities: str) -> Callable[[HeldOut], NDArray[np.bool_]]:
    """The patients who have one of these granularities or more."""

    def chosen(held: HeldOut) -> NDArray[np.bool_]:
        has_any_B = ~everybody(held)
        for name in granularities:
            has_any_B |= held.present[name]
        return has_any_B

    return chosen
