"""The processes of a federation on one machine: started together, and all of them ended with us."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import RunError
from common.signals import handled
from common.tether import tied
from simulations.marked_processes import end_marked

MARK = "WARDROUND_FEDERATION"

# A task in work may take longer: it is given up then, and what it was charged stays charged.
_GRACE_S = 10.0
_POLL_S = 0.05
# Our own sentences, which hold counts and never a value of a patient. Nothing else is quoted.
_SENTENCE = re.compile(r"\b[a-z_]+: (Expected .*)")
_LARGEST_TAIL_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process, with all that it starts, and where they log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def why_it_ended(self) -> str:
        """One sentence on its end: its own, if it said one of ours."""
        told = [s[1].strip() for line in _tail(self.log) if (s := _SENTENCE.search(line))]
        said = f": {told[-1]}" if told else "."
        return (
            f"Expected {self.name} to go on, found that it ended with code "
            f"{self.process.returncode}{said} Its log is {self.log}."
        )


@dataclass(kw_only=True)
class Family:
    """The processes of one deployment.

    Guarantees:
        - None of them, nor what they have started, is there after `family` is left.
        - The kernel ends them when the thread that started them has ended, however it did (Linux).

    Attributes:
        look: called whenever they are looked after; it raises what is to end the waiting.
    """

    folder: Path
    look: Callable[[], None] = lambda: None
    children: list[Child] = field(default_factory=list)

    @property
    def logs(self) -> Path:
        """Where each process, with all that it starts, has its log."""
        return self.folder / "logs"

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Starts the command `wardround ARGUMENTS`, out of reach of the terminal's Ctrl-C."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        program = str(Path(sys.executable).with_name("wardround"))
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603  # our own command line, no shell
                tied([sys.executable, program, *arguments]),
                env=os.environ | {MARK: str(self.folder), "PYTHONUNBUFFERED": "1"},
                # Python looks for modules here first, and there are none.
                cwd=self.logs,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.children.append(Child(name=name, process=process, log=log))

    def check(self) -> None:
        """Nothing, while all go on. Raises `RunError` that names the first that has ended."""
        self.look()
        for child in self.children:
            if child.process.poll() is not None:
                raise RunError(child.why_it_ended())

    def end(self) -> None:
        """Ends them, the first one last: it is whom the others speak to."""
        for generation in (self.children[1:], self.children[:1]):
            _end(generation)
        end_marked(MARK, str(self.folder), grace_s=_GRACE_S)


@contextmanager
def family(folder: Path, *, look: Callable[[], None] = lambda: None) -> Iterator[Family]:
    """The processes of the deployment in `folder`; what a killed parent has left is ended first.

    From the main thread, they are ended undisturbed by a second Ctrl-C.
    """
    end_marked(MARK, str(folder), grace_s=_GRACE_S)
    members = Family(folder=folder, look=look)
    try:
        yield members
    finally:
        with _undisturbed():
            members.end()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignores signals that would interrupt the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


def _end(children: Sequence[Child]) -> None:
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for child in children:
        try:
            child.process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()


def _tail(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - _LARGEST_TAIL_BYTES, 0))
        return file.read().decode(errors="replace").splitlines()
