"""The certificates in use: real TLS on loopback, with Python, gRPC and openssl as judges."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509

from server.provision.authority import hosts_of, is_issued_by
from tests.unit.provision_cases import NOW, ConsortiumFolder

TIMEOUT_S = 10.0


def _provisioned(folder: Path, *hosts: str, now: datetime | None = None) -> Path:
    """The coordinator's folder of a new consortium."""
    folder.mkdir()
    case = ConsortiumFolder(folder, "alpha")
    case.content["coordinator"]["hosts"] = list(hosts) or ["fl.example.org"]
    case.save()
    case.provision(now=now or datetime.now(UTC))
    return case.out


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _provisioned(tmp_path_factory.mktemp("tls") / "good")


@contextmanager
def tls_server(out: Path) -> Iterator[int]:
    """The port of a server on loopback that greets one client, over TLS, by the certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(out / "server.pem", out / "private" / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)

        def greet() -> None:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            raw.settimeout(TIMEOUT_S)
            # What the client says of a failure is what is tested.
            with raw, suppress(OSError), context.wrap_socket(raw, server_side=True) as stream:
                stream.recv(1024)
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            # Where no client came, this wakes the server.
            with suppress(OSError):
                socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S).close()
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def _greeting(out: Path, *, ca: Path, host: str, strict: bool = False) -> bytes:
    """What the server says to a client that trusts `ca` alone and expects `host`."""
    # As Flower's client does it: flwr/supercore/protobuf/client.py.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.read_bytes().decode("ascii"))
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        tls_server(out) as port,
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as raw,
        context.wrap_socket(raw, server_hostname=host) as stream,
    ):
        stream.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return stream.recv(1024)


@pytest.mark.parametrize("strict", [False, True], ids=["usual", "strict"])
@pytest.mark.parametrize("host", ["fl.example.org", "localhost", "127.0.0.1"])
def test_the_server_is_accepted_by_the_authority_that_hospitals_are_sent(
    good: Path, host: str, strict: bool
) -> None:
    sent = good / "sites" / "alpha" / "ca.pem"
    assert _greeting(good, ca=sent, host=host, strict=strict).endswith(b"hello")


@pytest.mark.threat("N-1")
def test_the_server_is_refused_by_another_authority_of_the_same_name(
    good: Path, tmp_path: Path
) -> None:
    other = _provisioned(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        _greeting(good, ca=other / "ca.pem", host="fl.example.org")


@pytest.mark.threat("N-1")
@pytest.mark.parametrize("host", ["example.org", "a.fl.example.org", "evil.org", "127.0.0.2"])
def test_the_server_is_refused_under_another_name(good: Path, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"is not valid for|mismatch"):
        _greeting(good, ca=good / "ca.pem", host=host)


@pytest.mark.threat("N-1")
@pytest.mark.parametrize("age", [366, 3700], ids=["server", "server and authority"])
def test_the_server_is_refused_once_its_certificate_has_ended(tmp_path: Path, age: int) -> None:
    out = _provisioned(tmp_path / "old", now=datetime.now(UTC) - timedelta(days=age))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        _greeting(out, ca=out / "ca.pem", host="fl.example.org")


@pytest.mark.threat("N-1")
def test_the_server_is_refused_before_its_certificate_begins(tmp_path: Path) -> None:
    out = _provisioned(tmp_path / "early", now=datetime.now(UTC) + timedelta(hours=3))
    with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        _greeting(out, ca=out / "ca.pem", host="fl.example.org")


def test_a_hospital_whose_clock_is_an_hour_behind_accepts_the_server(tmp_path: Path) -> None:
    out = _provisioned(tmp_path / "ahead", now=datetime.now(UTC) + timedelta(minutes=55))
    assert _greeting(out, ca=out / "ca.pem", host="localhost").endswith(b"hello")


def test_a_hospital_with_the_authoritys_former_certificate_accepts_the_renewed_server(
    tmp_path: Path,
) -> None:
    (tmp_path / "c").mkdir()
    case = ConsortiumFolder(tmp_path / "c", "alpha")
    ten_years_less_a_week = timedelta(days=3643)
    case.provision(now=datetime.now(UTC) - ten_years_less_a_week)
    former = tmp_path / "former.pem"
    former.write_bytes((case.out / "ca.pem").read_bytes())
    case.provision(now=datetime.now(UTC), renew=True)
    assert (case.out / "ca.pem").read_bytes() != former.read_bytes()
    for ca in (former, case.out / "ca.pem"):
        assert _greeting(case.out, ca=ca, host="localhost").endswith(b"hello")


@pytest.mark.threat("N-1")
def test_the_server_does_not_speak_without_tls(good: Path) -> None:
    with tls_server(good) as port, socket.create_connection(("127.0.0.1", port)) as raw:
        raw.settimeout(TIMEOUT_S)
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            answer = raw.recv(1024)
        except ConnectionResetError:
            answer = b""
    assert b"hello" not in answer


@pytest.mark.threat("N-1")
def test_flowers_own_client_accepts_the_server_and_refuses_another_authority(
    good: Path, tmp_path: Path
) -> None:
    from flwr.supernode.fleet_http_client import FleetHttpClient

    other = _provisioned(tmp_path / "other")
    for ca, is_good in ((good / "ca.pem", True), (other / "ca.pem", False)):
        with tls_server(good) as port:
            client = FleetHttpClient.from_server_address(
                f"127.0.0.1:{port}", False, ca.read_bytes(), interceptors=[]
            )
            with client:
                if is_good:
                    assert client._client.get(f"https://127.0.0.1:{port}/").text == "hello"
                else:
                    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                        client._client.get(f"https://127.0.0.1:{port}/")


def test_grpc_accepts_the_certificates_too(good: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    key, chain = ((good / f).read_bytes() for f in ("private/server.key", "server.pem"))
    server = grpc.server(ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(key, chain)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        ca = grpc.ssl_channel_credentials((good / "ca.pem").read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{port}", ca) as channel:
            grpc.channel_ready_future(channel).result(timeout=TIMEOUT_S)
    finally:
        server.stop(None).wait(TIMEOUT_S)


def test_the_certificate_is_for_the_hosts_and_the_machine_itself_alone(tmp_path: Path) -> None:
    out = _provisioned(tmp_path / "c", "fl.example.org", "192.0.2.7", "2001:db8::1", now=NOW)
    server = x509.load_pem_x509_certificate((out / "server.pem").read_bytes())
    own = {"localhost", "127.0.0.1", "::1"}
    assert hosts_of(server) == own | {"fl.example.org", "192.0.2.7", "2001:db8::1"}


@pytest.mark.threat("N-1")
def test_the_servers_certificate_can_sign_no_other(good: Path) -> None:
    server = x509.load_pem_x509_certificate((good / "server.pem").read_bytes())
    ca = x509.load_pem_x509_certificate((good / "ca.pem").read_bytes())
    basic = server.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = server.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (basic.ca, usage.key_cert_sign) == (False, False)
    limit = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (limit.critical, limit.value.path_length) == (True, 0)
    assert is_issued_by(server, ca)
    assert not is_issued_by(ca, server)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_the_chain_strictly(good: Path) -> None:
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver"]
    command += ["-verify_hostname", "fl.example.org", "-CAfile", str(good / "ca.pem")]
    done = subprocess.run(
        [*command, str(good / "server.pem")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == f"{good / 'server.pem'}: OK", done.stderr


def test_the_superlink_takes_the_arguments_as_they_are_given(good: Path) -> None:
    from flwr.common.args import try_obtain_server_certificates
    from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink

    from server.provision.consortium import load_consortium
    from server.provision.provisioning import superlink_arguments

    consortium = load_consortium(good.parent / "CONSORTIUM.toml")
    args = _parse_args_run_superlink().parse_args([*superlink_arguments(good, consortium)])
    names = ("ca.pem", "server.pem", "private/server.key")
    certificates = try_obtain_server_certificates(args)
    assert certificates == tuple((good / name).read_bytes() for name in names)
    assert (args.port, args.enable_supernode_auth, args.insecure) == (8000, True, False)
