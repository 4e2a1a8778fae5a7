"""A consortium as its members run it: commands under a service manager, and what they start.

All of them are tied to the test's process, so that nothing is left of one that is killed.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from common.tether import tied
from tests.federation.consortium import ConsortiumOnDisk

_DELAY_S = 0.5
_WARDROUND = Path(sys.executable).with_name("wardround")


@dataclass(kw_only=True)
class Service:
    """A command that is started again whenever it fails, as `Restart=on-failure` does.

    Attributes:
        kind: the command in two words.
        words: of the command; asked for anew at each start.
        codes: the exit codes so far.
    """

    kind: str
    words: Callable[[], Sequence[object]]
    log: Path
    codes: list[int] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def keep_up(self) -> None:
        """Starts it, until it ends well or `end` is called."""
        while not self._ended.is_set():
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    tied([sys.executable, str(_WARDROUND), *map(str, self.words())]),
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            # Ended while it was being started: `end` has not seen it.
            if self._ended.is_set():
                self.process.terminate()
            self.codes.append(self.process.wait())
            if self.codes[-1] == 0:
                return
            self._ended.wait(_DELAY_S)

    def end(self) -> None:
        """Asks it to end, and not to be started again."""
        self._ended.set()
        if self.process is not None:
            self.process.terminate()


@contextmanager
def services(
    consortium: ConsortiumOnDisk, study: Path, run: Path
) -> Iterator[Mapping[str, Service]]:
    """Server, hospitals and a run, each kept up; all of them have ended afterwards.

    The thread that starts a command lives as long as the command: the kernel would end it.
    """
    folder = consortium.coordinator

    def resume() -> list[str]:
        return ["--resume"] if (run / "journal.jsonl").exists() else []

    words: dict[str, Callable[[], Sequence[object]]] = {
        "server up": lambda: ["server", "up", folder],
        "server run": lambda: ["server", "run", study, "--dir", folder, "--out", run, *resume()],
    }
    for name, site_dir in consortium.sites.items():
        words[f"site up {name}"] = lambda site_dir=site_dir: ["site", "up", site_dir]  # type: ignore[misc]
    log = consortium.folder / "services"
    log.mkdir()
    made = {
        name: Service(
            kind=" ".join(name.split()[:2]), words=w, log=log / f"{name.replace(' ', '-')}.log"
        )
        for name, w in words.items()
    }
    threads = [threading.Thread(target=s.keep_up, name=name) for name, s in made.items()]
    with ExitStack() as stack:
        for service, thread in zip(made.values(), threads, strict=True):
            thread.start()
            # Left in the opposite order: hospitals, the run, and the server last.
            stack.callback(thread.join)
            stack.callback(service.end)
        yield made


def processes_below(service: Service) -> Mapping[str, int]:
    """The process of each kind that a service has now: its own, and those that it has started."""
    if service.process is None or service.process.poll() is not None:
        return {}
    found = {service.kind: service.process.pid}
    for pid in children_of(service.process.pid):
        words: list[str] = []
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        # One that has just ended has no words; between fork and exec a child has its parent's.
        program = Path(words[1]).name if len(words) > 1 else ""
        if program == "flower-superlink":
            found["SuperLink"] = pid
        elif program == "wardround" and words[2:4] != service.kind.split():
            found[" ".join(words[2:4])] = pid
    return found


def children_of(pid: int) -> list[int]:
    """The ids of the processes that a process has started, whichever of its threads did."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found
