"""Tells sinks of a run: of one on disk, or while it goes on, as a listener of its journal."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from common.errors import RunError
from server.journal import Event, Listener
from server.sinks.mlflow import Mlflow
from server.sinks.points import Told, told_of
from server.sinks.tensorboard import TensorBoard
from server.watch.course import Course
from server.watch.tail import Tail

JOURNAL = "journal.jsonl"
_MOMENTS = ("round_finished", "run_finished", "run_failed")


class Sink(Protocol):
    """Where a run is told."""

    def tell(self, told: Told) -> None:
        """Takes all that there is to tell; what it has already, it does not take twice."""

    def keep(self, told: Told, folder: Path) -> None:
        """Takes the report of a run, if it keeps files."""


def sinks_of(mlflow: str | None, tensorboard: Path | None) -> list[Sink]:
    """The sinks that are asked for.

    Raises:
        RunError: a library is missing, or there is no store at that place.
    """
    sinks: list[Sink] = []
    if mlflow is not None:
        sinks.append(Mlflow(mlflow))
    if tensorboard is not None:
        sinks.append(TensorBoard(tensorboard))
    return sinks


def tell_run(folder: Path, sinks: Sequence[Sink]) -> None:
    """Tells sinks of a run that is on disk, and gives them its report.

    Raises:
        RunError: there is no run, or a sink does not take it.
    """
    told = told_of(_course_of(folder))
    for sink in sinks:
        _tell(sink, told, folder)


@contextmanager
def live(
    folder: Path, sinks: Sequence[Sink], *, warn: Callable[[str], None]
) -> Iterator[list[Listener]]:
    """Listeners that tell sinks of a run after each round; its report follows when it has ended.

    Guarantees:
        - A sink that fails, however it does, is told of once, and does not stop the run.
        - A run that goes on is told from its beginning.

    Args:
        warn: told one sentence for each sink that fails.
    """
    working = list(sinks)
    course = _course_of(folder) if working else Course()

    def tell(so_far: Course, of: Path | None = None) -> None:
        for sink in list(working):
            try:
                _tell(sink, told_of(so_far), of)
            except Exception as fault:  # noqa: BLE001  # libraries and stores raise anything
                working.remove(sink)
                warn(f"The run goes on without being told there. {_sentence(fault)}")

    def listen(event: Event) -> None:
        if working:
            course.take([json.dumps(event).encode()])
        if event["event"] in _MOMENTS:
            tell(course)

    try:
        yield [listen] if working else []
    finally:
        # From the disk: a run on Flower's own runtime has no listeners here.
        if working and (whole := _course_of(folder)).has_begun:
            tell(whole, folder)


def _course_of(folder: Path) -> Course:
    course = Course()
    course.take(Tail(path=folder / JOURNAL).read().lines)
    return course


def _sentence(fault: Exception) -> str:
    """Our own words; of what others raise the class alone, as its text may quote anything."""
    if isinstance(fault, RunError):
        return str(fault)
    return (
        f"Expected a place that takes it, found {type(fault).__name__}. “wardround report RUN” "
        "with the same option tells the run again at any time."
    )


def _tell(sink: Sink, told: Told, folder: Path | None) -> None:
    try:
        sink.tell(told)
        if folder is not None:
            sink.keep(told, folder)
    except OSError as fault:
        raise RunError(f"Expected a place to tell the run, found: {fault}.") from None
