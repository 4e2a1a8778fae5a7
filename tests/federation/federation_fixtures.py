"""Whole federations on this machine in tests: the command as typed, and what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.study import Study
from simulations.simulate import Simulation, simulate

WAIT_S = 300.0


def until(condition: Callable[[], object], *, timeout_s: float = WAIT_S) -> None:
    """Returns once `condition` holds. Raises TimeoutError where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that name `folder` in theirs, or in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) in (os.getpid(), os.getppid()):
            continue
        with suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if str(folder).encode() in words + (process / "environ").read_bytes():
                found.append(words.replace(b"\0", b" ").decode())
    return found


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """The events of a kind in the journal of a run, as far as it has come."""
    path = run / "journal.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def tree_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder, by its path from there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


@dataclass(frozen=True, kw_only=True)
class Command:
    """`wardround federation up`, as a process of its own."""

    process: subprocess.Popen[str]

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def reaches(self, condition: Callable[[], object]) -> None:
        """Returns once `condition` holds; fails where the command ends before that."""
        until(lambda: condition() or self.process.poll() is not None)
        assert condition(), self.ended()

    def ended(self) -> tuple[int, str]:
        """The exit code, and all that it printed."""
        printed, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, printed


@contextmanager
def federation_up(study: Path, sites: Path, run: Path, *options: object) -> Iterator[Command]:
    """The command over the hospitals of `sites`; a test that fails leaves nothing of it either."""
    words = ["federation", "up", study, "--sites", sites, "--out", run, *options]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("wardround")), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Command(process=process)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=WAIT_S)
        if process.poll() is None:
            process.kill()
            process.communicate()


def model_in_process(study: Study, sites: Path, out: Path) -> bytes:
    """The final model of the same study by the in-process engine."""
    simulate(Simulation(study=study, sites=sites, out=out))
    return (out / "model.safetensors").read_bytes()
