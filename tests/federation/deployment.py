"""A real SuperLink on loopback, and a coordinator on it: what the tests of connectors run against.

The run is started with a bundle that holds no code at all; its one task is taken by the test
itself, which is then the ServerApp. Nothing is left behind: every process is ended by its pid.
"""

import hashlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from common.quiet import QUIET
from server.superlink.control import empty_bundle
from simulations.marked_processes import free_port


def until(condition: Callable[[], object], *, timeout_s: float = 90.0) -> None:
    """Returns once `condition` holds. Raises TimeoutError where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


@dataclass
class Link:
    """A SuperLink that can be killed and started again with the same database."""

    folder: Path
    port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    ca: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.ca is None else 'https'}://{self.address}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        (self.folder / "empty").mkdir(parents=True, exist_ok=True)
        programs = Path(sys.executable).parent
        environment = (
            os.environ
            | QUIET
            | {
                "FLWR_HOME": str(self.folder / "home"),
                "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            }
        )
        command = [str(programs / "flower-superlink"), "--isolation", "process"]
        command += [] if self.ca is not None else ["--insecure"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--database", str(self.folder / "superlink.db"), *self.options]
        with (self.folder / "superlink.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.folder / "empty",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._is_healthy)

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            os.kill(self.process.pid, number)
            self.process.wait(20)
            self.process = None

    def _is_healthy(self) -> bool:
        tls = None if self.ca is None else ssl.create_default_context(cafile=self.ca)
        try:
            return httpx.get(f"{self.url}/health", timeout=1, verify=tls or False).is_success
        except httpx.TransportError:
            return False


@contextmanager
def superlink(folder: Path, *options: str, ca: Path | None = None) -> Iterator[Link]:
    folder.mkdir(parents=True, exist_ok=True)
    link = Link(folder=folder, options=options, ca=ca)
    try:
        link.start()
        yield link
    finally:
        link.stop()


@contextmanager
def coordinator(link: Link) -> Iterator[HttpGrid]:
    """The grid of a new run, which is this process's own."""
    control = ControlHttpClient(f"http://{link.address}")
    bundle = empty_bundle()
    fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
    run_id = control.StartRun(StartRunRequest(fab=fab)).run_id
    control.close()
    runtime = RuntimeHttpClient(f"http://{link.address}")
    task = runtime.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
    runtime.close()
    assert task.task.run_id == run_id
    grid = HttpGrid(link.address, insecure=True, token=task.token)
    given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
    TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
    TaskIdentity.node_id = given.context.node_id
    grid.set_run(run_from_proto(given.run))
    beating = HeartbeatSender(make_task_heartbeat_fn_http(grid._runtime_client))
    beating.start()
    try:
        yield grid
    finally:
        beating.stop()
        grid.close()


def register(link: Link, public_key: bytes) -> int:
    """Puts a node on the SuperLink's list, as `flwr supernode register` does; its number."""
    control = ControlHttpClient(link.url, verify=True if link.ca is None else str(link.ca))
    node_id: int = control.RegisterNode(RegisterNodeRequest(public_key=public_key)).node_id
    control.close()
    return node_id
