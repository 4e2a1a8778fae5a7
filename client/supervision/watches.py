"""What tells that a process works, and what tells that it has to start anew.

Ages are differences of a monotonic clock, which nobody sets: a file's time is only looked at for
whether it has changed.
"""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.agent_address import parse_address

Clock = Callable[[], float]

_ASK_EVERY_S = 5.0
_ANSWER_WITHIN_S = 5.0


class LifeSigns(Protocol):
    """Whether a running process works."""

    def begin(self) -> None:
        """A new process has been started."""

    def silent_s(self) -> float:
        """Seconds since the last sign of life, or since `begin`."""

    def close(self) -> None:
        """Nothing is asked any more."""


class Heartbeat:
    """Signs of life of a process that touches a file.

    Guarantees:
        - A clock that is set changes no age.
        - A file that is not there, or cannot be looked at, is a silent one.
    """

    def __init__(self, path: Path, *, clock: Clock = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """A new process has been started."""
        self._seen, self._since = stamp_of(self._path), self._clock()

    def silent_s(self) -> float:
        """Seconds since the file last changed, as far as it was looked at."""
        seen = stamp_of(self._path)
        if seen != self._seen and seen is not None:
            self._seen, self._since = seen, self._clock()
        return self._clock() - self._since

    def close(self) -> None:
        """Nothing to do."""


class Health:
    """Signs of life of a site process: answers of its health service, whatever they say.

    It answers from threads of its own while it loads or trains, so that no answer means that the
    process hangs, or was stopped. It is asked by a thread, so that nobody waits for it.

    Attributes:
        num_unanswered: how many times it was asked without an answer.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Clock = time.monotonic,
        every_s: float = _ASK_EVERY_S,
        within_s: float = _ANSWER_WITHIN_S,
    ) -> None:
        self.num_unanswered = 0
        self._clock = clock
        self._every_s = every_s
        self._within_s = within_s
        self._since = clock()
        self._is_closed = threading.Event()
        # A hospital's http_proxy is for other machines.
        options = (
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_reconnect_backoff_ms", 2000),
        )
        self._channel = grpc.insecure_channel(parse_address(address).target, options=options)
        self._stub = health_pb2_grpc.HealthStub(self._channel)
        self._thread = threading.Thread(target=self._ask, name="health", daemon=True)

    def begin(self) -> None:
        """A new process has been started."""
        self._since = self._clock()
        if not self._thread.is_alive():
            self._thread.start()

    def silent_s(self) -> float:
        """Seconds since the last answer."""
        return self._clock() - self._since

    def close(self) -> None:
        """Asks no more."""
        self._is_closed.set()
        self._channel.close()
        if self._thread.is_alive():
            self._thread.join(2 * self._within_s)

    def _ask(self) -> None:
        request = health_pb2.HealthCheckRequest()
        while not self._is_closed.is_set():
            try:
                self._stub.Check(request, timeout=self._within_s)
                self._since = self._clock()
            except (grpc.RpcError, ValueError):  # ValueError: the channel is closed
                self.num_unanswered += 1
            self._is_closed.wait(self._every_s)


class Files:
    """Files that a process has read when it started: a change means that it must start anew."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._stamps()

    def begin(self) -> None:
        """A process is about to be started, which reads them as they are now."""
        self._seen = self._stamps()

    def have_changed(self) -> bool:
        """Whether one of them is another than at `begin`."""
        return self._stamps() != self._seen

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(stamp_of(path) for path in self._paths)


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
