"""What joining brings, from a study and site folders: every piece is trained, then all is told."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

from common.privacy.sections import PatientPrivacy
from common.study import Study
from common.study_file import override
from simulations.joining.kept import load, path_of, save, version_of
from simulations.joining.training import Measured, Piece, measure
from simulations.over_seeds import over_seeds
from simulations.read_sites import read_cohorts
from simulations.training_at_one_place import refuse_frozen

# What a piece costs beside a federation: of all hospitals, each alone and all pooled come on top.
_COST = {"all hospitals": 3.0, "without hospital": 1.0, "without granularity": 1.0}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the work has come.

    Attributes:
        left_s: about how long it still takes; None before a piece of this call is finished.
    """

    num_finished: int
    num_pieces: int
    left_s: float | None

    @property
    def text(self) -> str:
        """As the terminal shows it.

        >>> Progress(num_finished=3, num_pieces=35, left_s=250.0).text
        '3 of 35 trainings finished, about 5 min left'
        """
        told = f"{self.num_finished} of {self.num_pieces} trainings finished"
        if self.left_s is None:
            return told
        unit = "min" if self.left_s > 90 else "s"
        number = ceil(self.left_s / (60 if unit == "min" else 10)) * (1 if unit == "min" else 10)
        return f"{told}, about {number} {unit} left"


def with_personal(study: Study, fine_tune_steps: int) -> Study:
    """The study in which each hospital ends up with a model of its own beside the shared one.

    A study that plans one keeps its plan; a private study has none. The shared model is the same.
    """
    if study.personal.has_model or isinstance(study.privacy, PatientPrivacy):
        return study
    return override(study, personal__fine_tune_steps=fine_tune_steps)


def pieces_of(
    study: Study, sites: Sequence[str], seeds: Sequence[int], *, leaves_out: bool
) -> list[Piece]:
    """All pieces, seed after seed, the longest of each seed first."""
    pieces = []
    for seed in seeds:
        pieces.append(Piece(seed=seed))
        if leaves_out:
            pieces += [Piece(seed=seed, kind="without hospital", absent=s) for s in sites]
            names = list(study.granularities) if len(study.granularities) > 1 else []
            pieces += [Piece(seed=seed, kind="without granularity", absent=g) for g in names]
    return pieces


def train_pieces(
    study: Study,
    sites: Path,
    folder: Path,
    *,
    seeds: Sequence[int],
    jobs: int,
    leaves_out: bool,
    on_progress: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[Piece, Measured]:
    """The numbers of every piece.

    Guarantees:
        - A piece that lies finished in `folder` is not trained again, and the result is the same.
        - The number of processes does not matter.
        - What failed by an error is not kept, so that the same command tries it again.

    Raises:
        DataError: a hospital's data cannot be used; every reason is told.
        StudyError: the study has frozen encoders.
    """
    refuse_frozen(study)
    version = version_of(sites)
    pieces = pieces_of(study, list(read_cohorts(study, sites)), seeds, leaves_out=leaves_out)
    studies = {seed: override(study, training__seed=seed) for seed in seeds}
    paths = {
        piece: path_of(piece, studies[piece.seed], folder=folder, version=version)
        for piece in pieces
    }
    found = {piece: load(path) for piece, path in paths.items() if path.is_file()}
    missing = {p.name: p for p in pieces if p not in found}
    done: list[Piece] = []
    started = clock()

    def tell() -> None:
        left_s = time_left_s(clock() - started, done, list(missing.values()))
        on_progress(
            Progress(num_finished=len(found) + len(done), num_pieces=len(pieces), left_s=left_s)
        )

    work = {
        name: partial(measure_and_keep, piece, studies[piece.seed], sites, paths[piece])
        for name, piece in missing.items()
    }
    made = over_seeds(
        work, jobs=jobs, on_done=lambda name: done.append(missing[name]), on_wait=tell
    )
    found |= {missing[name]: measured for name, measured in made.items()}
    return {piece: found[piece] for piece in pieces}


def measure_and_keep(piece: Piece, study: Study, sites: Path, path: Path) -> Measured:
    """As `measure`; what has not failed is kept at `path`."""
    measured = measure(piece, study, sites)
    if not measured.has_failed:
        save(measured, path)
    return measured


def time_left_s(
    elapsed_s: float, done: Sequence[Piece], all_of_them: Sequence[Piece]
) -> float | None:
    """About how long the pieces that are not done take, as those that are took; None before one is.

    >>> one, other = Piece(seed=0), Piece(seed=0, kind="without hospital", absent="va")
    >>> time_left_s(60.0, [one], [one, other])
    20.0
    """
    if not done:
        return None
    cost_done = sum(_COST[piece.kind] for piece in done)
    return elapsed_s * (sum(_COST[p.kind] for p in all_of_them) - cost_done) / cost_done
