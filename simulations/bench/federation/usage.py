"""Memory and processor time of process trees, as Linux counts them."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
_KB = 1024
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# A process is what the first of these words in its command line says.
_ROLES = {
    "flower-superlink": "superlink",
    "server": "server's supervisor",
    "server.superlink.keep": "server's supervisor",
    "serve": "site process",
    "connect": "connector",
    "flower-supernode": "supernode",
    "flower-superexec": "supernode's helper",
    "flwr-clientapp": "client app",
    "flwr-serverapp": "server app",
}
OTHER = "supervisor"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes.

    Attributes:
        rss: resident pages, those that several processes share counted for each.
        pss: the same, those that n processes share counted as an n-th: what can be summed.
    """

    rss: int
    pss: int

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(rss=self.rss + other.rss, pss=self.pss + other.pss)


NO_MEMORY = Memory(rss=0, pss=0)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one process used.

    Attributes:
        cpu_s: seconds of processor time so far, of ended and awaited children too.
    """

    role: str
    memory: Memory
    cpu_s: float


def role_of(arguments: Sequence[str]) -> str:
    """What a process is, by its command line.

    >>> role_of(["/usr/bin/python", "/usr/bin/wardround", "site", "connect", "sites/serve"])
    'connector'
    """
    for argument in arguments:
        if (role := _ROLES.get(Path(argument).name if "/" in argument else argument)) is not None:
            return role
    return OTHER


def parse_rollup(text: str) -> Memory:
    r"""What /proc/PID/smaps_rollup says.

    >>> parse_rollup("00-ff ---p 0 00:00 0 [rollup]\nRss:    8 kB\nPss:    4 kB\nPss_Anon: 1 kB")
    Memory(rss=8192, pss=4096)
    """
    fields = dict(line.split(":", 1) for line in text.splitlines() if line.endswith("kB"))
    return Memory(rss=int(fields["Rss"].split()[0]) * _KB, pss=int(fields["Pss"].split()[0]) * _KB)


def parse_cpu(stat: str) -> float:
    """Seconds of processor time by /proc/PID/stat, of ended and awaited children too.

    >>> parse_cpu("7 (a b) c) S " + "0 " * 10 + "100 50 25 25 0") * _TICKS_PER_S
    200.0
    """
    # The name, in brackets, may hold anything: what is counted stands after its end.
    return sum(map(int, stat.rpartition(")")[2].split()[11:15])) / _TICKS_PER_S


def tree_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in (_PROC / str(parent) / "task").glob("*"):
            with suppress(OSError):
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def usage_of(pids: Iterable[int]) -> list[Usage]:
    """What processes use now; one that has just ended is left out."""
    found = []
    for pid in pids:
        folder = _PROC / str(pid)
        with suppress(OSError, KeyError):
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            found.append(
                Usage(
                    role=role_of(arguments),
                    memory=parse_rollup((folder / "smaps_rollup").read_text(encoding="ascii")),
                    cpu_s=parse_cpu((folder / "stat").read_text(encoding="utf-8")),
                )
            )
    return found


def memory_by_role(usages: Iterable[Usage]) -> dict[str, Memory]:
    """The memory of the largest process of each role."""
    found: dict[str, Memory] = {}
    for usage in usages:
        known = found.get(usage.role, NO_MEMORY)
        found[usage.role] = larger(known, usage.memory)
    return found


def cpu_by_role(usages: Iterable[Usage]) -> dict[str, float]:
    """Seconds of processor time of all processes of each role."""
    found: dict[str, float] = {}
    for usage in usages:
        found[usage.role] = found.get(usage.role, 0.0) + usage.cpu_s
    return found


def larger(one: Memory, other: Memory) -> Memory:
    """The larger of each figure.

    >>> larger(Memory(rss=3, pss=1), Memory(rss=2, pss=2))
    Memory(rss=3, pss=2)
    """
    return Memory(rss=max(one.rss, other.rss), pss=max(one.pss, other.pss))


class Watch(threading.Thread):
    """Samples memory while it runs. Sampling takes time: it is for runs that are not timed.

    Attributes:
        peak: by role, the largest sample of any one process of it.
        peak_total: the largest sum over all processes at one moment.
    """

    def __init__(self, sample: Callable[[], Sequence[Usage]], *, pause_s: float) -> None:
        super().__init__(name="memory", daemon=True)
        self._sample = sample
        self._pause_s = pause_s
        self._end = threading.Event()
        self.peak: Mapping[str, Memory] = {}
        self.peak_total = NO_MEMORY

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        """Samples until it is left."""
        while not self._end.wait(self._pause_s):
            self.take(self._sample())

    def take(self, usages: Sequence[Usage]) -> None:
        """Counts one sample."""
        now = memory_by_role(usages)
        self.peak = {
            role: larger(self.peak.get(role, NO_MEMORY), now.get(role, NO_MEMORY))
            for role in {*self.peak, *now}
        }
        total = sum((usage.memory for usage in usages), NO_MEMORY)
        self.peak_total = larger(self.peak_total, total)
