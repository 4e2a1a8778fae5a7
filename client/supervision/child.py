"""One process that is kept alive: started, watched, ended, started again.

All of it happens in the thread that calls `tend`; the kernel ends the process with that thread.
"""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from client.supervision.restarts import Restarts, is_lasting
from client.supervision.watches import Clock, Files, LifeSigns
from common.tether import tied

logger = logging.getLogger(__name__)

Show = Callable[[str], None]

_LONGEST_LINE = 1 << 16
_LAST_WORDS_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to keep alive, and how it is known that it is.

    Attributes:
        name: that its lines begin with.
        command: the first part is an absolute path.
        environment: whole.
        signs: of its life.
        silence_s: without a sign for longer than this, it hangs.
        files: that it has read at its start.
        renewal: the signal by which it ends, in its own time, when these have changed.
        grace_s: how long it may take to end after SIGTERM.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    signs: LifeSigns
    silence_s: float
    files: Files
    renewal: signal.Signals
    grace_s: float


class Child:
    """A program's process, now and again.

    Guarantees:
        - It ends with the thread that called `tend`, even where that is killed.
        - A process that ends by itself or hangs is started again, after a delay that grows; so is
          one that could not be started.
        - A process whose files have changed is asked to end, and started again at once.
        - What it writes is passed on line by line, with its name.

    Attributes:
        given_up: the exit code that no further start would change; None while there is hope.
    """

    def __init__(
        self,
        program: Program,
        *,
        show: Show,
        restarts: Restarts,
        clock: Clock = time.monotonic,
    ) -> None:
        self.given_up: int | None = None
        self._program = program
        self._show = show
        self._clock = clock
        self._restarts = restarts
        self._life: _Life | None = None
        self._next_start = clock()

    @property
    def pid(self) -> int | None:
        """Of the process that runs; None where none does."""
        return None if self._life is None else self._life.process.pid

    def tend(self) -> None:
        """Does what is due now, and waits for nothing."""
        life, program, now = self._life, self._program, self._clock()
        if life is None:
            if self.given_up is None and now >= self._next_start:
                self._try_to_start()
        elif life.process.poll() is not None:
            self._ended(life)
        elif life.kill_at is not None:
            if now >= life.kill_at:
                life.kill()
        elif program.signs.silent_s() > program.silence_s:
            logger.error(
                "the %s has given no sign of life for %.0f s: ending it",
                *(program.name, program.silence_s),
            )
            self._ask_to_end(life)
        elif not life.is_renewed and program.files.have_changed():
            logger.info("the %s ends and starts again, for its files have changed", program.name)
            life.is_renewed = True
            life.process.send_signal(program.renewal)

    def end(self) -> None:
        """Ends the process, and waits for it: SIGTERM, then SIGKILL after its grace."""
        life = self._life
        if life is None:
            return
        self._ask_to_end(life)
        try:
            life.process.wait(self._program.grace_s)
        except subprocess.TimeoutExpired:
            logger.error("the %s did not end: killing it", self._program.name)
            life.kill()
            life.process.wait()
        life.lines.close()
        self._life = None

    def _try_to_start(self) -> None:
        try:
            self._start()
        except OSError as fault:  # no memory, or too many processes or files: later, perhaps
            delay_s = self._restarts.delay_s(lived_s=0.0, is_lasting=False) or 0.0
            self._next_start = self._clock() + delay_s
            logger.error(
                "the %s cannot be started (%s); again in %.1f s",
                *(self._program.name, fault.strerror, delay_s),
            )

    def _start(self) -> None:
        program = self._program
        program.files.begin()
        # A session of its own: an interrupt from the keyboard is passed on in due order, not by the
        # terminal to all at once.
        process = subprocess.Popen(  # noqa: S603  # our own command line
            tied(program.command),
            env=dict(program.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        lines = _Lines(program.name, process, self._show)
        self._life = _Life(process=process, lines=lines, started=self._clock())
        program.signs.begin()
        logger.info("the %s is started, process %d", program.name, process.pid)

    def _ended(self, life: "_Life") -> None:
        self._life = None
        name, code, last = self._program.name, life.process.returncode, life.lines.close()
        if life.is_renewed:
            self._next_start = self._clock()
            return
        lived_s = self._clock() - life.started
        delay_s = self._restarts.delay_s(lived_s=lived_s, is_lasting=is_lasting(code, last))
        if delay_s is None:
            self.given_up = code
            logger.error(
                "the %s has ended again and again with exit code %d, for a reason that a person "
                "must mend; it stands above, after '%s |'",
                *(name, code, name),
            )
            return
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        logger.warning(
            "the %s has ended after %.0f s (%s); again in %.1f s", name, lived_s, end, delay_s
        )
        self._next_start = self._clock() + delay_s

    def _ask_to_end(self, life: "_Life") -> None:
        life.kill_at = self._clock() + self._program.grace_s
        life.process.send_signal(signal.SIGTERM)


class _Lines:
    """Passes on what a process writes, and remembers its last line."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], show: Show) -> None:
        self._name = name
        self._process = process
        self._show = show
        self._last = ""
        self._thread = threading.Thread(target=self._read, name=f"{name} output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        stream = self._process.stdout
        # Bounded, so that a line without an end is no reason to run out of memory.
        while stream is not None and (raw := stream.readline(_LONGEST_LINE)):
            line = raw.decode(errors="replace").rstrip()
            self._last = line or self._last
            # Where nobody reads us any more, the process must go on all the same.
            with suppress(OSError, ValueError):
                self._show(f"{self._name} | {line}")

    def close(self) -> str:
        """The last line, once all is read; whoever else holds the pipe is not waited for."""
        self._thread.join(_LAST_WORDS_S)
        if self._process.stdout is not None and not self._thread.is_alive():
            self._process.stdout.close()
        return self._last


@dataclass(kw_only=True)
class _Life:
    """One process, from its start to its end.

    Attributes:
        kill_at: when it is killed, once it was asked to end.
        is_renewed: whether it was asked to end for files that have changed.
    """

    process: subprocess.Popen[bytes]
    lines: _Lines
    started: float
    kill_at: float | None = None
    is_renewed: bool = False

    def kill(self) -> None:
        """Kills it, and whatever it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
