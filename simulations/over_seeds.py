"""The same work for several seeds (and variants, and folds), in processes of their own."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from common.errors import RunError, WardroundError

_PROGRESS_S = 1.0

R = TypeVar("R")


def over_seeds(
    work: Mapping[str, Callable[[], R]],
    *,
    jobs: int,
    on_done: Callable[[str], None] = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
) -> dict[str, R]:
    """What each piece of work returns, by its name.

    Guarantees:
        - Results are in the order of `work`, whatever the number of processes and whichever is
          finished first.
        - After a failure, or an interruption, nothing is begun that was not running.
        - What a piece raises is raised, and names the piece.
        - No process outlives the one that called, even if that is killed.

    Args:
        work: by a name that people read ("seed 3"); functions of modules, so that another process
            finds them, with their arguments (`functools.partial`).
        jobs: processes at once.
        on_done: told the name of each piece that is finished.
        on_wait: called first, then about every second, and after each piece.

    Raises:
        RunError: a process was killed, as happens where memory runs out.
    """
    names: dict[Future[R], str] = {}
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    try:
        names |= {pool.submit(piece): name for name, piece in work.items()}
        on_wait()
        pending = set(names)
        while pending:
            done, pending = wait(pending, timeout=_PROGRESS_S, return_when=FIRST_COMPLETED)
            for future in done:
                _raise_named(future, names[future])
                on_done(names[future])
            on_wait()
        return {name: future.result() for future, name in names.items()}
    except BrokenProcessPool:
        unfinished = [name for future, name in names.items() if not _is_finished(future)]
        raise RunError(
            f"Expected every process to finish, found one that was killed; not finished: "
            f"{', '.join(unfinished)}. If memory ran out, take fewer --jobs."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Ends this worker as soon as the process that started it is gone, even by SIGKILL.

    It would go on with its piece, and then wait for another one for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _raise_named(future: Future[Any], name: str) -> None:
    """Nothing, unless the piece failed: then its error, with the name in front or as a note."""
    try:
        future.result()
    except BrokenProcessPool:
        raise
    except WardroundError as error:
        error.args = (f"{name}: {error}", *error.args[1:])
        raise
    except Exception as error:
        error.add_note(f"It was raised by {name}.")
        raise


def _is_finished(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
