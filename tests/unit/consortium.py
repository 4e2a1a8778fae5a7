"""A consortium for tests of the hospital side: its coordinator's key, its roster, signed tasks."""

from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.config import load_site_config
from client.roster import accept_roster
from common.envelope import sign_task
from common.messages import Task
from common.roster import Roster, roster_to_bytes
from common.signing import SigningKey
from common.site_keys import SiteKeys, node_key_line
from tests.unit.provision_cases import NOW

# One key for all tests, so that a process that was started again knows it.
COORDINATOR = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def roster_of(*sites: SiteKeys, serial: int = 1) -> Roster:
    """The roster of a consortium of these sites."""
    return Roster(
        consortium="north",
        serial=serial,
        issued_at=NOW,
        coordinator_key=COORDINATOR.public_key,
        authority_sha256="0" * 64,
        addresses=("localhost:9443",),
        sites=tuple(sorted(sites, key=lambda site: site.name)),
    )


def join(site_dir: Path) -> SiteKeys:
    """The keys of the hospital of a folder, which has joined the test's consortium."""
    config = load_site_config(site_dir)
    signing = SigningKey.load_or_create(config.state_dir / "keys" / "site.pem")
    node = node_key_line(generate_private_key(SECP384R1()).public_key())
    keys = SiteKeys(name=config.name, signing_key=signing.public_key, node_key=node)
    if not (config.state_dir / "roster.json").exists():
        content = roster_to_bytes(roster_of(keys), COORDINATOR)
        accept_roster(config.state_dir, content, COORDINATOR.public_key)
    return keys


def signed(task: Task, site: str = "alpha") -> Task:
    """The task as the coordinator sends it to a site."""
    return sign_task(replace(task, site=site), COORDINATOR)
