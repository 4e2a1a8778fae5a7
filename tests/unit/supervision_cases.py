"""Small programs to keep alive, and what is watched of them."""

import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.supervision.child import Child, Program
from client.supervision.restarts import Restarts
from client.supervision.watches import Files
from tests.unit.agent_cases import until

# Goes on until told to end; `{extra}` runs first. No handler may print: it may interrupt a print.
SLEEPER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
{extra}
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


class Alive:
    """Signs of life as a test wants them."""

    def __init__(self) -> None:
        self.silence = 0.0
        self.num_begun = 0

    def begin(self) -> None:
        self.num_begun += 1
        self.silence = 0.0

    def silent_s(self) -> float:
        return self.silence

    def close(self) -> None:
        self.silence = 0.0


class NoDelay(random.Random):
    """Draws nothing but zeros: a delay of none."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0 * (a + b)


def program(
    code: str, *, name: str = "sleeper", files: tuple[Path, ...] = (), **other: Any
) -> Program:
    given = {
        "environment": {},
        "signs": Alive(),
        "silence_s": 1.0,
        "renewal": signal.SIGTERM,
        "grace_s": 20.0,
    }
    command = (sys.executable, "-I", "-S", "-c", code)
    return Program(name=name, command=command, files=Files(files), **{**given, **other})


def sleeper(extra: str = "", **other: Any) -> Program:
    return program(SLEEPER.format(extra=extra), **other)


class Nursery:
    """A child, and the lines that it has written."""

    def __init__(self, what: Program, **other: Any) -> None:
        self.lines: list[str] = []
        other = {"restarts": Restarts(NoDelay()), **other}
        self.child = Child(what, show=self.lines.append, **other)

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.end()

    def tended_until(self, is_true: Callable[[], object]) -> None:
        """Tends the child until something is so."""

        def tended() -> bool:
            self.child.tend()
            return bool(is_true())

        until(tended)

    def num_lines(self, line: str) -> int:
        return sum(found.endswith(f"| {line}") for found in self.lines)

    def started(self, times: int = 1) -> int:
        """The process, once it was started so often and is ready."""
        self.tended_until(lambda: self.num_lines("ready") >= times)
        assert self.child.pid is not None
        return self.child.pid
