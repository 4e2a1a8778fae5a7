"""`wardround server up`: what the coordinator's folder says of its SuperLink, in plain words.

An error in the folder is told here, at once; what was found is handed to `server.superlink.keep`.
"""

import sys
from pathlib import Path
from typing import NoReturn

from common.small_program import become
from server.provision.provisioning import superlink_arguments
from server.superlink.folder import Coordinator
from server.superlink.process import Server, check_host

_KEEP = "server.superlink.keep"


def up(folder: Path, *, host: str, without_proxy: bool) -> NoReturn:
    """Keeps a SuperLink alive until SIGTERM or SIGINT, as another program in this process.

    Raises:
        ProvisionError: the folder was not provisioned.
        RunError: the SuperLink may not listen at `host`.
    """
    check_host(host, without_proxy=without_proxy)
    become(_KEEP, server_of(Coordinator.open(folder), host=host))


def server_of(coordinator: Coordinator, *, host: str = "127.0.0.1") -> Server:
    """The SuperLink of a coordinator, which listens at `host`."""
    return Server(
        name=coordinator.consortium.consortium.name,
        coordinator=str(coordinator.folder),
        folder=str(coordinator.superlink),
        ca=str(coordinator.ca),
        host=host,
        port=coordinator.port,
        command=(
            str(Path(sys.executable).with_name("flower-superlink")),
            *("--isolation", "process"),
            *("--host", host),
            *("--database", str(coordinator.superlink / "superlink.db")),
            *superlink_arguments(coordinator.folder, coordinator.consortium),
        ),
    )
