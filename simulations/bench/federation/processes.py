"""Flower's own programs, as its users start them; all that they start has ended with them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import RunError
from common.quiet import QUIET
from common.tether import tied
from simulations.marked_processes import end_marked

_MARK = "FLWR_HOME"
_GRACE_S = 10.0
_POLL_S = 0.1


@contextmanager
def running(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has ended afterwards, with all that descends from it.

    Args:
        command: its first word is found beside this interpreter.
        folder: its own, made here; log, Flower's files and an empty working folder are in it.
        environment: on top of this process's own.
    """
    (folder / "empty").mkdir(parents=True)
    programs, home = Path(sys.executable).parent, str(folder / "flwr")
    own = {
        **QUIET,
        _MARK: home,
        # Flower finds its helpers by name.
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  # our own command line, no shell
            tied([str(programs / command[0]), *command[1:]]),
            env={**os.environ, **own, **environment},
            cwd=folder / "empty",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        end_marked(_MARK, home, grace_s=_GRACE_S)
        process.wait()


def wait_until(
    condition: Callable[[], bool],
    what: str,
    programs: Sequence[subprocess.Popen[bytes]],
    *,
    timeout_s: float,
) -> None:
    """Returns once `condition` holds.

    Raises:
        RunError: one of `programs` has ended before, or time is up.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        ended = [program for program in programs if program.poll() is not None]
        if ended:
            raise RunError(
                f"Expected {what}, found that a program ended with code {ended[0].returncode}. "
                "Its log is in the bench's folder."
            )
        if time.monotonic() > deadline:
            raise RunError(f"Expected {what} within {timeout_s:.0f} s, found that it is not so.")
        time.sleep(_POLL_S)
