"""Flower's SuperLink as a child process: started, watched, restarted, and ended with us.

It listens on loopback because it serves Fleet, Control and Runtime API on one port, and the Control
API has no login: whoever reaches it can start runs and register nodes. A reverse proxy that lets
only the fleet routes pass stands before it. Must never leave a process behind, nor load what
`server.superlink.keep` must not.
"""

import ipaddress
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from common.errors import RunError
from common.files import write_atomically
from common.private_files import make_private_folder
from common.quiet import QUIET, SMALL
from common.tether import tied
from server.superlink.tls import tls_of

logger = logging.getLogger(__name__)

_GRACE_S = 5.0
_MAX_LOG_BYTES = 20 * 2**20


def check_host(host: str, *, without_proxy: bool) -> None:
    """Nothing, if the SuperLink may listen at `host`. Raises `RunError` if it may not."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise RunError(
            f"Expected an address of this machine as --host, found '{host}'. Give its number, for "
            "example 127.0.0.1."
        ) from None
    if not address.is_loopback and not without_proxy:
        raise RunError(
            f"Expected a loopback address as --host, found {host}, where anybody on the network "
            "could start runs and register nodes. Put the reverse proxy before 127.0.0.1, or say "
            "by --without-proxy that you trust everybody on this network."
        )


@dataclass(frozen=True, kw_only=True)
class Server:
    """What there is to know of a SuperLink, in plain words and paths.

    Attributes:
        name: of the consortium.
        coordinator: the coordinator's folder.
        folder: of the SuperLink's own files.
        ca: the certificate of the authority that its own is of.
        host, port: where it listens.
        command: its command line, whose first part is an absolute path.
    """

    name: str
    coordinator: str
    folder: str
    ca: str
    host: str
    port: int
    command: tuple[str, ...]


class SuperLink:
    """One SuperLink with its database on disk.

    Guarantees:
        - TLS, and nodes that show a registered key.
        - No telemetry, update check or installation; its working folder is empty.
        - It ends when the thread that started it ends, however that ends.

    Must be started by the main thread of a process that lives as long as the SuperLink should.
    """

    def __init__(self, server: Server) -> None:
        self._folder = Path(server.folder)
        self._port = server.port
        self._host = server.host
        self._command = server.command
        self._process: subprocess.Popen[bytes] | None = None
        self._tls = tls_of(Path(server.ca))

    @property
    def log(self) -> Path:
        """What the SuperLink writes: warnings and errors."""
        return self._folder / "superlink.log"

    @property
    def address(self) -> str:
        """HOST:PORT at which this machine reaches it."""
        host = self._reached_at
        return f"[{host}]:{self._port}" if host.version == 6 else f"{host}:{self._port}"

    @property
    def _reached_at(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        host = ipaddress.ip_address(self._host)
        if host.is_unspecified:
            return ipaddress.ip_address("127.0.0.1" if host.version == 4 else "::1")
        return host

    def start(self) -> None:
        """Starts it. Raises `RunError` if something else listens at its port."""
        make_private_folder(self._folder)
        for name in ("empty", "home"):
            (self._folder / name).mkdir(exist_ok=True)
        self._check_port()
        write_atomically(self._folder / "address", self.address.encode(), durable=False)
        if self.log.is_file() and self.log.stat().st_size > _MAX_LOG_BYTES:
            self.log.replace(self.log.with_name("superlink.log.1"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own command line, no shell
                tied(self._command),
                env=_environment(self._folder / "home"),
                cwd=self._folder / "empty",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Out of reach of the terminal's Ctrl-C: it is ended here, after the run.
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        return self._process.pid if self._process is not None and self.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether its process lives, healthy or not."""
        return self._process is not None and self._process.poll() is None

    def is_healthy(self, *, timeout_s: float) -> bool:
        """Whether it answers, over TLS."""
        # Not by a library, which weighs as much as all the rest; no proxy of the environment, which
        # is for the world outside.
        link = HTTPSConnection(
            str(self._reached_at), self._port, timeout=timeout_s, context=self._tls
        )
        try:
            with closing(link):
                link.request("GET", "/health")
                status = link.getresponse().status
        except (OSError, HTTPException):
            return False
        return status == HTTPStatus.OK and self.is_running

    def stop(self) -> None:
        """Ends it and whatever it has started: by SIGTERM, and after a grace by SIGKILL."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _check_port(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self._host, self._port))
            except OSError as fault:
                raise RunError(
                    f"Expected to listen at {self._host}, port {self._port}, found "
                    f"{fault.strerror}. End what listens there, or give another superlink_port in "
                    "CONSORTIUM.toml and run `wardround provision` again."
                ) from None


def supervise(
    superlink: SuperLink,
    *,
    stop: threading.Event,
    on_ready: Callable[[], None],
    start_timeout_s: float = 60.0,
    wedged_after_s: float = 30.0,
    first_delay_s: float = 1.0,
    longest_delay_s: float = 30.0,
    most_failed_starts: int = 5,
) -> None:
    """Keeps a SuperLink running until `stop` is set, and ends it then.

    Guarantees:
        - One that has died, or has not answered for `wedged_after_s`, is started again, with the
          same database, after a pause that doubles from `first_delay_s` to `longest_delay_s`.
        - Nothing is left running when it returns or raises.

    Args:
        on_ready: called each time the SuperLink answers for the first time.

    Raises:
        RunError: it has not answered once in `most_failed_starts` starts in a row, or its port is
            taken.
    """
    delay_s, num_failed = first_delay_s, 0
    try:
        while not stop.is_set():
            superlink.start()
            if _is_ready(superlink, stop, start_timeout_s):
                num_failed, started = 0, time.monotonic()
                on_ready()
                reason = _watch(superlink, stop, wedged_after_s)
                if time.monotonic() - started > 2 * longest_delay_s:
                    delay_s = first_delay_s
            else:
                num_failed += 1
                reason = "does not start"
            superlink.stop()
            if stop.is_set():
                return
            if num_failed >= most_failed_starts:
                raise RunError(
                    f"Expected Flower's SuperLink to answer at {superlink.address}, found that it "
                    f"did not in {num_failed} starts. Its log is {superlink.log}."
                )
            logger.warning("the SuperLink %s; starting it again in %.1f s", reason, delay_s)
            stop.wait(delay_s)
            delay_s = min(2 * delay_s, longest_delay_s)
    finally:
        superlink.stop()


def _is_ready(superlink: SuperLink, stop: threading.Event, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while superlink.is_running and time.monotonic() < deadline and not stop.is_set():
        if superlink.is_healthy(timeout_s=2.0):
            return True
        stop.wait(0.1)
    return False


def _watch(superlink: SuperLink, stop: threading.Event, wedged_after_s: float) -> str:
    """Returns when the SuperLink has died, is wedged, or `stop` is set; why."""
    every_s = min(5.0, wedged_after_s / 4)
    answered = asked = time.monotonic()
    while not stop.wait(min(0.5, every_s)):
        if not superlink.is_running:
            return "has died"
        now = time.monotonic()
        if now - asked < every_s:
            continue
        asked = now
        if superlink.is_healthy(timeout_s=every_s):
            answered = time.monotonic()
        elif time.monotonic() - answered > wedged_after_s:
            return f"has not answered for {wedged_after_s:.0f} s"
    return "is to end"


def _environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        **QUIET,
        **SMALL,
        "FLWR_HOME": str(home),
        # At its own level it writes a line for every request of every node.
        "FLWR_LOG_LEVEL": "WARNING",
    }
