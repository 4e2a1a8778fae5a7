"""What a hospital takes from its coordinator: a roster that goes forward, never back, and a CA.

Trust starts with one fingerprint that a person heard on the phone, and follows from the roster
after that.
"""

from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate

from client.client_certificate import CLIENT_FILE, check_client_certificate
from client.config import load_site_config
from client.site_keys import own_keys
from common.errors import ProvisionError
from common.files import write_atomically
from common.private_files import one_at_a_time
from common.roster import Roster, claimed_coordinator_key, roster_from_bytes
from common.site_keys import is_heard

_FILE = "roster.json"
CA_FILE = "ca.pem"


def join_consortium(site_dir: Path, folder: Path, *, heard: str | None = None) -> Roster:
    """The roster in the coordinator's `folder`, accepted, with the certificates beside it.

    Guarantees:
        - The first roster is accepted only if `heard` is the fingerprint of the key that signed it;
          every later one only by that key.
        - `ca.pem` is taken only if the roster vouches for it, and `client.pem`, which folders from
          before have not, only if that authority signed it for this hospital's own node key.
        - A roster that has other keys for this hospital than its own is refused.

    Raises:
        SiteConfigError: `site.toml` or this hospital's own keys cannot be used.
        ProvisionError: as above, or as `accept_roster`.
    """
    config = load_site_config(site_dir)
    content, ca_pem = _read(folder / _FILE), _read(folder / CA_FILE)
    key = _trusted_key(config.state_dir, content, heard=heard)
    roster = roster_from_bytes(content, coordinator_key=key)
    if _authority_sha256(ca_pem) != roster.authority_sha256:
        raise ProvisionError(
            f"Expected the certificate that the roster vouches for, found another "
            f"({folder / CA_FILE}). Do not use it; ask the coordinator, on the phone."
        )
    known = roster.site(config.name)
    own = own_keys(config)
    if known != own:
        raise ProvisionError(
            f"Expected this hospital's own keys in roster {roster.serial}, found others: "
            f"{known.fingerprints} instead of {own.fingerprints}. Send the coordinator your "
            "public file, and read these aloud on the phone."
        )
    client_pem = _read(folder / CLIENT_FILE) if (folder / CLIENT_FILE).exists() else None
    if client_pem is not None:
        check_client_certificate(client_pem, authority=ca_pem, site=own)
    accept_roster(config.state_dir, content, key)
    write_atomically(config.state_dir / CA_FILE, ca_pem, durable=True, mode=0o644)
    if client_pem is not None:
        write_atomically(config.state_dir / CLIENT_FILE, client_pem, durable=True, mode=0o644)
    return roster


def accept_roster(state_dir: Path, roster_bytes: bytes, coordinator_key: str) -> Roster:
    """The roster in `roster_bytes`, once it is on disk as the last that this site has seen.

    Guarantees:
        - A roster with a smaller serial than the last one seen is refused.
        - Two different rosters with one serial are never both accepted.
        - A roster of another consortium or another coordinator never replaces one.
        - A refused roster changes nothing.

    Edge cases:
        | the last one seen is | what happens |
        |---|---|
        | absent | this one is the first |
        | the same, byte for byte | nothing |
        | damaged | refused: what was seen is not known |

    Args:
        coordinator_key: that the hospital has compared on the phone; 64 hex digits.

    Raises:
        ProvisionError: as above, or it is not signed by `coordinator_key`.
    """
    roster = roster_from_bytes(roster_bytes, coordinator_key=coordinator_key)
    with one_at_a_time(state_dir / f".{_FILE}.lock"):
        seen = accepted_roster(state_dir, coordinator_key)
        if seen is not None:
            _refuse_step_back(seen, roster)
        if seen != roster:
            write_atomically(state_dir / _FILE, roster_bytes, durable=True, mode=0o644)
    return roster


def accepted_roster(state_dir: Path, coordinator_key: str) -> Roster | None:
    """The last roster that this site has accepted; None before the first.

    Raises:
        ProvisionError: it is damaged, or signed by another key than `coordinator_key`.
    """
    path = state_dir / _FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise ProvisionError(
            f"Expected a readable roster at {path}, found {type(fault).__name__}. Check its "
            "permissions."
        ) from None
    try:
        return roster_from_bytes(content, coordinator_key=coordinator_key)
    except ProvisionError as fault:
        raise ProvisionError(
            f"Expected the last accepted roster, whole and by the same coordinator, at {path}: "
            f"{fault} Restore it from a backup; without it this site could be set back."
        ) from None


def coordinator_key_of(state_dir: Path) -> str | None:
    """The coordinator's key that this site has joined by; None before it has joined."""
    path = state_dir / _FILE
    return claimed_coordinator_key(_read(path)) if path.exists() else None


def _trusted_key(state_dir: Path, content: bytes, *, heard: str | None) -> str:
    known = coordinator_key_of(state_dir)
    claimed = claimed_coordinator_key(content)
    if heard is None and known is None:
        raise ProvisionError(
            "Expected the fingerprint of the coordinator's signing key, found none: this is the "
            "first roster here. Have it read to you on the phone, and give it by --fingerprint."
        )
    key = known or claimed
    if heard is not None and not is_heard(heard, bytes.fromhex(key)):
        raise ProvisionError(
            "Expected the fingerprint of the coordinator's signing key, found one that differs. "
            "Listen again; if it differs still, use nothing of this folder."
        )
    return key


def _authority_sha256(ca_pem: bytes) -> str:
    try:
        return load_pem_x509_certificate(ca_pem).fingerprint(SHA256()).hex()
    except ValueError:
        return ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise ProvisionError(
            f"Expected a readable file at {path}, found {type(fault).__name__}. Name the folder "
            "that the coordinator sent."
        ) from None


def _refuse_step_back(seen: Roster, offered: Roster) -> None:
    if offered.consortium != seen.consortium:
        raise ProvisionError(
            f"Expected a roster of '{seen.consortium}', found one of '{offered.consortium}'. A "
            "site takes part in one consortium; use a state_dir of its own for another."
        )
    if offered.serial < seen.serial:
        raise ProvisionError(
            f"Expected roster {seen.serial} or a later one, found {offered.serial}: sites may "
            "have been revoked since. Ask the coordinator for the present one."
        )
    if offered.serial == seen.serial and offered != seen:
        raise ProvisionError(
            f"Expected one roster {seen.serial}, found a second one that differs. The "
            "coordinator's folder was copied or set back: ask on the phone."
        )
