"""`wardround site up`: the site process and the connector of one hospital, kept alive together.

It reads `site.toml` and the roster, and no data; it must never load torch or flwr.
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
from itertools import chain
from pathlib import Path

from client.acceptance import acceptances_path
from client.agent_address import parse_address
from client.config import SiteConfig, load_site_config
from client.connector_files import connector_files
from client.supervision.child import Child, Program, Show
from client.supervision.restarts import Restarts
from client.supervision.watches import Files, Health, Heartbeat
from common.errors import SiteConfigError
from common.private_files import nobody_else
from common.quiet import ONE_HEAP, QUIET, SMALL
from common.signals import handled

logger = logging.getLogger(__name__)

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
class Settings:
    """What a person says of how this hospital runs.

    Attributes:
        superlink: HOST:PORT; None for the first address of the joined consortium.
        root_certificates: None for the CA of the joined consortium.
        client_certificate: for a proxy that wants another than the consortium's.
        address: of the site process; None for the socket in `state_dir`.
        gpu_memory_fraction: of the GPU, for the site process.
    """

    superlink: str | None = None
    root_certificates: Path | None = None
    client_certificate: Path | None = None
    insecure: bool = False
    address: str | None = None
    gpu_memory_fraction: float = 1.0


def programs_of(site_dir: Path, settings: Settings) -> list[Program]:
    """The two programs of a hospital, in the order in which they are ended: the connector first.

    Raises:
        SiteConfigError, ProvisionError: `site.toml`, the address or the roster cannot be used.
    """
    config = load_site_config(site_dir)
    files = connector_files(
        site_dir,
        superlink=settings.superlink,
        address=settings.address,
        root_certificates=settings.root_certificates,
        client_certificate=settings.client_certificate,
    )
    parse_address(files.address)
    both = (str(site_dir), "--address", files.address)
    fraction = ("--gpu-memory-fraction", str(settings.gpu_memory_fraction))
    options = {
        "--superlink": settings.superlink,
        "--root-certificates": settings.root_certificates,
        "--client-certificate": settings.client_certificate,
    }
    named = [(name, str(value)) for name, value in options.items() if value is not None]
    others = [*chain(*named), *(["--insecure"] if settings.insecure else [])]
    inherited = {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"}
    environment = {**inherited, **QUIET, "NO_COLOR": "1"}
    roster = config.state_dir / "roster.json"
    return [
        Program(
            name="connector",
            command=(_wardround(), "site", "connect", *both, *others),
            environment={**environment, **SMALL},
            signs=Heartbeat(files.heartbeat),
            silence_s=STALE_S,
            files=Files([roster, *files.certificates]),
            renewal=signal.SIGTERM,
            grace_s=_CONNECTOR_GRACE_S,
        ),
        Program(
            name="site process",
            command=(_wardround(), "site", "serve", *both, *fraction),
            environment={**environment, **ONE_HEAP},
            signs=Health(files.address),
            silence_s=UNANSWERED_S,
            files=Files([roster, acceptances_path(config.state_dir)]),
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


def up(site_dir: Path, settings: Settings) -> int:
    """Runs a hospital until SIGTERM or SIGINT; the exit code.

    Must be called from the main thread, which the processes end with.

    Raises:
        SiteConfigError: `site.toml` cannot be used, or this hospital is kept up already.
        ProvisionError: the roster cannot be used.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    stop = threading.Event()
    with (
        only_supervisor(load_site_config(site_dir)),
        handled(lambda *_: stop.set(), signal.SIGTERM, signal.SIGINT),
    ):
        return supervise(programs_of(site_dir, settings), stop=stop, show=_show)


def only_supervisor(config: SiteConfig) -> AbstractContextManager[None]:
    """Holds the hospital for this process.

    Raises (when entered):
        SiteConfigError: another one holds it.
    """
    taken = SiteConfigError(
        f"Expected nobody to keep {config.name} up, found a `wardround site up` that does "
        f"({config.state_dir}). Stop that one first."
    )
    return nobody_else(config.state_dir / "supervisor.lock", taken)


def _wardround() -> str:
    """The command line of this installation."""
    path = Path(sys.executable).with_name("wardround")
    if not path.is_file():
        raise SiteConfigError(
            f"Expected the command wardround beside {sys.executable}, found none. Install "
            "Wardround into the environment that runs it."
        )
    return str(path)


def _show(line: str) -> None:
    sys.stderr.write(f"{line}\n")
