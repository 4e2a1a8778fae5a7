"""The coordinator's folder, as `wardround provision` leaves it and the SuperLink is run from it.

DIR/consortium.toml, ca.pem, server.pem, roster.json, private/    by `wardround provision`
DIR/superlink/   superlink.db (runs, messages, nodes), superlink.log, address, home/, empty/
DIR/receipts/    the newest head of every hospital's ledger, from run to run
"""

from dataclasses import dataclass
from pathlib import Path

from common.errors import ProvisionError
from common.roster import Roster, roster_from_bytes
from common.signing import SigningKey
from server.provision.consortium import Consortium, load_consortium
from server.provision.provisioning import CONSORTIUM_FILE


@dataclass(frozen=True, kw_only=True)
class Coordinator:
    """A coordinator's folder: what it says, and where things are in it."""

    folder: Path
    consortium: Consortium

    @classmethod
    def open(cls, folder: Path) -> "Coordinator":
        """The coordinator of `folder`. Raises `ProvisionError` if it was not provisioned."""
        path = folder / CONSORTIUM_FILE
        if not path.is_file():
            raise ProvisionError(
                f"Expected the coordinator's folder, found no {CONSORTIUM_FILE} in {folder}. Make "
                "or update it by `wardround provision CONSORTIUM.toml --out DIR`, and name DIR."
            )
        return cls(folder=folder.resolve(), consortium=load_consortium(path))

    @property
    def ca(self) -> Path:
        """The certificate of the consortium's authority."""
        return self.folder / "ca.pem"

    @property
    def superlink(self) -> Path:
        """The folder of the SuperLink's own files."""
        return self.folder / "superlink"

    @property
    def receipts(self) -> Path:
        """The folder of the heads of the hospitals' ledgers."""
        return self.folder / "receipts"

    @property
    def port(self) -> int:
        """The port of the SuperLink, which serves all of Flower's APIs."""
        return self.consortium.coordinator.superlink_port

    @property
    def address(self) -> str:
        """HOST:PORT at which this machine reaches the SuperLink."""
        path = self.superlink / "address"
        return path.read_text().strip() if path.is_file() else f"127.0.0.1:{self.port}"

    def key(self) -> SigningKey:
        """The coordinator's signing key. Raises `SiteConfigError` if it cannot be used."""
        return SigningKey.load(self.folder / "private" / "coordinator.pem")

    def roster(self) -> Roster:
        """Who takes part. Raises `ProvisionError` if the roster is missing or not our own."""
        path = self.folder / "roster.json"
        if not path.is_file():
            raise ProvisionError(
                f"Expected the roster at {path}, found none. Restore it from a backup, or run "
                "`wardround provision` again."
            )
        return roster_from_bytes(path.read_bytes(), coordinator_key=self.key().public_key)
