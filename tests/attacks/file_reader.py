"""A program that reads damaged files and says what came of each: run as a process of its own.

It may be killed by what it reads; `file_watch` sees that. Each line of stdin asks for mutants of a
format; on stdout stands "begin N" before each is read, and what it came to behind it.
"""

import json
import logging
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from common.errors import WardroundError
from tests.attacks.file_bombs import BOMBS
from tests.attacks.file_controls import controls
from tests.attacks.file_formats import FORMATS, Trial

CANARIES = ("canary", "90731", "canäry")
# Address space, not memory in use: room for what libraries reserve and never touch.
MAX_ADDRESS_BYTES = 6 << 30


class _Log(logging.Handler):
    """Everything that is logged above debug, as text."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def main() -> None:
    """Answers until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    soft_hard = (MAX_ADDRESS_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1])
    resource.setrlimit(resource.RLIMIT_AS, soft_hard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        log = _Log()
        logging.getLogger().addHandler(log)
        known = FORMATS | BOMBS | {"controls": controls}
        trials: dict[str, Trial] = {}
        for line in sys.stdin:
            request = json.loads(line)
            trial = trials.get(request["format"])
            if trial is None:
                own = Path(folder) / request["format"]
                own.mkdir()
                trial = trials[request["format"]] = known[request["format"]](own)
            for number in request["numbers"]:
                print("begin", number, file=answers, flush=True)
                answer = _answer(trial, number, log, printed, request["processor_s"])
                print(json.dumps(answer), file=answers, flush=True)


def _answer(
    trial: Trial, number: int, log: _Log, printed: IO[bytes], processor_s: float
) -> dict[str, Any]:
    """What reading came to: faults, whether the file was refused, seconds and bytes used."""
    read = trial(number)
    log.texts.clear()
    printed.seek(0)
    printed.truncate()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before_bytes, start_s = _memory_bytes("VmRSS"), time.process_time()
    # Its default action ends the process, inside of native code, too.
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    told, faults, is_refused = "", [], True
    try:
        findings = read()
        told = "\n".join(f.sentence() for f in findings)
        is_refused = any(f.severity == "error" for f in findings)
    except WardroundError as refusal:
        told = str(refusal)
    except Exception as fault:  # noqa: BLE001 (this is what is looked for)
        faults.append(f"raised {type(fault).__name__}: {fault}"[:300])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stderr.flush()
    printed.seek(0)
    said = printed.read().decode(errors="replace")
    if said or log.texts:
        faults.append(f"said {said[:300]!r} {log.texts}")
    if any(canary in told.casefold() for canary in CANARIES):
        faults.append(f"told {told[:300]!r}")
    return {
        "faults": faults,
        "is_refused": is_refused,
        "processor_s": time.process_time() - start_s,
        "memory_bytes": max(0, _memory_bytes("VmHWM") - before_bytes),
    }


def _memory_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
