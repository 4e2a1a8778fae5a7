"""The coordinator's folder: keys, certificates, the roster, and a folder for each hospital.

    DIR/private/     ca.key, server.key, coordinator.pem: never leave this machine (mode 0600)
    DIR/ca.pem       the authority's certificate
    DIR/server.pem   the server's certificate
    DIR/issued.pem   the client certificates of hospitals, all that were ever issued
    DIR/crl.pem      those of them that the proxy takes no more
    DIR/roster.json  who takes part
    DIR/consortium.toml   what CONSORTIUM.toml said
    DIR/sites/NAME/  to be sent to that hospital

Must never print or quote a private key, and never put one anywhere but in `private/`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from common.errors import ProvisionError
from common.files import write_atomically
from common.private_files import make_private_folder, one_at_a_time
from common.roster import Roster, roster_from_bytes, roster_to_bytes
from common.signing import SigningKey
from server.provision.authority import certificate_to_pem
from server.provision.certificates import Certificates, certificates_for
from server.provision.consortium import Consortium, load_consortium, read_members
from server.provision.roster import Changes, changes_between, next_roster
from server.provision.site_certificates import (
    SiteCertificates,
    issued_from_pem,
    issued_to_pem,
    revoked_from_pem,
    revoked_to_pem,
    site_certificates_for,
)
from server.provision.site_folder import CLIENT_FILE, FILES, ROSTER_FILE, site_files

CONSORTIUM_FILE = "consortium.toml"


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """What a run of `provision` has left in the folder.

    Attributes:
        written: the files that are new or changed; empty where nothing was to be done.
        notices: what the coordinator should know or do, one sentence each.
    """

    out: Path
    roster: Roster
    changes: Changes
    written: tuple[Path, ...]
    notices: tuple[str, ...]


def provision(
    consortium_file: Path,
    out: Path,
    *,
    now: datetime,
    replace: Collection[str] = (),
    renew: bool = False,
) -> Provisioned:
    """Makes in `out` what `consortium_file` asks for and is not there yet.

    Guarantees:
        - Running it again changes nothing, and with one more site keeps every key and certificate.
        - A private key is never written over, and nobody but its owner can read it.
        - A refused run changes no key, certificate, roster or folder of a hospital.
        - A site that is no longer in the file is not in the roster, whose serial is greater, and
          its client certificates are revoked.
        - What is sent to one hospital holds nothing private.

    Args:
        replace: known sites whose keys may change.
        renew: make certificates again that have ended or end soon, with the keys that they have.

    Raises:
        ProvisionError: the file, a hospital's file or the folder cannot be used as they are.
        SiteConfigError: the coordinator's signing key cannot be used.
    """
    consortium = load_consortium(consortium_file)
    members = read_members(consortium, consortium_file.parent)
    if out.exists() and not out.is_dir():
        raise ProvisionError(f"Expected a folder as --out, found a file ({out}). Choose another.")
    make_private_folder(out / "private")
    with one_at_a_time(out / ".lock"):
        previous = _previous_roster(out, consortium.consortium.name)
        changes = changes_between(previous, members, replace=replace)
        certificates = certificates_for(
            out, consortium, renew=renew, is_first=previous is None, now=now
        )
        clients = site_certificates_for(
            members,
            issued=_issued(out),
            revoked=_revoked(out, certificates.authority),
            authority=certificates.authority,
            authority_key=certificates.authority_key,
            days=consortium.validity.site_days,
            renew=renew,
            now=now,
        )
        key = SigningKey.load_or_create(_signing_key_path(out))
        roster = next_roster(
            previous,
            consortium=consortium.consortium.name,
            coordinator_key=key.public_key,
            authority_sha256=certificates.authority.fingerprint(SHA256()).hex(),
            addresses=consortium.coordinator.addresses,
            members=members,
            now=now,
        )
        written = _write(out, certificates, clients, roster_to_bytes(roster, key), roster)
        written += _write_consortium(out, consortium)
        _remove_folders(out, {site.name for site in roster.sites})
    return Provisioned(
        out=out,
        roster=roster,
        changes=changes,
        written=written,
        notices=(*certificates.notices, *clients.notices),
    )


def superlink_arguments(out: Path, consortium: Consortium) -> tuple[str, ...]:
    """How Flower's SuperLink is told of TLS and of nodes that must show their keys."""
    return (
        "--port",
        str(consortium.coordinator.superlink_port),
        "--ssl-ca-certfile",
        str(out / "ca.pem"),
        "--ssl-certfile",
        str(out / "server.pem"),
        "--ssl-keyfile",
        str(out / "private" / "server.key"),
        "--enable-supernode-auth",
    )


def _signing_key_path(out: Path) -> Path:
    return out / "private" / "coordinator.pem"


def _previous_roster(out: Path, consortium: str) -> Roster | None:
    """The roster of the last run. Raises `ProvisionError` if it was lost, or is of others."""
    path = out / ROSTER_FILE
    if not path.exists():
        if any(out.glob(f"sites/*/{ROSTER_FILE}")):
            raise ProvisionError(
                f"Expected the last roster at {path}, found none, though hospitals were sent one. "
                "Restore it from a backup, or copy the one in sites/ with the greatest serial: "
                "sites refuse a smaller one."
            )
        return None
    if not _signing_key_path(out).exists():
        raise ProvisionError(
            f"Expected the coordinator's key at {_signing_key_path(out)}, found none beside a "
            "roster that it signed. Restore it from a backup: hospitals trust no other."
        )
    key = SigningKey.load(_signing_key_path(out)).public_key
    try:
        roster = roster_from_bytes(path.read_bytes(), coordinator_key=key)
    except ProvisionError:
        raise ProvisionError(
            f"Expected a roster by this folder's own key, found it changed or damaged ({path}). "
            "Restore it from a backup."
        ) from None
    if roster.consortium != consortium:
        raise ProvisionError(
            f"Expected the folder of '{consortium}', found that of '{roster.consortium}' ({out}). "
            "Choose another --out."
        )
    return roster


def _issued(out: Path) -> tuple[x509.Certificate, ...]:
    """The client certificates issued so far. Raises `ProvisionError` if their record was lost."""
    path = out / "issued.pem"
    if path.exists():
        return issued_from_pem(path.read_bytes(), where=str(path))
    if (out / "crl.pem").exists() or any(out.glob(f"sites/*/{CLIENT_FILE}")):
        raise ProvisionError(
            f"Expected the certificates that were issued at {path}, found none, though hospitals "
            "were sent some. Restore it from a backup: without it they could not be revoked."
        )
    return ()


def _revoked(out: Path, authority: x509.Certificate) -> x509.CertificateRevocationList | None:
    """Those of them that were revoked; None before the first run, and where the list was lost."""
    path = out / "crl.pem"
    if not path.exists():
        return None
    return revoked_from_pem(path.read_bytes(), authority=authority, where=str(path))


def _write(
    out: Path,
    certificates: Certificates,
    clients: SiteCertificates,
    roster_json: bytes,
    roster: Roster,
) -> tuple[Path, ...]:
    """Writes what is public and differs from what is there; returns the paths."""
    ca_pem = certificate_to_pem(certificates.authority)
    # What was issued before it is sent, so that it can be revoked; and the roster before any
    # folder: cut off here, the next run goes on from its serial.
    files = {
        out / "issued.pem": issued_to_pem(clients.issued),
        out / "ca.pem": ca_pem,
        out / "server.pem": certificate_to_pem(certificates.server),
        out / "crl.pem": revoked_to_pem(clients.revoked),
        out / ROSTER_FILE: roster_json,
    }
    for site in roster.sites:
        sent = site_files(
            roster,
            site.name,
            ca_pem=ca_pem,
            roster_json=roster_json,
            client=clients.current[site.name],
        )
        files |= {out / "sites" / site.name / name: content for name, content in sent.items()}
    changed = {p: c for p, c in files.items() if not p.is_file() or p.read_bytes() != c}
    for path, content in changed.items():
        write_atomically(path, content, durable=True, mode=0o644)
    return tuple(changed)


def _write_consortium(out: Path, consortium: Consortium) -> tuple[Path, ...]:
    """Keeps what the file said, so that `wardround server up` needs the folder alone."""
    path = out / CONSORTIUM_FILE
    content = tomli_w.dumps(consortium.model_dump(mode="json")).encode()
    if path.is_file() and path.read_bytes() == content:
        return ()
    write_atomically(path, content, durable=True, mode=0o644)
    return (path,)


def _remove_folders(out: Path, present: set[str]) -> None:
    """Removes our own files of sites that take no part any more, and nothing else."""
    for folder in sorted(out.glob("sites/*")):
        if folder.is_dir() and folder.name not in present:
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
