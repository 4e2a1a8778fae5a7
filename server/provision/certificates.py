"""The certificates in the coordinator's folder: kept, made where missing, renewed where asked."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)

from common.errors import ProvisionError
from common.private_files import create_private, read_private
from server.provision.authority import (
    authority_certificate,
    certificate_from_pem,
    ends_soon,
    hosts_of,
    is_issued_by,
    is_pair,
    key_from_pem,
    key_to_pem,
    new_key,
    server_certificate,
)
from server.provision.consortium import Consortium


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """The authority's certificate and the server's by it, and what to tell of them.

    Attributes:
        authority_key: None where it is kept elsewhere.
    """

    authority: x509.Certificate
    authority_key: EllipticCurvePrivateKey | None = field(repr=False)
    server: x509.Certificate
    notices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A key and its certificate, as far as the folder has them."""

    key_path: Path
    key: EllipticCurvePrivateKey | None
    certificate: x509.Certificate | None


def certificates_for(
    out: Path, consortium: Consortium, *, renew: bool, is_first: bool, now: datetime
) -> Certificates:
    """The certificates that the folder `out` should hold.

    Writes private keys where there are none, and no certificate: that is for the caller.

    Guarantees:
        - A key is made only where neither it nor its certificate is there.
        - A certificate is made again only where its hosts are others, or where it ends soon and
          `renew` is set; its key stays.
        - The authority's private key is needed only where something is signed by it.

    Args:
        is_first: whether no roster has been made in this folder yet.

    Raises:
        ProvisionError: a key or certificate is missing, or they do not belong together; or the
            authority has ended, is not renewed, and would have to sign.
    """
    ca = _held(out / "private" / "ca.key", out / "ca.pem")
    server = _held(out / "private" / "server.key", out / "server.pem")
    if ca.certificate is None and ca.key is None and not is_first:
        raise ProvisionError(
            f"Expected the authority's certificate at {out / 'ca.pem'}, found none. Restore it "
            "from a backup, or from a folder in sites/: hospitals trust no other."
        )
    ca_key = ca.key or (new_key() if ca.certificate is None else None)
    authority = _authority(ca, ca_key, consortium, renew=renew, now=now)
    if server.certificate is not None and not is_issued_by(server.certificate, authority):
        raise ProvisionError(
            f"Expected a server's certificate by this folder's authority, found another "
            f"({out / 'server.pem'}). Restore both, or remove it and its key for new ones."
        )
    made_key = new_key() if server.certificate is None and server.key is None else None
    certificate = server.certificate
    if certificate is None or _must_change(certificate, consortium, renew=renew, now=now):
        _refuse_ended(authority, now=now)
        certificate = server_certificate(
            _public(server, made_key),
            hosts=consortium.coordinator.certified_hosts,
            days=consortium.validity.server_days,
            now=now,
            authority=authority,
            authority_key=_required(ca_key, ca.key_path),
        )
    # Nothing is refused from here on.
    if ca.key is None and ca_key is not None:
        create_private(ca.key_path, key_to_pem(ca_key), ProvisionError)
    if made_key is not None:
        create_private(server.key_path, key_to_pem(made_key), ProvisionError)
    told = {"authority": (ca.certificate, authority), "server": (server.certificate, certificate)}
    notices = [_notice(what, old, new, now=now) for what, (old, new) in told.items()]
    return Certificates(
        authority=authority,
        authority_key=ca_key,
        server=certificate,
        notices=tuple(n for n in notices if n),
    )


def _held(key_path: Path, certificate_path: Path) -> _Held:
    """What the folder has. Raises `ProvisionError` if it cannot be used, or is of two pairs."""
    key = certificate = None
    if key_path.exists():
        key = key_from_pem(read_private(key_path, ProvisionError), where=str(key_path))
    if certificate_path.exists():
        content = certificate_path.read_bytes()
        certificate = certificate_from_pem(content, where=str(certificate_path))
    if key is not None and certificate is not None and not is_pair(key, certificate):
        raise ProvisionError(
            f"Expected a key and its certificate, found two that do not belong together "
            f"({key_path}, {certificate_path}). Restore both from one backup."
        )
    return _Held(key_path=key_path, key=key, certificate=certificate)


def _authority(
    ca: _Held,
    key: EllipticCurvePrivateKey | None,
    consortium: Consortium,
    *,
    renew: bool,
    now: datetime,
) -> x509.Certificate:
    if ca.certificate is not None and not (renew and ends_soon(ca.certificate, now=now)):
        return ca.certificate
    return authority_certificate(
        _required(key, ca.key_path),
        consortium=consortium.consortium.name,
        days=consortium.validity.ca_days,
        now=now,
    )


def _must_change(
    certificate: x509.Certificate, consortium: Consortium, *, renew: bool, now: datetime
) -> bool:
    others = hosts_of(certificate) != frozenset(consortium.coordinator.certified_hosts)
    return others or (renew and ends_soon(certificate, now=now))


def _public(server: _Held, made: EllipticCurvePrivateKey | None) -> EllipticCurvePublicKey:
    """The server's public key: of its certificate, so that its private key may be elsewhere."""
    key = server.key or made
    if key is not None:
        return key.public_key()
    public = None if server.certificate is None else server.certificate.public_key()
    if not isinstance(public, EllipticCurvePublicKey):
        raise ProvisionError(
            "Expected an elliptic-curve key in the server's certificate, found another kind. "
            "Remove server.pem and its key for new ones."
        )
    return public


def _required(key: EllipticCurvePrivateKey | None, path: Path) -> EllipticCurvePrivateKey:
    if key is None:
        raise ProvisionError(
            f"Expected the authority's private key at {path}, found none, and a certificate must "
            "be signed. Bring it back from where it is kept."
        )
    return key


def _refuse_ended(authority: x509.Certificate, *, now: datetime) -> None:
    if authority.not_valid_after_utc <= now:
        raise ProvisionError(
            "Expected an authority that still holds, found that it ended on "
            f"{authority.not_valid_after_utc:%Y-%m-%d}. Run again with --renew."
        )


def _notice(
    what: str, old: x509.Certificate | None, new: x509.Certificate, *, now: datetime
) -> str | None:
    """What the coordinator should know of a certificate, or None."""
    end = f"{new.not_valid_after_utc:%Y-%m-%d}"
    if old is not None and new != old:
        todo = (
            "send every hospital its folder again"
            if what == "authority"
            else "start the SuperLink again"
        )
        return f"Made the {what}'s certificate again, until {end}: {todo}."
    if ends_soon(new, now=now):
        verb = "ended" if new.not_valid_after_utc <= now else "ends"
        return f"The {what}'s certificate {verb} on {end}: run again with --renew."
    return None
