"""A TCP proxy on loopback that can be told to fail as networks do.

It stands between a connector and its SuperLink. Each direction has its own way:

    PASS      forwards
    HOLD      accepts, takes nothing, forwards nothing: packets are lost, and TCP sends them again
              after the healing, even those of a program that has given up meanwhile
    SWALLOW   takes and throws away: a router that has forgotten the connection; such a connection
              never works again, and nobody is told
    RESET     ends every connection, old and new, by a reset
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from enum import Enum, auto

_CHUNK_BYTES = 1 << 16
_TURN_S = 0.05
_NO_LINGER = struct.pack("ii", 1, 0)  # close() sends a reset


class Way(Enum):
    """What becomes of the bytes of one direction."""

    PASS = auto()
    HOLD = auto()
    SWALLOW = auto()
    RESET = auto()


class Direction:
    """The way of one direction, which pumps read and a test sets.

    Attributes:
        num_bytes: forwarded so far.
        tripped: set once a trap has sprung.
    """

    def __init__(self) -> None:
        self.way = Way.PASS
        self.bytes_per_s: float | None = None
        self.num_bytes = 0
        self.tripped = threading.Event()
        self._trap: tuple[Callable[[bytes], bool], Way] | None = None

    def trap(self, is_it: Callable[[bytes], bool], then: Way) -> None:
        """At the first piece that `is_it`, before it is forwarded, the way becomes `then`."""
        self.tripped.clear()
        self._trap = (is_it, then)

    def trap_after(self, num_bytes: int, then: Way) -> None:
        """When so many more bytes have been forwarded, the way becomes `then`."""
        limit = self.num_bytes + num_bytes
        self.trap(lambda _: self.num_bytes >= limit, then)

    def check(self, piece: bytes) -> None:
        """Springs the trap if `piece` is what it waits for."""
        if self._trap is not None and self._trap[0](piece):
            self.way, self._trap = self._trap[1], None
            self.tripped.set()


class Blackhole:
    """The proxy. `up` is towards the server, `down` towards who has connected."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self.up, self.down = Direction(), Direction()
        self.num_connections = 0
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.settimeout(_TURN_S)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def both(self, way: Way) -> None:
        """Sets the way of both directions."""
        self.up.way = self.down.way = way

    def heal(self) -> None:
        """Forwards again, at full speed."""
        for direction in (self.up, self.down):
            direction.bytes_per_s, direction.way = None, Way.PASS

    def close(self) -> None:
        """Ends every connection and every thread."""
        self._ended.set()
        for thread in list(self._threads):
            thread.join(10)
        assert not any(thread.is_alive() for thread in self._threads)

    def _start(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads = [thread for thread in self._threads if thread.is_alive()] + [thread]
        thread.start()

    def _accept(self) -> None:
        with closing(self._listener):
            while not self._ended.is_set():
                with suppress(TimeoutError):
                    near, _ = self._listener.accept()
                    self.num_connections += 1
                    self._start(self._carry, near)

    def _carry(self, near: socket.socket) -> None:
        """One connection, from its start to its end."""
        ends = [near]
        broken = threading.Event()
        try:
            while len(ends) == 1 and not self._ended.is_set():
                if self.up.way is Way.HOLD:
                    self._ended.wait(_TURN_S)
                elif self.up.way is Way.RESET:
                    raise ConnectionResetError
                else:
                    ends.append(socket.create_connection(("127.0.0.1", self._to_port), timeout=5))
            if len(ends) == 2:
                self._pump_both(*ends, broken)
        except OSError:
            broken.set()  # nobody listens there
        finally:
            for end in ends:
                if broken.is_set():
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                end.close()

    def _pump_both(self, near: socket.socket, far: socket.socket, broken: threading.Event) -> None:
        for end in (near, far):
            end.settimeout(_TURN_S)
        back = threading.Thread(target=self._pump, args=(far, near, self.down, broken), daemon=True)
        back.start()
        self._pump(near, far, self.up, broken)
        back.join()

    def _pump(
        self,
        source: socket.socket,
        target: socket.socket,
        direction: Direction,
        broken: threading.Event,
    ) -> None:
        """Forwards one direction of a connection until it ends, or either is reset."""
        is_lost = False
        try:
            while not (self._ended.is_set() or broken.is_set()):
                if Way.RESET in (self.up.way, self.down.way):
                    raise ConnectionResetError
                if direction.way is Way.HOLD:
                    self._ended.wait(_TURN_S / 10)
                    continue
                with suppress(TimeoutError):
                    piece = source.recv(_CHUNK_BYTES)
                    if not piece:
                        if not is_lost:
                            target.shutdown(socket.SHUT_WR)
                        return
                    # A direction of which something is lost forwards nothing any more.
                    is_lost = is_lost or not self._forward(piece, target, direction)
        except OSError:
            broken.set()

    def _forward(self, piece: bytes, target: socket.socket, direction: Direction) -> bool:
        """Forwards one piece, once the way allows it; False where it is thrown away."""
        rest = memoryview(piece)
        direction.check(piece)
        while rest and not self._ended.is_set():
            if direction.way is Way.SWALLOW:
                return False
            if direction.way is Way.RESET:
                raise ConnectionResetError
            if direction.way is Way.HOLD:
                self._ended.wait(_TURN_S / 10)
                continue
            size = len(rest)
            if direction.bytes_per_s is not None:
                size = min(size, max(1, int(direction.bytes_per_s * _TURN_S)))
                self._ended.wait(_TURN_S)
            with suppress(TimeoutError):
                sent = target.send(rest[:size])
                direction.num_bytes += sent
                rest = rest[sent:]
            if rest:
                direction.check(bytes(rest))
        return True


@contextmanager
def blackhole(to_port: int) -> Iterator[Blackhole]:
    """A proxy in front of a port of this machine; it passes until it is told otherwise."""
    proxy = Blackhole(to_port)
    try:
        yield proxy
    finally:
        proxy.close()
