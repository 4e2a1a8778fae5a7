"""Where a connector finds what it needs, and keeps what is its own.

By default in `state_dir`, beside the hospital's books. A connector that runs as another user of the
operating system, who may read neither the data nor the books, has a folder for itself instead.
Must not import torch or flwr: the command line and the supervisor import it.
"""

from dataclasses import dataclass
from pathlib import Path

from client.agent_address import default_address
from client.client_certificate import CLIENT_FILE
from client.config import load_site_config
from client.roster import CA_FILE, accepted_roster, coordinator_key_of
from client.site_keys import node_key_path
from common.errors import SiteConfigError

NODE_KEY_FILE, HEARTBEAT_FILE = "node.key", "heartbeat"


@dataclass(frozen=True, kw_only=True)
class ConnectorFiles:
    """What a connector uses.

    Attributes:
        folder: of its own: session, heartbeat and lock.
        superlink: HOST:PORT of the coordinator's server.
        address: where the site process listens.
        auth_key: the node's key; None for a key of one run.
        root_certificates: the consortium's CA; None where the hospital has not joined.
        client_certificate: for the proxy, over the node's key; None where there is none.
    """

    folder: Path
    superlink: str
    address: str
    auth_key: Path | None
    root_certificates: Path | None
    client_certificate: Path | None

    @property
    def certificates(self) -> tuple[Path, ...]:
        """What the coordinator has sent, and sends anew before it ends."""
        sent = (self.root_certificates, self.client_certificate)
        return tuple(path for path in sent if path is not None)

    @property
    def heartbeat(self) -> Path:
        """Touched while the connector's loop turns."""
        return self.folder / HEARTBEAT_FILE


def connector_files(
    site_dir: Path | None,
    *,
    superlink: str | None = None,
    connector_dir: Path | None = None,
    address: str | None = None,
    auth_key: Path | None = None,
    root_certificates: Path | None = None,
    client_certificate: Path | None = None,
) -> ConnectorFiles:
    """The files of the connector of a site, or of a connector that stands by itself.

    Guarantees:
        - With `connector_dir` alone, no file outside of it is read but those that are named.

    Args:
        site_dir: the folder with `site.toml`; None for a connector that cannot read it.
        superlink: instead of the first address of the joined consortium.
        connector_dir: instead of `state_dir/connector`; `node.key`, `ca.pem` and `client.pem` may
            stand in it.
        address: instead of the socket in `state_dir`. Without `site_dir`, it is needed, and so is
            `superlink`.
        auth_key: instead of the key that is there.
        root_certificates: likewise.
        client_certificate: likewise.

    Raises:
        SiteConfigError: too little is named, or `site.toml` cannot be used.
        ProvisionError: the roster, whose address is needed, cannot be used.
    """
    if site_dir is None:
        if connector_dir is None or address is None or superlink is None:
            raise SiteConfigError(
                "Expected SITE_DIR, or --connector-dir, --address and --superlink together, found "
                "less. A connector that may not read site.toml has to be told."
            )
        folder, key, joined = connector_dir, connector_dir / NODE_KEY_FILE, connector_dir
    else:
        state_dir = load_site_config(site_dir).state_dir
        folder, key, joined = state_dir / "connector", node_key_path(state_dir), state_dir
        address = address or default_address(state_dir)
        superlink = superlink or _first_address(state_dir)
    ca, certificate = joined / CA_FILE, joined / CLIENT_FILE
    return ConnectorFiles(
        folder=connector_dir or folder,
        superlink=superlink,
        address=address,
        auth_key=auth_key or (key if key.exists() else None),
        root_certificates=root_certificates or (ca if ca.exists() else None),
        client_certificate=client_certificate or (certificate if certificate.exists() else None),
    )


def _first_address(state_dir: Path) -> str:
    key = coordinator_key_of(state_dir)
    roster = None if key is None else accepted_roster(state_dir, key)
    if roster is None:
        raise SiteConfigError(
            "Expected --superlink HOST:PORT, or a hospital that has joined a consortium, found "
            "neither. Say wardround site join, or name the coordinator's server."
        )
    return roster.addresses[0]
