"""The connector shows its certificate over the node's own key, and no key touches a disk."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.client_certificate import load_client_certificate
from client.connector_files import connector_files
from client.roster import join_consortium
from client.site_keys import load_node_key
from common.errors import ProvisionError, SiteConfigError
from server.provision.authority import (
    certificate_from_pem,
    certificate_to_pem,
    key_from_pem,
    server_certificate,
    site_certificate,
)
from tests.unit.test_roster import Hospital

TIMEOUT_S = 10.0


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    made = Hospital(tmp_path)
    made.case.out = tmp_path / "now"
    heard = made.case.provision(now=datetime.now(UTC)).roster.coordinator_fingerprint
    made.sent, made.heard = made.case.out / "sites" / "alpha", heard
    return made


def _joined(hospital: Hospital) -> Path:
    join_consortium(hospital.site_dir, hospital.sent, heard=hospital.heard)
    return hospital.state_dir / "client.pem"


@contextmanager
def _proxy(out: Path, seen: list[Any]) -> Iterator[int]:
    """The port of a TLS server that wants a client's certificate, and notes its subject."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=out / "ca.pem")
    context.load_cert_chain(out / "server.pem", out / "private" / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)

        def greet() -> None:
            raw, _ = listener.accept()
            raw.settimeout(TIMEOUT_S)
            with raw, suppress(OSError), context.wrap_socket(raw, server_side=True) as stream:
                certificate = stream.getpeercert()
                seen.append(dict(part[0] for part in certificate["subject"]))
                stream.sendall(b"hello")

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def test_the_proxy_knows_the_hospital_by_its_certificate(hospital: Hospital) -> None:
    path, seen = _joined(hospital), list[Any]()
    context = ssl.create_default_context(cafile=hospital.state_dir / "ca.pem")
    load_client_certificate(context, path, load_node_key(hospital.state_dir))
    with (
        _proxy(hospital.case.out, seen) as port,
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as stream,
    ):
        assert stream.recv(5) == b"hello"
    assert seen == [{"organizationName": "north", "commonName": "alpha"}]


def test_the_nodes_key_is_never_in_a_file_system(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = _joined(hospital), list[str]()
    real = ssl.SSLContext.load_cert_chain

    def load(self: ssl.SSLContext, chain: str, *args: Any) -> None:
        opened.append(str(Path(chain).readlink()))
        assert b"BEGIN PRIVATE KEY" in Path(chain).read_bytes()
        real(self, chain, *args)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # counted, not read
    context = ssl.create_default_context()
    load_client_certificate(context, path, load_node_key(hospital.state_dir))
    assert opened == ["/memfd:client (deleted)"]
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_a_certificate_over_another_key_is_refused_and_leaves_no_descriptor(
    hospital: Hospital,
) -> None:
    path = _joined(hospital)
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(SiteConfigError, match=r"this node's own key.*join again"):
        load_client_certificate(
            ssl.create_default_context(), path, generate_private_key(SECP384R1())
        )
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


@pytest.mark.parametrize("content", [None, b"words", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "client.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SiteConfigError, match=r"client certificate in PEM at .*site join"):
        load_client_certificate(
            ssl.create_default_context(), path, generate_private_key(SECP384R1())
        )


def test_a_file_with_a_key_of_its_own_is_used_unless_others_can_read_it(
    hospital: Hospital, tmp_path: Path
) -> None:
    key = load_node_key(hospital.state_dir)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "both.pem"
    path.write_bytes(pem + _joined(hospital).read_bytes())
    path.chmod(0o600)
    other = generate_private_key(SECP384R1())
    load_client_certificate(ssl.create_default_context(), path, other)
    path.chmod(0o640)
    with pytest.raises(SiteConfigError, match="found mode 0640"):
        load_client_certificate(ssl.create_default_context(), path, other)


@pytest.mark.parametrize(("days", "is_told"), [(300, False), (340, True), (400, True)])
def test_a_certificate_that_ends_is_named_in_the_log(
    hospital: Hospital, caplog: pytest.LogCaptureFixture, days: int, is_told: bool
) -> None:
    load_client_certificate(
        ssl.create_default_context(),
        _joined(hospital),
        load_node_key(hospital.state_dir),
        now=datetime.now(UTC) + timedelta(days=days),
    )
    assert ("ask the coordinator for another" in caplog.text) == is_told


def test_the_connector_finds_its_certificate_beside_its_key(
    hospital: Hospital, tmp_path: Path
) -> None:
    assert connector_files(hospital.site_dir, superlink="a:1").client_certificate is None
    path = _joined(hospital)
    assert connector_files(hospital.site_dir, superlink="a:1").client_certificate == path
    own = tmp_path / "own"
    own.mkdir()
    assert (
        connector_files(None, connector_dir=own, address="a", superlink="a:1").client_certificate
        is None
    )
    (own / "client.pem").touch()
    found = connector_files(
        None, connector_dir=own, address="a", superlink="a:1"
    ).client_certificate
    assert found == own / "client.pem"
    named = connector_files(
        hospital.site_dir, superlink="a:1", client_certificate=tmp_path / "x.pem"
    )
    assert named.client_certificate == tmp_path / "x.pem"


def _forged(hospital: Hospital, what: str) -> bytes:
    """A certificate that is wrong in one way."""
    private = hospital.case.out / "private" / "ca.key"
    signing: dict[str, Any] = {
        "days": 9,
        "now": datetime.now(UTC),
        "authority": certificate_from_pem((hospital.sent / "ca.pem").read_bytes(), where=""),
        "authority_key": key_from_pem(private.read_bytes(), where=""),
    }
    own = load_node_key(hospital.state_dir).public_key()
    other = generate_private_key(SECP384R1())
    if what == "authority":
        signing["authority_key"] = other
    if what == "use":
        made = server_certificate(own, hosts=["alpha"], **signing)
        return certificate_to_pem(made)
    key = other.public_key() if what == "key" else own
    name = "beta" if what == "name" else "alpha"
    return certificate_to_pem(site_certificate(key, site=name, **signing))


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("authority", "signed by the consortium's authority"),
        ("words", "signed by the consortium's authority"),
        ("key", "over this hospital's own node key"),
        ("name", "of the site 'alpha'"),
        ("use", "one for a client"),
    ],
)
def test_a_client_certificate_that_is_not_this_hospitals_own_is_refused(
    hospital: Hospital, what: str, text: str
) -> None:
    content = b"words" if what == "words" else _forged(hospital, what)
    (hospital.sent / "client.pem").write_bytes(content)
    with pytest.raises(ProvisionError, match=text):
        _joined(hospital)
    assert not (hospital.state_dir / "roster.json").exists()
    assert not (hospital.state_dir / "client.pem").exists()


def test_a_right_certificate_is_taken(hospital: Hospital) -> None:
    (hospital.sent / "client.pem").write_bytes(_forged(hospital, "nothing"))
    assert _joined(hospital).read_bytes() == (hospital.sent / "client.pem").read_bytes()


def test_a_folder_from_before_without_a_certificate_is_taken(hospital: Hospital) -> None:
    (hospital.sent / "client.pem").unlink()
    assert not _joined(hospital).exists()
