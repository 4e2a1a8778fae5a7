"""The hospital's client certificate: by it the proxy before the coordinator's server knows it.

The coordinator signs it over the hospital's own node key, so that it needs no key of its own and
is worth nothing without that one. Must never write a private key to a disk, or log one.
"""

import logging
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import ProvisionError, SiteConfigError
from common.private_files import read_private
from common.site_keys import SiteKeys, node_key_line

CLIENT_FILE = "client.pem"

logger = logging.getLogger(__name__)

_SOON = timedelta(days=30)


def check_client_certificate(content: bytes, *, authority: bytes, site: SiteKeys) -> None:
    """Nothing, if `content` is a certificate that this hospital's connector can show.

    Guarantees:
        - One by another authority, over another key, of another site, or for another use than a
          client's is refused.

    Args:
        authority: the authority's certificate (PEM), for which the roster vouches.
        site: this hospital's own name and keys.

    Raises:
        ProvisionError: as above.
    """
    try:
        certificate = x509.load_pem_x509_certificate(content)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (InvalidSignature, ValueError, TypeError):
        raise _refused("one signed by the consortium's authority") from None
    if not _is_for_clients(certificate):
        raise _refused("one for a client")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [site.name]:
        raise _refused(f"one of the site '{site.name}'")
    key = certificate.public_key()
    if not isinstance(key, EllipticCurvePublicKey) or node_key_line(key) != site.node_key:
        raise _refused("one over this hospital's own node key")


def load_client_certificate(
    context: ssl.SSLContext,
    path: Path,
    key: EllipticCurvePrivateKey,
    *,
    now: datetime | None = None,
) -> None:
    """Lets `context` show the certificate at `path`, by the key in that file or else the node's.

    Guarantees:
        - The node's private key is on no disk and in no folder, also not for a moment.
        - A certificate that ends soon, or has ended, is named in the log.

    Args:
        now: for the log; None for this machine's clock.

    Raises:
        SiteConfigError: the file is no certificate, or one over another key; or it holds a key that
            others can read.
    """
    try:
        content = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(content)
    except (OSError, ValueError) as fault:
        raise SiteConfigError(
            f"Expected a client certificate in PEM at {path}, found {type(fault).__name__}. Run "
            "`wardround site join` again with the folder that the coordinator sent."
        ) from None
    until = certificate.not_valid_after_utc
    if until - (now or datetime.now(UTC)) < _SOON:
        logger.warning(
            "the client certificate ends or has ended on %s: ask the coordinator for another",
            f"{until:%Y-%m-%d}",
        )
    try:
        if b"PRIVATE KEY" in content:
            read_private(path, SiteConfigError)
            context.load_cert_chain(path)
        else:
            _load_pair(context, content, key)
    except ssl.SSLError:
        raise SiteConfigError(
            f"Expected a client certificate over this node's own key, found one over another "
            f"({path}). After `site keys --rotate`, join again with the coordinator's new folder."
        ) from None


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: EllipticCurvePrivateKey) -> None:
    # OpenSSL cannot read OpenSSH's form, and Python's `ssl` takes keys from files alone: this one
    # is in memory, has no name, and is gone when it is closed.
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.memfd_create("client"), "wb") as file:
        file.write(pem + certificate)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")


def _is_for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage


def _refused(expected: str) -> ProvisionError:
    return ProvisionError(
        f"Expected a client certificate in {CLIENT_FILE}, {expected}, found another. Nothing was "
        "taken; ask the coordinator for this hospital's own folder."
    )
