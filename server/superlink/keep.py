"""What `wardround server up` becomes: a small program that keeps a SuperLink alive.

It lives as long as the SuperLink does, so it holds as little as it can: it must never load torch,
flwr, numpy or pydantic. The coordinator's folder was read before (`server.superlink.up`).

    python -P -m server.superlink.keep SERVER    # as JSON
"""

import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from common.signals import handled
from common.small_program import from_json, program_of, run
from common.tether import tied
from server.superlink.lock import alone
from server.superlink.process import Server, SuperLink, supervise

logger = logging.getLogger(__name__)

_REGISTER = "server.superlink.register"
_REGISTERING_S = 60.0
_TICK_S = 0.1


def keep(server: Server) -> int:
    """Runs a SuperLink until SIGTERM or SIGINT; the exit code.

    Must be called from the main thread, which the SuperLink ends with.

    Guarantees:
        - Each time that the SuperLink answers for the first time, one line says where, and the
          roster's nodes are registered.

    Raises:
        RunError: the folder has a server already; or as `supervise`.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    superlink = SuperLink(server)
    stop = threading.Event()

    def on_ready() -> None:
        sys.stdout.write(
            f"SuperLink of {server.name} ready at {superlink.address}; log: {superlink.log}\n"
        )
        sys.stdout.flush()
        register(server, stop=stop)

    with (
        alone(Path(server.folder) / "up.lock", "server"),
        handled(lambda *_: stop.set(), signal.SIGTERM, signal.SIGINT),
    ):
        supervise(superlink, stop=stop, on_ready=on_ready)
    return 0


def register(server: Server, *, stop: threading.Event, within_s: float = _REGISTERING_S) -> None:
    """Has the roster's nodes registered, by a process of its own; why not, stands in the log.

    The server is of use without it: `wardround server run` does it again.

    Guarantees:
        - The process has ended when this returns: in time, or killed after `within_s` or at `stop`.
        - Where it cannot be started, the server goes on.
    """
    command = program_of(_REGISTER, server.coordinator)
    try:
        # Out of reach of the terminal's Ctrl-C, as the SuperLink is.
        process = subprocess.Popen(  # noqa: S603  # our own command line, no shell
            tied(command), stdin=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as fault:  # no memory, or too many processes or files
        logger.warning("the hospitals' nodes are not registered (%s)", fault.strerror)
        return
    deadline = time.monotonic() + within_s
    while process.poll() is None and not stop.is_set():
        if time.monotonic() >= deadline:
            logger.warning("the hospitals' nodes were not registered within %.0f s", within_s)
            break
        stop.wait(_TICK_S)
    if process.poll() is None:
        process.kill()
    process.wait()


def main() -> None:
    """Keeps the SuperLink of the command line up."""
    run(lambda text: keep(from_json(Server, text)))


if __name__ == "__main__":
    main()
