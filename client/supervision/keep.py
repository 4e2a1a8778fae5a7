"""What `wardround site up` becomes: a small program that keeps a hospital's two others alive.

It lives as long as they do, so it holds as little as it can: it must never load torch, flwr, numpy
or pydantic. `site.toml`, the roster and the addresses were read before (`client.supervision.up`).

    python -P -m client.supervision.keep HOSPITAL    # as JSON
"""

import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from client.supervision.child import Child, Program, Show
from client.supervision.restarts import Restarts
from client.supervision.watches import Files, Health, Heartbeat
from common.errors import SiteConfigError
from common.private_files import nobody_else
from common.quiet import ONE_HEAP, QUIET, SMALL
from common.signals import handled
from common.small_program import from_json, run

# docs/connector.md: older than this, the connector's loop does not turn any more.
STALE_S = 90.0
# Longer than an answer of its health service can take on a machine that has much to do.
UNANSWERED_S = 60.0
# Longer than what each takes at most to end in order: a call to a server that does not answer; a
# task's grace and the sending of its reply.
_CONNECTOR_GRACE_S = 20.0
_SITE_GRACE_S = 40.0
_TICK_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """A hospital's two programs, in plain words and paths.

    Attributes:
        connector: its command line, whose first part is an absolute path.
        connector_files: that it reads at its start.
        heartbeat: the file that it touches.
        site_process: as for the connector.
        address: where the site process listens.
    """

    name: str
    state_dir: str
    connector: tuple[str, ...]
    connector_files: tuple[str, ...]
    heartbeat: str
    site_process: tuple[str, ...]
    site_process_files: tuple[str, ...]
    address: str


def programs_of(hospital: Hospital) -> list[Program]:
    """The two programs of a hospital, in the order in which they are ended: the connector first."""
    inherited = {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"}
    environment = {**inherited, **QUIET, "NO_COLOR": "1"}
    return [
        Program(
            name="connector",
            command=hospital.connector,
            environment={**environment, **SMALL},
            signs=Heartbeat(Path(hospital.heartbeat)),
            silence_s=STALE_S,
            files=Files(map(Path, hospital.connector_files)),
            renewal=signal.SIGTERM,
            grace_s=_CONNECTOR_GRACE_S,
        ),
        Program(
            name="site process",
            command=hospital.site_process,
            environment={**environment, **ONE_HEAP},
            signs=Health(hospital.address),
            silence_s=UNANSWERED_S,
            files=Files(map(Path, hospital.site_process_files)),
            # It ends once the running task is done.
            renewal=signal.SIGHUP,
            grace_s=_SITE_GRACE_S,
        ),
    ]


def supervise(
    programs: Sequence[Program],
    *,
    stop: threading.Event,
    show: Show,
    randomness: random.Random | None = None,
) -> int:
    """Keeps the programs alive until `stop`; 0, or the exit code of one that cannot be.

    The processes end with the thread that calls this.

    Guarantees:
        - All of them have ended when it returns or raises, in the order that they are named.
    """
    randomness = randomness or random.Random()
    children = [Child(p, show=show, restarts=Restarts(randomness)) for p in programs]
    try:
        while not stop.is_set():
            for child in children:
                child.tend()
                if child.given_up is not None:
                    return child.given_up
            stop.wait(_TICK_S)
        return 0
    finally:
        for child in children:
            child.end()
        for program in programs:
            program.signs.close()


def keep(hospital: Hospital) -> int:
    """Runs a hospital until SIGTERM or SIGINT; the exit code.

    Must be called from the main thread, which the processes end with.

    Raises:
        SiteConfigError: this hospital is kept up already.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    stop = threading.Event()
    with (
        only_supervisor(Path(hospital.state_dir), hospital.name),
        handled(lambda *_: stop.set(), signal.SIGTERM, signal.SIGINT),
    ):
        return supervise(programs_of(hospital), stop=stop, show=_show)


def only_supervisor(state_dir: Path, name: str) -> AbstractContextManager[None]:
    """Holds the hospital for this process.

    Raises (when entered):
        SiteConfigError: another one holds it.
    """
    taken = SiteConfigError(
        f"Expected nobody to keep {name} up, found a `wardround site up` that does "
        f"({state_dir}). Stop that one first."
    )
    return nobody_else(state_dir / "supervisor.lock", taken)


def main() -> None:
    """Keeps the hospital of the command line up."""
    run(lambda text: keep(from_json(Hospital, text)))


def _show(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
