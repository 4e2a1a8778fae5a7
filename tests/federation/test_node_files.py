"""What a connector remembers, and what a careless hospital can configure."""

import json
import shutil
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from client import node_session
from client.node import _load_key, _tls_context, run_node
from client.node_objects import Pulled
from client.node_session import Remembered, Session, only_one
from common.errors import SiteConfigError
from common.parcels import packed
from tests.federation.nodes import content, new_key


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Pulled:
    for name, value in (("_run_id", 1), ("_node_id", 0), ("_task_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    message = Message(packed(content()), 5, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    return Pulled(message=message, tree=get_object_tree(message))


# What is remembered.


def test_a_session_is_of_one_superlink_and_one_key(tmp_path: Path, found: Pulled) -> None:
    path = tmp_path / "session.json"
    Session(path, superlink="a:1", key_digest="k").save(node_id=7, in_hand=found, lives=2)
    held = Session(path, superlink="a:1", key_digest="k").load()
    assert (held.node_id, held.lives) == (7, 2)
    assert held.in_hand is not None
    assert Session(path, superlink="b:1", key_digest="k").load() == Remembered()
    assert Session(path, superlink="a:1", key_digest="l").load() == Remembered()


def test_a_copy_of_a_session_is_told_from_the_original(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    Session(original / "session.json", superlink="a:1", key_digest="k").save(node_id=7)
    shutil.copytree(original, tmp_path / "copy")
    for name, is_of_here in (("original", True), ("copy", False)):
        held = Session(tmp_path / name / "session.json", superlink="a:1", key_digest="k").load()
        assert (held.node_id, held.is_of_here) == (7, is_of_here)


def test_a_session_of_before_the_machine_was_started_again_is_told_from_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(tmp_path / "session.json", superlink="a:1", key_digest="k")
    session.save(node_id=7)
    assert session.load().is_of_here
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another\n")
    monkeypatch.setattr(node_session, "_BOOT_ID", boot_id)
    assert not session.load().is_of_here


@pytest.mark.parametrize("junk", [b"", b"{}", b"[]", b'{"superlink": "a:1", "key": "k"}', b"\xff"])
def test_a_damaged_session_is_an_empty_one(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "session.json"
    path.write_bytes(junk)
    assert Session(path, superlink="a:1", key_digest="k").load() == Remembered()


def test_a_session_whose_message_is_damaged_is_an_empty_one(tmp_path: Path, found: Pulled) -> None:
    path = tmp_path / "session.json"
    session = Session(path, superlink="a:1", key_digest="k")
    session.save(node_id=7, in_hand=found)
    held = json.loads(path.read_bytes())
    for stored in ("AAAA", "?", 5, ""):
        path.write_text(json.dumps(held | {"in_hand": stored}))
        assert session.load() == Remembered()


def test_two_connectors_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        only_one(tmp_path),
        pytest.raises(SiteConfigError, match="one connector"),
        only_one(tmp_path),
    ):
        pass
    with only_one(tmp_path):
        pass


# What a hospital configures.


@pytest.mark.threat("N-1")
@pytest.mark.parametrize(
    ("superlink", "ca", "insecure", "text"),
    [
        ("10.0.0.1:8000", None, True, "loopback"),
        ("hub.example.org:8000", None, True, "loopback"),
        ("localhost:8000", None, True, "loopback"),
        ("127.0.0.1:8000", "ca.pem", True, "no certificates"),
        ("127.0.0.1:8000", None, False, "--root-certificates"),
        ("127.0.0.1:8000", "ca.pem", False, "certificates in PEM"),
        ("https://hub:8000", None, True, "HOST:PORT"),
        ("hub", None, True, "HOST:PORT"),
        ("hub:0", None, True, "HOST:PORT"),
        ("hub:8000/path", None, True, "HOST:PORT"),
    ],
)
def test_without_tls_and_a_ca_nothing_starts_but_on_loopback(
    tmp_path: Path, superlink: str, ca: str | None, insecure: bool, text: str
) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(SiteConfigError, match=text):
        run_node(
            superlink=superlink,
            site_address="127.0.0.1:1",
            root_certificates=None if ca is None else tmp_path / ca,
            auth_key=None,
            heartbeat_file=tmp_path / "node" / "heartbeat",
            stop=stop,
            insecure=insecure,
        )
    assert not (tmp_path / "node").exists()


@pytest.mark.threat("N-1")
def test_tls_checks_names_and_certificates() -> None:
    from certifi import where  # what httpx brings

    context = _tls_context("hub.example.org:443", Path(where()), insecure=False)
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.threat("K-1")
def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = new_key(tmp_path / "node.pem")
    assert isinstance(_load_key(path), ec.EllipticCurvePrivateKey)
    path.chmod(0o640)
    with pytest.raises(SiteConfigError, match="0640"):
        _load_key(path)


def test_a_file_that_is_no_ecdsa_key_is_refused(tmp_path: Path) -> None:
    from common.signing import SigningKey

    SigningKey.create(tmp_path / "site.pem")
    (tmp_path / "junk.pem").touch(mode=0o600)
    for name in ("site.pem", "junk.pem"):
        with pytest.raises(SiteConfigError, match="ECDSA"):
            _load_key(tmp_path / name)
    with pytest.raises(SiteConfigError, match="readable"):
        _load_key(tmp_path / "none.pem")


def test_while_the_site_is_away_the_loop_turns_and_stops_when_told(tmp_path: Path) -> None:
    heartbeat, stop = tmp_path / "node" / "heartbeat", threading.Event()
    options = {"root_certificates": None, "auth_key": None, "insecure": True, "stop": stop}
    thread = threading.Thread(
        target=run_node,
        kwargs={
            "superlink": "127.0.0.1:1",
            "site_address": "127.0.0.1:1",
            "heartbeat_file": heartbeat,
            **options,
        },
    )
    thread.start()
    try:
        for _ in range(1000):
            if heartbeat.exists():
                break
            thread.join(0.01)
        assert heartbeat.exists()
    finally:
        stop.set()
        thread.join(15)
    assert not thread.is_alive()
