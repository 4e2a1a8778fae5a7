"""`wardround site up`: the site process and the connector of one hospital, kept alive together.

It reads `site.toml` and the roster, and no data; it must never load torch or flwr. What it finds
is checked here, where an error is told at once, and handed to `client.supervision.keep`.
"""

import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn

from client.acceptance import acceptances_path
from client.agent_address import parse_address
from client.config import load_site_config
from client.connector_files import connector_files
from client.supervision.keep import Hospital
from common.errors import SiteConfigError
from common.small_program import become

_KEEP = "client.supervision.keep"


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


def hospital_of(site_dir: Path, settings: Settings) -> Hospital:
    """The two programs of a hospital, and what is watched of them.

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
    roster = config.state_dir / "roster.json"
    acceptances = acceptances_path(config.state_dir)
    return Hospital(
        name=config.name,
        state_dir=str(config.state_dir),
        connector=(_wardround(), "site", "connect", *both, *others),
        connector_files=tuple(map(str, [roster, *files.certificates])),
        heartbeat=str(files.heartbeat),
        site_process=(_wardround(), "site", "serve", *both, *fraction),
        site_process_files=(str(roster), str(acceptances)),
        address=files.address,
    )


def up(site_dir: Path, settings: Settings) -> NoReturn:
    """Runs a hospital until SIGTERM or SIGINT, as another program in this process.

    Raises:
        SiteConfigError: `site.toml` cannot be used.
        ProvisionError: the roster cannot be used.
    """
    become(_KEEP, hospital_of(site_dir, settings))


def _wardround() -> str:
    """The command line of this installation."""
    path = Path(sys.executable).with_name("wardround")
    if not path.is_file():
        raise SiteConfigError(
            f"Expected the command wardround beside {sys.executable}, found none. Install "
            "Wardround into the environment that runs it."
        )
    return str(path)
