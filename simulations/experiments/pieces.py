"""Pieces of an experiment, each made once, in processes of their own, and kept as a file.

A piece is whole or absent: whatever ends a command, the same command goes on with what is missing.
A piece that was being made is made anew, from its beginning, because a run that goes on in its
middle draws other noise.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.files import write_atomically
from common.json_values import finite
from simulations.over_seeds import over_seeds

Made = dict[str, Any]
# How many pieces are finished, of how many, and the seconds that the others may take, if known.
OnProgress = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One run, or one audit.

    Attributes:
        name: of its file and of its run's folder; unique for what it holds.
        keeps_run: whether the folder of its run stays.
        make: given the folder of its run, which does not exist, returns what is kept, as JSON;
            a function of a module with its arguments, so that another process finds it.
    """

    name: str
    make: Callable[[Path], Made]
    keeps_run: bool = True


def make_pieces(
    pieces: Sequence[Piece],
    out: Path,
    *,
    jobs: int,
    phase: str,
    on_progress: OnProgress,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Made]:
    """What each piece holds, by name; those that lie finished in `out` are not made again.

    Guarantees:
        - What is returned is what the files hold, whether they were made now or before.
        - The number of processes, and which is finished first, change nothing.

    Args:
        phase: what these pieces are for, as progress tells it.
    """
    by_name = {piece.name: piece for piece in pieces}
    files = {name: out / "points" / f"{name}.json" for name in by_name}
    missing = {name: piece for name, piece in by_name.items() if not files[name].is_file()}
    started, first = clock(), len(by_name) - len(missing)
    done = first

    def on_done(_: str) -> None:
        nonlocal done
        done += 1
        on_progress(
            phase,
            done,
            len(by_name),
            time_left(clock() - started, done - first, len(by_name) - done),
        )

    on_progress(phase, done, len(by_name), None)
    work = {
        name: partial(_make, piece, out / "runs" / name, files[name])
        for name, piece in missing.items()
    }
    if jobs == 1:
        # One after the other, here: a process of its own costs seconds before it does anything.
        for name, make in work.items():
            make()
            on_done(name)
    elif work:
        over_seeds(work, jobs=min(jobs, len(work)), on_done=on_done)
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items()}


def time_left(elapsed_s: float, num_made: int, num_left: int) -> float | None:
    """The seconds that the rest takes if it goes on as it went; None before anything is made.

    >>> time_left(30.0, 3, 2)
    20.0
    """
    return elapsed_s / num_made * num_left if num_made else None


def _make(piece: Piece, run_folder: Path, file: Path) -> None:
    if run_folder.exists():
        shutil.rmtree(run_folder)
    made = finite(piece.make(run_folder))
    text = json.dumps(made, indent=1, sort_keys=True, allow_nan=False)
    write_atomically(file, text.encode(), durable=False)
    if not piece.keeps_run:
        shutil.rmtree(run_folder, ignore_errors=True)
