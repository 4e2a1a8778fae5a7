"""Readers that do what none may, so that the watch on the others is known to see it."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from client.findings import Finding, error
from tests.attacks.file_formats import Read, Trial

_BYTES = 600 << 20


def _dies() -> list[Finding]:
    os.abort()


def _hangs() -> list[Finding]:
    while True:
        time.process_time()


def _tells() -> list[Finding]:
    return [error("a table", "a number", "canaryword001", "Export it again.")]


def _prints() -> list[Finding]:
    os.write(2, b"a")
    return []


def _logs() -> list[Finding]:
    logging.getLogger("library").warning("a")
    return []


def _raises() -> list[Finding]:
    raise IndexError("no sentence")


def _fills() -> list[Finding]:
    len(b"\1" * _BYTES)
    return []


# What the fault says of each; of the last, only the memory tells.
CONTROLS: dict[Callable[[], list[Finding]], str] = {
    _dies: "ended with -6",
    _hangs: "used up its processor time",
    _tells: "told",
    _prints: "said",
    _logs: "said",
    _raises: "raised IndexError",
    _fills: "",
}


def controls(_: Path) -> Trial:
    """A format whose reader of each number does something else that is not allowed."""

    def trial(number: int) -> Read:
        return list(CONTROLS)[number]

    return trial
