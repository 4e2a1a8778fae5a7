"""The proxy that the tests of partitions rely on fails as it says, and only then."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.federation.blackhole import Blackhole, Way, blackhole
from tests.federation.deployment import until


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says back what it is told."""
    listener = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []

    def serve(end: socket.socket) -> None:
        try:
            while piece := end.recv(1 << 16):
                end.sendall(piece)
        except OSError:
            pass

    def accept() -> None:
        try:
            while True:
                end, _ = listener.accept()
                ends.append(end)
                threading.Thread(target=serve, args=(end,), daemon=True).start()
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for end in ends:
        end.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Blackhole]:
    with blackhole(echo) as proxy:
        yield proxy


def connected(proxy: Blackhole) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3)


def read(end: socket.socket, size: int) -> bytes:
    end.settimeout(10)
    said = b""
    while len(said) < size:
        said += end.recv(size - len(said))
    return said


def test_it_passes_a_megabyte_unchanged_and_knows_how_much(proxy: Blackhole) -> None:
    said = bytes(range(256)) * 4096
    with connected(proxy) as end:
        threading.Thread(target=end.sendall, args=(said,), daemon=True).start()
        assert read(end, len(said)) == said
    assert proxy.up.num_bytes == proxy.down.num_bytes == len(said)


@pytest.mark.parametrize("held", ["up", "down"])
def test_what_was_held_arrives_after_the_healing(proxy: Blackhole, held: str) -> None:
    with connected(proxy) as end:
        end.sendall(b"a")
        assert read(end, 1) == b"a"
        getattr(proxy, held).way = Way.HOLD
        end.settimeout(0.3)
        end.sendall(b"b")
        with pytest.raises(TimeoutError):
            end.recv(1)
        proxy.heal()
        assert read(end, 1) == b"b"


def test_a_connection_that_is_made_while_everything_is_held_works_afterwards(
    proxy: Blackhole,
) -> None:
    proxy.both(Way.HOLD)
    with connected(proxy) as end:
        end.sendall(b"a")
        with pytest.raises(TimeoutError):
            end.recv(1)
        proxy.heal()
        assert read(end, 1) == b"a"


def test_a_connection_of_which_bytes_were_swallowed_stays_silent_and_open(
    proxy: Blackhole,
) -> None:
    with connected(proxy) as end:
        proxy.both(Way.SWALLOW)
        end.sendall(b"a")
        with pytest.raises(TimeoutError):
            end.recv(1)
        proxy.heal()
        end.sendall(b"b")
        with pytest.raises(TimeoutError):
            end.recv(1)
        with connected(proxy) as other:
            other.sendall(b"c")
            assert read(other, 1) == b"c"


def test_a_reset_ends_old_and_new_connections(proxy: Blackhole) -> None:
    with connected(proxy) as end:
        end.sendall(b"a")
        assert read(end, 1) == b"a"
        proxy.both(Way.RESET)
        with pytest.raises(ConnectionResetError):
            read(end, 1)
        with pytest.raises(ConnectionResetError), connected(proxy) as new:
            read(new, 1)


def test_a_trap_springs_in_the_middle_of_a_message(proxy: Blackhole) -> None:
    said = b"x" * 1_000_000
    proxy.up.trap_after(300_000, Way.HOLD)
    with connected(proxy) as end:
        end.settimeout(None)
        threading.Thread(target=end.sendall, args=(said,), daemon=True).start()
        assert proxy.up.tripped.wait(10)
        assert 300_000 <= proxy.up.num_bytes < 600_000
        proxy.heal()
        assert read(end, len(said)) == said


def test_a_slow_line_forwards_all_the_same(proxy: Blackhole) -> None:
    proxy.up.bytes_per_s = 2_000
    with connected(proxy) as end:
        end.sendall(b"x" * 400)
        assert end.recv(400) != b"x" * 400  # in pieces
        until(lambda: proxy.up.num_bytes == 400)
