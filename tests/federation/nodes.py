"""Connectors in threads and in processes, and what is asked of them."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.superlink.grid import HttpGrid

from client.agent_client import SiteConnection
from client.node_fleet import Fleet
from client.node_loop import Node
from client.node_session import Session
from server.grid import exchange, wait_for_nodes
from tests.federation.deployment import Link
from tests.federation.fake_site import FakeSite

ROOT = Path(__file__).parents[2]


def new_key(path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP384R1())
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path


@contextmanager
def in_thread(
    link: Link,
    site: FakeSite,
    folder: Path,
    *,
    patience_s: float = 1,
    lasting_key: ec.EllipticCurvePrivateKey | None = None,
) -> Iterator[Path]:
    """A node in a thread of this process; its folder."""
    folder.mkdir(exist_ok=True)
    key = lasting_key or ec.generate_private_key(ec.SECP384R1())
    stop = threading.Event()
    connection = SiteConnection(site.address)
    node = Node(
        site=connection,
        new_fleet=lambda alive: Fleet(superlink=link.address, tls=None, key=key, on_progress=alive),
        session=Session(folder / "session.json", superlink=link.address, key_digest="key"),
        heartbeat_file=folder / "heartbeat",
        stop=stop,
        is_ephemeral=lasting_key is None,
        site_patience_s=patience_s,
    )
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        yield folder
    finally:
        stop.set()
        thread.join(30)
        connection.close()
        site.gate.set()
        assert not thread.is_alive()


@contextmanager
def in_process(
    link: Link, site: FakeSite, folder: Path, key: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A node as a process of its own, as hospitals have it."""
    program = f"""
import logging, signal, threading
from pathlib import Path
from client.node import run_node
logging.basicConfig(level=logging.INFO)
logging.getLogger("httpx").setLevel(logging.WARNING)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
run_node(superlink={link.address!r}, site_address={site.address!r}, root_certificates=None,
    auth_key=Path({str(key)!r}), heartbeat_file=Path({str(folder)!r}) / "heartbeat", stop=stop,
    insecure=True)
import sys
assert "torch" not in sys.modules and "client.site" not in sys.modules
"""
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def content(size: int = 10) -> RecordDict:
    data = np.arange(size, dtype="<f4").tobytes()
    flat = Array(dtype="float32", shape=(size,), stype="wardround.flat", data=data)
    header = ConfigRecord({"nonce": "n"})
    return RecordDict({"arrays": ArrayRecord({"flat": flat}), "header": header})


def ask(grid: HttpGrid, node_id: int, kind: str = "train", *, timeout_s: float = 40) -> Message:
    (reply,) = exchange(grid, [Message(content(), node_id, kind)], timeout_s=timeout_s)
    return reply


def only_node(grid: HttpGrid) -> int:
    (node_id,) = wait_for_nodes(grid, 1, timeout_s=30)
    return node_id
