"""A whole consortium on loopback: provisioned, joined, with real sites behind real connectors."""

import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
import torch
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.acceptance import accept
from client.agent_client import connect
from client.config import load_site_config
from client.node_fleet import Fleet
from client.node_loop import Node
from client.node_session import Session
from client.roster import join_consortium
from client.site_keys import make_site_keys
from common.study import Study
from server.provision.provisioning import provision
from server.superlink.control import control_of
from server.superlink.folder import Coordinator
from server.superlink.process import SuperLink, supervise
from server.superlink.tls import tls_of
from server.superlink.up import server_of
from simulations.cohort import SiteEffects, write_cohort
from simulations.marked_processes import free_port
from tests.federation.deployment import until
from tests.unit.agent_cases import running

ROOT = Path(__file__).parents[2]


@dataclass
class ConsortiumOnDisk:
    """Hospitals that have joined, and their coordinator's folder."""

    folder: Path
    study: Study
    sites: dict[str, Path]
    port: int = field(default_factory=free_port)

    @property
    def coordinator(self) -> Path:
        return self.folder / "coordinator"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def provision(self, *names: str) -> None:
        """Brings the roster up to date: these sites, or all of them."""
        content: dict[str, Any] = {
            "consortium": {"name": "north"},
            "coordinator": {
                "hosts": ["127.0.0.1"],
                "fleet_port": self.port,
                "superlink_port": self.port,
            },
            "sites": [
                {"name": n, "public_keys": str(self.public_keys(n))} for n in names or self.sites
            ],
        }
        file = self.folder / "CONSORTIUM.toml"
        file.write_text(tomli_w.dumps(content))
        provision(file, self.coordinator, now=datetime.now(UTC))

    def public_keys(self, name: str) -> Path:
        return make_site_keys(self.sites[name], now=datetime.now(UTC)).public_file

    def node_key(self, name: str) -> Path:
        return load_site_config(self.sites[name]).state_dir / "keys" / "node.key"


def make_consortium(
    folder: Path, study: Study, *names: str, policy: Mapping[str, object] | None = None
) -> ConsortiumOnDisk:
    """Hospitals that have joined and accepted the study; `policy` is what each has decided."""
    effects = [SiteEffects(name=name, num_patients=60 + 8 * i) for i, name in enumerate(names)]
    for site_dir in write_cohort(study, effects, folder / "sites", seed=0):
        settings = tomllib.loads((site_dir / "site.toml").read_text())
        settings["policy"] |= policy or {}
        (site_dir / "site.toml").write_text(tomli_w.dumps(settings))
    made = ConsortiumOnDisk(
        folder=folder, study=study, sites={n: folder / "sites" / n for n in names}
    )
    made.provision()
    heard = Coordinator.open(made.coordinator).roster().coordinator_fingerprint
    for name, site_dir in made.sites.items():
        join_consortium(site_dir, made.coordinator / "sites" / name, heard=heard)
        accept(load_site_config(site_dir), study, who="test")
    return made


@contextmanager
def served(consortium: ConsortiumOnDisk) -> Iterator[SuperLink]:
    """The supervised SuperLink of a consortium; killed, it is back in about a second."""
    coordinator = Coordinator.open(consortium.coordinator)
    superlink = SuperLink(server_of(coordinator))
    stop, ready = threading.Event(), threading.Event()

    def on_ready() -> None:
        with control_of(coordinator.address, ca=coordinator.ca) as control:
            control.register(coordinator.roster())
        ready.set()

    with ThreadPoolExecutor(max_workers=1) as pool:
        # However often it is killed: a server's own patience with it grows to 30 s.
        delays = {"first_delay_s": 0.1, "longest_delay_s": 1.0}
        ended = pool.submit(supervise, superlink, stop=stop, on_ready=on_ready, **delays)
        try:
            until(lambda: ready.is_set() or ended.done(), timeout_s=60)
            if ended.done():
                ended.result()
            yield superlink
        finally:
            stop.set()


def kill(superlink: SuperLink) -> None:
    assert superlink.pid is not None
    os.kill(superlink.pid, signal.SIGKILL)


@contextmanager
def connected(consortium: ConsortiumOnDisk, *names: str) -> Iterator[None]:
    """Real sites behind connectors, all in threads of this process."""
    with ExitStack() as stack:
        for name in names or consortium.sites:
            address = stack.enter_context(site_process(consortium, name))
            stack.enter_context(connector(consortium, name, address))
        yield


@contextmanager
def site_process(consortium: ConsortiumOnDisk, name: str) -> Iterator[str]:
    """The site process of a hospital in a thread; its address.

    It computes as one with `threads = 1` does: with more, the last bits of a model are others.
    """
    torch.set_num_threads(1)
    with running(consortium.sites[name], address="127.0.0.1:0") as process:
        yield process.address


@contextmanager
def connector(consortium: ConsortiumOnDisk, name: str, site_address: str) -> Iterator[None]:
    """The connector of a hospital in a thread; the next one goes on where it was."""
    folder = consortium.folder / "nodes" / name
    folder.mkdir(parents=True, exist_ok=True)
    key = load_ssh_private_key(consortium.node_key(name).read_bytes(), password=None)
    tls = tls_of(consortium.coordinator / "ca.pem")
    stop = threading.Event()
    with connect(site_address) as site:
        node = Node(
            site=site,
            new_fleet=lambda alive: Fleet(
                superlink=consortium.address,
                tls=tls,
                key=key,  # type: ignore[arg-type]
                on_progress=alive,
            ),
            session=Session(folder / "session.json", superlink=consortium.address, key_digest=name),
            heartbeat_file=folder / "heartbeat",
            stop=stop,
        )
        thread = threading.Thread(target=node.run, name=f"node {name}")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()


@contextmanager
def connector_process(
    consortium: ConsortiumOnDisk, name: str, site_address: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The connector of a hospital as a process of its own, which may be killed."""
    folder = consortium.folder / "nodes" / name
    folder.mkdir(parents=True, exist_ok=True)
    program = f"""
import threading
from pathlib import Path
from client.node import run_node
run_node(superlink={consortium.address!r}, site_address={site_address!r},
    root_certificates=Path({str(consortium.coordinator / "ca.pem")!r}),
    auth_key=Path({str(consortium.node_key(name))!r}),
    heartbeat_file=Path({str(folder / "heartbeat")!r}), stop=threading.Event())
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def journal(run: Path, kind: str) -> list[dict[str, Any]]:
    """The events of a kind in a run's journal."""
    lines = (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]
