"""The shipped proxy configuration in a real nginx: hospitals reach fleet routes, and no more."""

import os
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from client.client_certificate import load_client_certificate
from client.node_faults import Rejected
from client.node_fleet import Fleet
from common.signing import SigningKey
from common.site_keys import PublicKeyFile, SiteKeys, node_key_line
from server.provision.authority import (
    certificate_from_pem,
    certificate_to_pem,
    key_from_pem,
    site_certificate,
)
from tests.federation.deployment import register, superlink, until
from tests.federation.proxy import ROOT, TEMPLATE, Upstream, needs_nginx, proxy, upstream
from tests.unit.provision_cases import ConsortiumFolder

PULL = "/v1/fleet/pull-messages"


@dataclass
class Consortium:
    """The coordinator's folder, with the node keys of its hospitals."""

    case: ConsortiumFolder
    nodes: dict[str, EllipticCurvePrivateKey]

    @classmethod
    def of(cls, folder: Path, *names: str) -> "Consortium":
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(ConsortiumFolder(folder, *names), {})
        for name in names:
            node, signing = generate_private_key(SECP384R1()), SigningKey.generate()
            line = node_key_line(node.public_key())
            keys = SiteKeys(name=name, signing_key=signing.public_key, node_key=line)
            text = PublicKeyFile.of(keys, signing).text()
            (folder / f"{name}.toml").write_text(text, encoding="utf-8")
            made.nodes[name] = node
        made.case.provision(now=datetime.now(UTC))
        return made

    @property
    def out(self) -> Path:
        return self.case.out

    def tls(self, name: str | None, *, ca: Path | None = None) -> ssl.SSLContext:
        """As the connector of a site has it; of nobody, if None."""
        context = ssl.create_default_context(cafile=ca or self.out / "ca.pem")
        if name is not None:
            path = self.out / "sites" / name / "client.pem"
            load_client_certificate(context, path, self.nodes[name])
        return context


@dataclass
class Door:
    """An nginx, what stands behind it, and its certificates."""

    consortium: Consortium
    behind: Upstream
    address: str
    pid: int
    folder: Path

    def post(
        self, path: str, *, tls: ssl.SSLContext | None = None, content: bytes = b"x", **how: str
    ) -> int:
        tls = tls or self.consortium.tls("alpha")
        with httpx.Client(verify=tls, trust_env=False, timeout=10) as client:
            url = f"https://{self.address}{path}"
            return client.request(how.get("method", "POST"), url, content=content).status_code


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("proxy")
    consortium = Consortium.of(folder / "consortium", "alpha", "beta")
    with (
        upstream(consortium.out) as behind,
        proxy(folder / "nginx", consortium.out, behind.address, max_body="64k") as (address, pid),
    ):
        yield Door(consortium, behind, address, pid, folder / "nginx")


def _fleet_routes() -> set[str]:
    """The routes that Flower's SuperLink has for nodes."""
    from flwr.superlink.routers.fleet.router import router

    return {route.path for route in router.routes}  # type: ignore[attr-defined]


def _other_routes() -> set[str]:
    """The routes of the other APIs on the same port."""
    from flwr.supercore.routers.runtime.router import router as runtime
    from flwr.superlink.routers.control.router import router as control

    routes = [*control.routes, *runtime.routes]
    return {route.path for route in routes} | {"/health", "/docs", "/openapi.json", "/"}  # type: ignore[attr-defined]


def test_the_routes_in_the_configuration_are_flowers_fleet_routes() -> None:
    (names,) = re.findall(r'location ~ "\^/v1/fleet/\((.*)\)\\z"', TEMPLATE.read_text("utf-8"))
    assert {f"/v1/fleet/{name}" for name in names.split("|")} == _fleet_routes()


@needs_nginx
def test_a_hospital_with_its_certificate_reaches_every_fleet_route(door: Door) -> None:
    door.behind.seen.clear()
    assert {path: door.post(path) for path in _fleet_routes()} == dict.fromkeys(
        _fleet_routes(), 200
    )
    assert {(method, path) for method, path, _, _ in door.behind.seen} == {
        ("POST", path) for path in _fleet_routes()
    }


@pytest.mark.threat("N-2")
@needs_nginx
def test_no_other_route_is_reachable(door: Door) -> None:
    door.behind.seen.clear()
    others = _other_routes()
    assert len(others) > 40
    with httpx.Client(verify=door.consortium.tls("beta"), trust_env=False, timeout=10) as client:
        answers = {
            path: client.post(f"https://{door.address}{path}").status_code for path in others
        }
    assert answers == dict.fromkeys(others, 404)
    assert door.behind.seen == []


@pytest.mark.threat("N-2")
@needs_nginx
@pytest.mark.parametrize(
    "path",
    [
        f"{PULL}/",
        f"{PULL}x",
        f"{PULL}/../../control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "//v1/control/start-run",
        "/V1/FLEET/PULL-MESSAGES",
        f"{PULL}%0a",
        f"{PULL}%00",
        f"{PULL};/../../control/start-run",
    ],
)
def test_a_path_written_otherwise_reaches_nothing(door: Door, path: str) -> None:
    door.behind.seen.clear()
    assert _raw(door, f"POST {path} HTTP/1.1") in (400, 404)
    assert door.behind.seen == []


@needs_nginx
@pytest.mark.parametrize(
    "path",
    ["/v1/control/start-run/../../fleet/pull-messages", f"{PULL}?a=b", "//v1//fleet/get-run"],
)
def test_what_passes_arrives_as_the_route_itself_and_nothing_else(door: Door, path: str) -> None:
    door.behind.seen.clear()
    assert _raw(door, f"POST {path} HTTP/1.1") == 200
    assert [seen[1] for seen in door.behind.seen] in ([PULL], ["/v1/fleet/get-run"])


@pytest.mark.threat("N-2")
@needs_nginx
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(door: Door, method: str) -> None:
    assert door.post(PULL, method=method) == 404


@pytest.mark.threat("N-1")
@needs_nginx
def test_nobody_without_a_certificate_is_let_in(door: Door) -> None:
    door.behind.seen.clear()
    for path in (PULL, "/v1/control/start-run", "/"):
        assert door.post(path, tls=door.consortium.tls(None)) == 400
    assert door.behind.seen == []


@pytest.mark.threat("N-1")
@needs_nginx
def test_a_certificate_by_another_authority_of_the_same_name_is_refused(
    door: Door, tmp_path: Path
) -> None:
    other = Consortium.of(tmp_path / "other", "alpha")
    door.behind.seen.clear()
    assert _refused(door, other.tls("alpha", ca=door.consortium.out / "ca.pem"))
    assert door.behind.seen == []


@pytest.mark.threat("N-1", "K-1")
@needs_nginx
def test_a_certificate_that_has_ended_is_refused(door: Door, tmp_path: Path) -> None:
    out, key = door.consortium.out, door.consortium.nodes["alpha"]
    ended = site_certificate(
        key.public_key(),
        site="alpha",
        days=0,
        now=datetime.now(UTC),
        authority=certificate_from_pem((out / "ca.pem").read_bytes(), where=""),
        authority_key=key_from_pem((out / "private" / "ca.key").read_bytes(), where=""),
    )
    path = tmp_path / "ended.pem"
    path.write_bytes(certificate_to_pem(ended))
    context = door.consortium.tls(None)
    load_client_certificate(context, path, key)
    assert _refused(door, context)


@pytest.mark.threat("N-3")
@needs_nginx
def test_a_body_above_the_limit_is_refused_before_it_is_read(door: Door) -> None:
    push = "/v1/fleet/push-object"
    assert door.post(push, content=b"x" * 65_536) == 200
    assert door.post(push, content=b"x" * 65_537) == 413
    assert _raw(door, f"POST {push} HTTP/1.1", "Content-Length: 200000000") == 413
    assert _raw(door, f"POST {PULL} HTTP/1.1", "Content-Length: 200000000") == 413


@pytest.mark.threat("N-3")
@needs_nginx
def test_only_a_piece_of_a_model_may_be_large(tmp_path: Path) -> None:
    """Of a list of 100,000 objects, the SuperLink's database would be locked for minutes."""
    consortium = Consortium.of(tmp_path / "c", "alpha", "beta")
    with (
        upstream(consortium.out) as behind,
        proxy(tmp_path / "nginx", consortium.out, behind.address) as (address, pid),
    ):
        door = Door(consortium, behind, address, pid, tmp_path / "nginx")
        small = {path: door.post(path, content=b"x" * 16_384) for path in _fleet_routes()}
        large = {path: door.post(path, content=b"x" * 16_385) for path in _fleet_routes()}
    assert small == dict.fromkeys(_fleet_routes(), 200)
    assert large == dict.fromkeys(_fleet_routes(), 413) | {"/v1/fleet/push-object": 200}


@needs_nginx
def test_a_node_is_known_by_its_headers_behind_the_proxy(door: Door) -> None:
    door.behind.seen.clear()
    with httpx.Client(verify=door.consortium.tls("alpha"), trust_env=False) as client:
        headers = {"flwr-public-key": "k", "flwr-signature": "s", "flwr-timestamp": "t"}
        answer = client.post(f"https://{door.address}{PULL}", headers=headers)
    sent = door.behind.seen[0][2]
    assert {name: sent[name] for name in headers} == headers
    assert "date" in answer.headers  # the connector compares clocks by it


@pytest.mark.threat("I-1")
@needs_nginx
def test_the_log_holds_who_and_what_and_no_body(door: Door) -> None:
    assert door.post(PULL, content=b"SECRET-CONTENT") == 200
    log = door.folder / "wardround.log"
    until(lambda: log.exists() and f"POST {PULL} 200" in log.read_text("utf-8"))
    assert "CN=alpha" in log.read_text("utf-8")
    for path in (log, door.folder / "error.log"):
        assert "SECRET-CONTENT" not in path.read_text("utf-8")


@pytest.mark.threat("K-1")
@needs_nginx
def test_a_hospital_that_left_is_refused_once_the_list_is_loaded(tmp_path: Path) -> None:
    consortium = Consortium.of(tmp_path / "c", "alpha", "beta")
    tls = {name: consortium.tls(name) for name in ("alpha", "beta")}
    with (
        upstream(consortium.out) as behind,
        proxy(tmp_path / "nginx", consortium.out, behind.address) as (address, pid),
    ):
        door = Door(consortium, behind, address, pid, tmp_path / "nginx")
        assert [door.post(PULL, tls=tls[name]) for name in tls] == [200, 200]
        consortium.case.remove("alpha")
        consortium.case.provision(now=datetime.now(UTC))
        new = (consortium.out / "crl.pem").read_bytes()
        (door.folder / "certificates" / "crl.pem").write_bytes(new)
        os.kill(pid, signal.SIGHUP)  # as `nginx -s reload`
        until(lambda: _refused(door, tls["alpha"]))
        assert door.post(PULL, tls=tls["beta"]) == 200


@needs_nginx
def test_the_superlink_behind_it_must_be_the_coordinators_own(tmp_path: Path) -> None:
    consortium = Consortium.of(tmp_path / "c", "alpha")
    other = Consortium.of(tmp_path / "other", "alpha")
    with (
        upstream(other.out) as behind,
        proxy(tmp_path / "nginx", consortium.out, behind.address) as (address, pid),
    ):
        assert Door(consortium, behind, address, pid, tmp_path / "nginx").post(PULL) == 502
        assert behind.seen == []


def test_a_piece_of_a_model_fits_into_the_body_that_is_documented() -> None:
    from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

    example = (ROOT / "deploy" / "compose" / ".env.example").read_text("utf-8")
    (size_mib,) = re.findall(r"^WARDROUND_MAX_BODY=(\d+)m$", example, flags=re.MULTILINE)
    assert int(size_mib) * 2**20 > FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 2**20


@needs_nginx
def test_a_connector_joins_the_real_superlink_through_the_proxy(tmp_path: Path) -> None:
    consortium = Consortium.of(tmp_path / "c", "alpha", "beta")
    out = consortium.out
    options = ("--ssl-certfile", f"{out}/server.pem", "--ssl-ca-certfile", f"{out}/ca.pem")
    options += ("--ssl-keyfile", f"{out}/private/server.key", "--enable-supernode-auth")
    with (
        superlink(tmp_path / "link", *options, ca=out / "ca.pem") as link,
        proxy(tmp_path / "nginx", out, link.address) as (address, _),
    ):
        key = consortium.nodes["alpha"]
        number = register(link, public_key_to_bytes(key.public_key()))
        with _fleet(consortium, "alpha", address) as fleet:
            fleet.join(None)
            assert fleet.node_id == number
            fleet.beat()
            assert fleet.pull() is None
            fleet.leave(for_good=False)
        # A certificate opens the door; who is on its list, the SuperLink still says.
        with _fleet(consortium, "beta", address) as fleet, pytest.raises(Rejected):
            fleet.join(None)


@contextmanager
def _fleet(consortium: Consortium, name: str, address: str) -> Iterator[Fleet]:
    fleet = Fleet(superlink=address, tls=consortium.tls(name), key=consortium.nodes[name])
    try:
        yield fleet
    finally:
        fleet.close()


def _refused(door: Door, tls: ssl.SSLContext) -> bool:
    try:
        return door.post(PULL, tls=tls) == 400
    except httpx.TransportError:
        return True


def _raw(door: Door, line: str, *headers: str) -> int:
    """The status of a request that a client library would not write."""
    host, _, port = door.address.partition(":")
    lines = [line, f"Host: {host}", *(headers or ["Content-Length: 0"]), "Connection: close"]
    with (
        socket.create_connection(("127.0.0.1", int(port)), timeout=10) as raw,
        door.consortium.tls("alpha").wrap_socket(raw, server_hostname=host) as stream,
    ):
        stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(stream.recv(1024).split()[1])
