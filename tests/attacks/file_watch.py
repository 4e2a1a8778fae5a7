"""Watches `file_reader`: what it says, that it ends, and by what."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# Nothing of the site's own may take so long; far above what a loaded machine makes of a second.
SILENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What reading one mutant came to.

    Attributes:
        faults: what must not happen, in words; empty where all is well.
        is_refused: whether the file was refused, with a sentence.
    """

    number: int
    faults: tuple[str, ...]
    is_refused: bool
    processor_s: float
    memory_bytes: int


class WatchedReader:
    """A process that reads mutants, started when it is needed, and again when one has killed it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "WatchedReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def outcomes(self, name: str, numbers: Sequence[int], processor_s: float) -> Iterator[Outcome]:
        """What reading each of these mutants came to, in order.

        A mutant that kills the process, or keeps it silent, is an outcome with a fault.
        """
        left = list(numbers)
        while left:
            process = self._process or self._start()
            assert process.stdin is not None
            request = {"format": name, "numbers": left, "processor_s": processor_s}
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            while left and (line := self._line(process)).startswith("begin"):
                number = left.pop(0)
                assert line.split() == ["begin", str(number)]
                answer = self._line(process)
                if not answer:
                    yield _killed(number, self._end())
                    break
                said = json.loads(answer)
                yield Outcome(number=number, **(said | {"faults": tuple(said["faults"])}))
            else:
                assert not left, "the reader ended between two mutants"

    def _line(self, process: "subprocess.Popen[str]") -> str:
        """The next line; none where the process has ended, or was silent for too long."""
        assert process.stdout is not None
        timer = threading.Timer(SILENCE_S, process.kill)
        timer.start()
        try:
            return process.stdout.readline()
        finally:
            timer.cancel()

    def _start(self) -> "subprocess.Popen[str]":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.file_reader"],
            cwd=REPOSITORY,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self._process

    def _end(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            code = process.wait(timeout=SILENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        process.stdout.close()
        return code


def _killed(number: int, code: int) -> Outcome:
    ends = {-signal.SIGPROF: "used up its processor time", -signal.SIGKILL: "was silent too long"}
    fault = f"the reader {ends.get(code, f'ended with {code}')}"
    return Outcome(
        number=number, faults=(fault,), is_refused=False, processor_s=0.0, memory_bytes=0
    )
