"""Inner validation: how studies do on folds of the training patients, without the held-out ones.

Settings are chosen by these numbers and by no others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from common.errors import StudyError
from common.study import Study
from simulations.experiments.pieces import Made, OnProgress, Piece, make_pieces
from simulations.experiments.runs import charges_of, most_spent, validate
from simulations.experiments.tuning_cost import Charges


@dataclass(frozen=True, kw_only=True)
class Inner:
    """The folds on which a study is judged, and the seeds with which it is trained for each."""

    num_folds: int = 2
    num_seeds: int = 1

    def __post_init__(self) -> None:
        if self.num_folds < 1 or self.num_seeds < 1:
            raise ValueError(f"expected a fold and a seed, found {self.num_folds, self.num_seeds}")

    def check(self, study: Study) -> None:
        """Nothing, if the study has so many folds. Raises `StudyError`."""
        if self.num_folds > study.evaluation.folds:
            raise StudyError(
                f"Expected at most {study.evaluation.folds} folds (evaluation.folds of "
                f"'{study.name}'), found {self.num_folds}. Take fewer."
            )

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Fold and seed of each training."""
        # No two trainings share a seed: noise of the same seed would be the same luck.
        return [
            (fold, fold * self.num_seeds + n)
            for fold in range(self.num_folds)
            for n in range(self.num_seeds)
        ]


@dataclass(frozen=True, kw_only=True)
class Validated:
    """What inner validation says of one study.

    Attributes:
        values: the main metric of each fold and seed; None of a failed one.
        failed: codes of failures.
        epsilon: spent by one training, of the hospital whose patients paid most; None: no privacy.
        charges: of each training, by hospital.
    """

    values: Sequence[float | None]
    failed: Sequence[str]
    epsilon: float | None
    charges: Sequence[Charges]

    @property
    def mean(self) -> float | None:
        """The mean over folds and seeds; None where any of them failed."""
        known = [value for value in self.values if value is not None]
        return fmean(known) if len(known) == len(self.values) else None


def validated(
    studies: Sequence[Study],
    inner: Inner,
    *,
    sites: Path,
    out: Path,
    jobs: int,
    phase: str,
    on_progress: OnProgress,
    keeps_runs: bool = True,
) -> list[Validated]:
    """What inner validation says of each study; trainings that lie finished in `out` are kept.

    Args:
        keeps_runs: whether the folders of its runs stay, with their ledgers.
    """
    names = {study: _names(study, inner) for study in studies}
    pieces = [
        Piece(name=name, make=partial(validate, study, fold, seed, sites), keeps_run=keeps_runs)
        for study, by_name in names.items()
        for name, (fold, seed) in by_name.items()
    ]
    made = make_pieces(pieces, out, jobs=jobs, phase=phase, on_progress=on_progress)
    return [_validated([made[name] for name in names[study]]) for study in studies]


def best_of(validated: Mapping[Any, Validated], *, is_higher: bool) -> Any:
    """The key of the best mean, the first of equals; the first of all where every one failed."""
    known = {key: v.mean for key, v in validated.items() if v.mean is not None}
    if not known:
        return next(iter(validated))
    return (max if is_higher else min)(known, key=lambda key: known[key])


def _names(study: Study, inner: Inner) -> dict[str, tuple[int, int]]:
    return {
        f"validate-{study.hash[:12]}-fold-{fold}-seed-{seed}": (fold, seed)
        for fold, seed in inner.pairs
    }


def _validated(parts: Sequence[Made]) -> Validated:
    epsilons = [e for part in parts if (e := most_spent(part["spent"])) is not None]
    return Validated(
        values=[part["value"] for part in parts],
        failed=[part["failed"] for part in parts if part["failed"]],
        epsilon=max(epsilons, default=None),
        charges=[charges_of(part["spent"]) for part in parts],
    )
