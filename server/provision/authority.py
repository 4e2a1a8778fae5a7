"""Certificates: the consortium's own authority, and the server's and the sites' by it.

ECDSA P-256 with SHA-256 for both: Python's TLS (all of Flower's HTTP APIs) and gRPC's both accept
it; gRPC's knows no Ed25519. Pure: keys, hosts and the time come in as arguments, and nothing is
read or written here.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import ProvisionError

# A hospital's clock may be behind; a certificate of the future would be refused there.
BACKDATED = timedelta(hours=1)
_SOON = timedelta(days=30)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new key for a certificate."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key as PEM (PKCS 8) without a password, as the SuperLink reads it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_from_pem(content: bytes, *, where: str) -> ec.EllipticCurvePrivateKey:
    """The key of `key_to_pem`. Raises `ProvisionError` if `content` is none."""
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ProvisionError(
            f"Expected an elliptic-curve key in PEM without a password, found other content "
            f"({where}). Restore it from a backup."
        )
    return key


def certificate_to_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def certificate_from_pem(content: bytes, *, where: str) -> x509.Certificate:
    """The one certificate in `content`. Raises `ProvisionError` if it is none."""
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError:
        raise ProvisionError(
            f"Expected a certificate in PEM, found other content ({where}). Restore it from a "
            "backup."
        ) from None


def authority_certificate(
    key: ec.EllipticCurvePrivateKey, *, consortium: str, days: int, now: datetime
) -> x509.Certificate:
    """The certificate of the consortium's authority, signed by itself.

    Made again with the same key, it still verifies the server's certificates from before.
    """
    name = _name(consortium, "Wardround authority")
    public = key.public_key()
    may_only_sign = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(subject=name, issuer=name, now=now, end=now + timedelta(days=days))
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(may_only_sign, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, SHA256())
    )


def server_certificate(
    public: ec.EllipticCurvePublicKey,
    *,
    hosts: Sequence[str],
    days: int,
    now: datetime,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """The server's certificate for `hosts` and nothing else; it never outlives its authority's."""
    builder = _leaf(
        public,
        what="Wardround server",
        usage=ExtendedKeyUsageOID.SERVER_AUTH,
        days=days,
        now=now,
        authority=authority,
        authority_key=authority_key,
    )
    names = x509.SubjectAlternativeName(_alternatives(hosts))
    return builder.add_extension(names, critical=False).sign(authority_key, SHA256())


def site_certificate(
    public: ec.EllipticCurvePublicKey,
    *,
    site: str,
    days: int,
    now: datetime,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """The certificate by which the proxy knows the node key of `site`.

    Its common name is the site's. Like the server's, it never outlives its authority's.
    """
    builder = _leaf(
        public,
        what=site,
        usage=ExtendedKeyUsageOID.CLIENT_AUTH,
        days=days,
        now=now,
        authority=authority,
        authority_key=authority_key,
    )
    return builder.sign(authority_key, SHA256())


def hosts_of(certificate: x509.Certificate) -> frozenset[str]:
    """The host names and addresses that a server's certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return frozenset(str(name.value) for name in names)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority has signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def is_pair(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    """Whether the certificate is of this key."""
    return bool(key.public_key() == certificate.public_key())


def ends_soon(certificate: x509.Certificate, *, now: datetime) -> bool:
    """Whether a certificate has ended, or has less than 30 days or a third of its life left."""
    end = certificate.not_valid_after_utc
    life = end - certificate.not_valid_before_utc
    return end - now < min(_SOON, life / 3)


def _leaf(
    public: ec.EllipticCurvePublicKey,
    *,
    what: str,
    usage: x509.ObjectIdentifier,
    days: int,
    now: datetime,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    """A certificate that can sign no other, for one use alone."""
    consortium = authority.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    may_only_authenticate = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    end = min(now + timedelta(days=days), authority.not_valid_after_utc)
    own_id = x509.SubjectKeyIdentifier.from_public_key(public)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    subject = _name(str(consortium), what)
    return (
        _builder(subject=subject, issuer=authority.subject, now=now, end=end)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(may_only_authenticate, critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(own_id, critical=False)
        .add_extension(issuer_id, critical=False)
    )


def _builder(
    *, subject: x509.Name, issuer: x509.Name, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
    )


def _name(consortium: str, what: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, consortium),
            x509.NameAttribute(NameOID.COMMON_NAME, what),
        ]
    )


def _alternatives(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names
