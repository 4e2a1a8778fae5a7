"""The connector and SuperLinks that are not as it left them: wiped, or with TLS and a list."""

import datetime
import ipaddress
import signal
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from client.node import _tls_context
from client.node_faults import Rejected, Unreachable
from client.node_fleet import Fleet
from tests.federation.deployment import coordinator, register, superlink
from tests.federation.fake_site import FakeSite
from tests.federation.nodes import ask, in_thread, only_node

pytestmark = pytest.mark.flower


def test_a_node_that_the_superlink_has_forgotten_joins_anew(tmp_path: Path, site: FakeSite) -> None:
    with superlink(tmp_path / "link") as link, in_thread(link, site, tmp_path / "a"):
        with coordinator(link) as grid:
            first = only_node(grid)
        link.stop(signal.SIGKILL)
        (link.folder / "superlink.db").unlink()
        link.start()
        with coordinator(link) as grid:
            second = only_node(grid)
            assert second != first
            assert ask(grid, second).has_content()


def write_certificates(folder: Path, name: str) -> Path:
    """A self-signed certificate for loopback, which is its own CA; and its key beside it."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.key").write_bytes(pem)
    return path


@pytest.mark.threat("N-1", "K-1")
def test_only_the_right_ca_and_a_listed_key_can_join(tmp_path: Path) -> None:
    server = write_certificates(tmp_path / "tls", "server")
    other = write_certificates(tmp_path / "tls", "other")
    listed, unlisted = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    options = ("--ssl-certfile", str(server), "--ssl-keyfile", str(server.with_suffix(".key")))
    options += ("--ssl-ca-certfile", str(server), "--enable-supernode-auth")
    with superlink(tmp_path / "link", *options, ca=server) as link:
        number = register(link, public_key_to_bytes(listed.public_key()))

        def fleet(ca: Path | None, key: ec.EllipticCurvePrivateKey) -> Fleet:
            tls = _tls_context(link.address, ca, insecure=ca is None)
            return Fleet(superlink=link.address, tls=tls, key=key)

        for ca, key, error, text in (
            (other, listed, Unreachable, "certificate is not accepted"),
            (None, listed, Unreachable, "RemoteProtocolError|ReadError"),
            (server, unlisted, Rejected, "REGISTRATION_DISABLED"),
        ):
            node = fleet(ca, key)
            with pytest.raises(error, match=text):
                node.join(None)
            node.close()
        node = fleet(server, listed)
        node.join(None)
        assert node.node_id == number
        assert node.pull() is None
        node.leave(for_good=False)
        node.close()
