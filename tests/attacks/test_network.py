"""The network against a real SuperLink: TLS with listed keys, and forged tasks to a real hospital.

The certificates themselves are attacked in tests/unit/test_provision_tls.py, the proxy and its
client certificates in tests/federation/test_proxy.py.
"""

import base64
import datetime
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from common import wire
from common.envelope import sign_task
from common.messages import Task
from common.signing import SigningKey
from common.study import Study
from server.grid import exchange
from tests.federation.deployment import Link, coordinator, register, superlink
from tests.federation.nodes import in_thread, only_node
from tests.federation.test_node_links import write_certificates
from tests.unit.agent_cases import accept, private_of, running
from tests.unit.builders import task_of
from tests.unit.consortium import signed

pytestmark = pytest.mark.flower

JOIN = "/v1/fleet/activate-node"
PROTOBUF = "application/protobuf"
TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A SuperLink with TLS that lets listed keys in alone, and one key that is listed."""

    link: Link
    ca: Path
    key: ec.EllipticCurvePrivateKey

    def join(self, key: ec.EllipticCurvePrivateKey, headers: dict[str, str]) -> int:
        """The status of a node's first call, with these headers."""
        public = public_key_to_bytes(key.public_key())
        body = ActivateNodeRequest(public_key=public, heartbeat_interval=10).SerializeToString()
        tls = ssl.create_default_context(cafile=self.ca)
        headers = headers | {"Content-Type": PROTOBUF}
        url = f"{self.link.url}{JOIN}"
        answer = httpx.post(url, headers=headers, content=body, verify=tls, timeout=TIMEOUT_S)
        return answer.status_code


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listed]:
    folder = tmp_path_factory.mktemp("network")
    ca = write_certificates(folder / "tls", "server")
    options = ("--ssl-certfile", str(ca), "--ssl-keyfile", str(ca.with_suffix(".key")))
    options += ("--ssl-ca-certfile", str(ca), "--enable-supernode-auth")
    key = ec.generate_private_key(ec.SECP384R1())
    with superlink(folder / "link", *options, ca=ca) as link:
        register(link, public_key_to_bytes(key.public_key()))
        yield Listed(link=link, ca=ca, key=key)


def shown(
    key: ec.EllipticCurvePrivateKey, *, by: ec.EllipticCurvePrivateKey | None = None, off_s: int = 0
) -> dict[str, str]:
    """The headers by which a node shows its key; `by` signs them, at a time that is off."""
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=off_s)
    signature = sign_message(by or key, now.isoformat().encode())
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(
            public_key_to_bytes(key.public_key())
        ).decode(),
        TIMESTAMP_HEADER: now.isoformat(),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
    }


@pytest.mark.threat("N-1")
def test_plain_http_gets_nothing_from_a_superlink_with_tls(listed: Listed) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(f"http://{listed.link.address}{JOIN}", timeout=TIMEOUT_S)


@pytest.mark.threat("N-1")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(listed: Listed, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(listed.ca)
    # Python warns of versions that are refused here; the library's own bar is lowered as well.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    address = ("127.0.0.1", listed.link.port)
    with (
        socket.create_connection(address, timeout=TIMEOUT_S) as raw,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol|version|alert"),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


@pytest.mark.threat("N-1")
def test_the_certificate_is_not_accepted_for_another_name(listed: Listed) -> None:
    tls = ssl.create_default_context(cafile=listed.ca)
    with (
        socket.create_connection(("127.0.0.1", listed.link.port), timeout=TIMEOUT_S) as raw,
        pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|not valid for|mismatch"),
    ):
        tls.wrap_socket(raw, server_hostname="fl.example.org")


@pytest.mark.threat("N-1", "C-3", "K-1")
def test_nobody_is_let_in_without_the_proof_of_a_listed_key_of_now(listed: Listed) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    attempts = {
        "nothing shown": {},
        "a key that is not listed": shown(stranger),
        "a listed key, signed by another": shown(listed.key, by=stranger),
        "a proof of ten minutes ago": shown(listed.key, off_s=-600),
        "a proof of tomorrow": shown(listed.key, off_s=86_400),
    }
    told = {name: listed.join(listed.key, headers) for name, headers in attempts.items()}
    assert set(told.values()) <= {401, 403, 412}, told
    assert listed.join(listed.key, shown(listed.key)) == 200


# Forged tasks, through a SuperLink and a connector to a site process.


@dataclass
class Address:
    """A site process, as the connectors of the tests know one."""

    address: str
    gate: threading.Event = field(default_factory=threading.Event)


@pytest.mark.threat("C-3", "N-1", "S1-1", "S1-5")
def test_whoever_holds_the_superlink_can_make_a_hospital_do_nothing(
    new_site: Callable[..., Path], tiny_study: Study, tmp_path: Path
) -> None:
    study = private_of(tiny_study)
    folder = accept(new_site(), study, cohort_size=45)
    honest = signed(task_of(study, nonce="n1"))
    later = signed(task_of(study, nonce="n2", round=1))
    forged = {
        "no signature": (replace(honest, signature=None), "task_not_signed"),
        "a signature of one's own": (
            sign_task(honest, SigningKey.generate()),
            "task_not_signed",
        ),
        "another round under the same signature": (replace(honest, round=2), "task_not_signed"),
        "another study under the same signature": (
            replace(honest, study_hash="0" * 64),
            "task_not_signed",
        ),
        "a task for another hospital": (signed(task_of(study), "beta"), "task_for_another_site"),
    }
    with (
        running(folder) as agent,
        superlink(tmp_path / "link") as link,
        in_thread(link, Address(agent.address), tmp_path / "node"),  # type: ignore[arg-type]
        coordinator(link) as grid,
    ):
        node = only_node(grid)

        def ask(*tasks: Task) -> list[str]:
            messages = [Message(wire.task_to_records(t), node, t.kind.value) for t in tasks]
            replies = exchange(grid, messages, timeout_s=60)
            return sorted(wire.reply_from_records(reply.content).status for reply in replies)

        # At once, because a message takes seconds on its way: what is refused changes nothing.
        told = ask(*(task for task, _ in forged.values()), honest)
        assert told == sorted([*(code for _, code in forged.values()), "ok"])
        assert ask(later) == ["ok"]
        assert ask(honest) == ["task_replayed"]
