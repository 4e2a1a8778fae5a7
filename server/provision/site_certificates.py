"""The client certificates of hospitals, and the list of those that are taken no more.

Each is over the node key that the hospital made itself, signed by the consortium's authority: the
reverse proxy asks for it before anything reaches the SuperLink. All that were ever issued are kept
in one file, because a proxy takes a certificate until its serial number is on the list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_public_key
from cryptography.x509.oid import NameOID

from common.errors import ProvisionError
from common.site_keys import SiteKeys, node_key_line
from server.provision.authority import (
    BACKDATED,
    certificate_to_pem,
    ends_soon,
    site_certificate,
)


@dataclass(frozen=True, kw_only=True)
class SiteCertificates:
    """What the coordinator has issued to hospitals, and what of it is revoked.

    Attributes:
        issued: every certificate ever issued, oldest first.
        revoked: the list for the proxy, signed by the authority.
        current: the certificate of each site that takes part, by name.
        notices: what the coordinator should know or do, one sentence each.
    """

    issued: tuple[x509.Certificate, ...]
    revoked: x509.CertificateRevocationList
    current: Mapping[str, x509.Certificate]
    notices: tuple[str, ...]


def site_certificates_for(
    sites: Sequence[SiteKeys],
    *,
    issued: Sequence[x509.Certificate],
    revoked: x509.CertificateRevocationList | None,
    authority: x509.Certificate,
    authority_key: EllipticCurvePrivateKey | None,
    days: int,
    renew: bool,
    now: datetime,
) -> SiteCertificates:
    """What was `issued` and `revoked` so far, brought up to date with the sites that take part.

    Guarantees:
        - A site keeps its certificate while its keys stay; it gets another only where it has none
          for its node key, or where that ends soon and `renew` is set.
        - Every certificate of a site or a node key that takes part no more is revoked, also those
          from before a renewal; what is revoked stays revoked.
        - The authority's key is needed only where something is signed by it.

    Args:
        revoked: None before the first run.
        authority_key: None where it is kept elsewhere.

    Raises:
        ProvisionError: something must be signed, and the key is not there, or the authority has
            ended.
    """
    signer = _Signer(authority=authority, key=authority_key, days=days, now=now)
    taken = set() if revoked is None else {entry.serial_number for entry in revoked}
    now_issued, current, told = list(issued), {}, {}
    for site in sites:
        own = [c for c in issued if _is_of(c, site) and c.serial_number not in taken]
        held = own[-1] if own else None
        certificate = held
        if certificate is None or (renew and ends_soon(certificate, now=now)):
            certificate = signer.certificate(site)
            now_issued.append(certificate)
        current[site.name] = certificate
        told[site.name] = _what_to_tell(held, certificate, now=now)
    members = {site.name: site for site in sites}
    gone = {c.serial_number for c in now_issued if not _is_of(c, members.get(site_of(c)))}
    return SiteCertificates(
        issued=tuple(now_issued),
        revoked=signer.revocations(revoked, gone),
        current=current,
        notices=_notices(told),
    )


def issued_to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """All certificates in one PEM file, in this order."""
    return b"".join(certificate_to_pem(certificate) for certificate in certificates)


def issued_from_pem(content: bytes, *, where: str) -> tuple[x509.Certificate, ...]:
    """The certificates of `issued_to_pem`. Raises `ProvisionError` if `content` is none."""
    try:
        return tuple(x509.load_pem_x509_certificates(content)) if content else ()
    except ValueError:
        raise _damaged("the certificates that were issued", where) from None


def revoked_to_pem(revoked: x509.CertificateRevocationList) -> bytes:
    """The list as PEM, as `ssl_crl` of nginx reads it."""
    return revoked.public_bytes(Encoding.PEM)


def revoked_from_pem(
    content: bytes, *, authority: x509.Certificate, where: str
) -> x509.CertificateRevocationList:
    """The list of `revoked_to_pem`. Raises `ProvisionError` if this authority has not signed it."""
    try:
        revoked = x509.load_pem_x509_crl(content)
        is_signed = revoked.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        is_signed = False
    if not is_signed:
        raise _damaged("a list of revoked certificates by this folder's authority", where)
    return revoked


def site_of(certificate: x509.Certificate) -> str:
    """The name of the site that a client certificate is of."""
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


@dataclass(frozen=True, kw_only=True)
class _Signer:
    """The authority, at this moment."""

    authority: x509.Certificate
    key: EllipticCurvePrivateKey | None
    days: int
    now: datetime

    def certificate(self, site: SiteKeys) -> x509.Certificate:
        """A new certificate for a site."""
        return site_certificate(
            _node_key(site),
            site=site.name,
            days=self.days,
            now=self.now,
            authority=self.authority,
            authority_key=self._required("a client certificate"),
        )

    def revocations(
        self, last: x509.CertificateRevocationList | None, gone: set[int]
    ) -> x509.CertificateRevocationList:
        """The list with those of `last` and `gone`: `last` itself where that says the same.

        It holds as long as its authority: nginx refuses everybody once a list has ended.
        """
        dates = {} if last is None else {e.serial_number: e.revocation_date_utc for e in last}
        end = self.authority.not_valid_after_utc
        if last is not None and gone <= dates.keys() and last.next_update_utc == end:
            return last
        key = self._required("the list of revoked certificates")
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.authority.subject)
            .last_update(self.now - BACKDATED)
            .next_update(end)
            .add_extension(x509.CRLNumber(_number(last) + 1), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
                critical=False,
            )
        )
        for serial, date in sorted((dict.fromkeys(gone, self.now) | dates).items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(date)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key, SHA256())

    def _required(self, what: str) -> EllipticCurvePrivateKey:
        if self.key is None:
            raise ProvisionError(
                f"Expected the authority's private key, found none, and {what} must be signed. "
                "Bring private/ca.key back from where it is kept."
            )
        if self.authority.not_valid_after_utc <= self.now:
            raise ProvisionError(
                "Expected an authority that still holds, found that it ended on "
                f"{self.authority.not_valid_after_utc:%Y-%m-%d}. Run again with --renew."
            )
        return self.key


def _is_of(certificate: x509.Certificate, site: SiteKeys | None) -> bool:
    """Whether a certificate is of this site by the node key that it has now."""
    key = certificate.public_key()
    return (
        site is not None
        and isinstance(key, EllipticCurvePublicKey)
        and (site_of(certificate), node_key_line(key)) == (site.name, site.node_key)
    )


def _node_key(site: SiteKeys) -> EllipticCurvePublicKey:
    key = load_ssh_public_key(site.node_key.encode())
    if not isinstance(key, EllipticCurvePublicKey):  # `SiteKeys` holds no other
        raise TypeError("expected an elliptic-curve key")
    return key


def _number(revoked: x509.CertificateRevocationList | None) -> int:
    if revoked is None:
        return 0
    return revoked.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def _what_to_tell(
    held: x509.Certificate | None, certificate: x509.Certificate, *, now: datetime
) -> str | None:
    if held is not None and held != certificate:
        return "made again: send these hospitals their folders"
    if not ends_soon(certificate, now=now):
        return None
    return "end soon, or have ended: run again with --renew"


def _notices(told: Mapping[str, str | None]) -> tuple[str, ...]:
    """One sentence for all sites of which the same is to be told."""
    by_text: dict[str, list[str]] = {}
    for name, text in told.items():
        if text is not None:
            by_text.setdefault(text, []).append(name)
    return tuple(
        f"Client certificates of {', '.join(names)} {text}." for text, names in by_text.items()
    )


def _damaged(what: str, where: str) -> ProvisionError:
    return ProvisionError(
        f"Expected {what}, found other content ({where}). Restore it from a backup: without it a "
        "hospital that left could come back."
    )
