"""Flower's Control API, as far as a coordinator needs it: nodes by their keys, and runs.

The bundle of a run holds no code: what a hospital and a coordinator run is installed there.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError

from common.errors import RunError
from common.roster import Roster
from server.superlink.http import Patient
from server.superlink.tls import tls_of

# A connector of ours beats every 4 s, and announces the least that Flower takes.
CONNECTOR_INTERVAL_S = 10.0
# A node that announces fewer heartbeats (a stock SuperNode: every 30 s) is silent as much later.
SILENT_AFTER_S = 12.0
_CALL_TIMEOUT_S = 15.0
_PYPROJECT = """\
[project]
name = "wardround-run"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "wardround"
[tool.flwr.app.components]
serverapp = "none:none"
clientapp = "none:none"
[tool.flwr.app.config]
"""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A node, as the SuperLink knows it.

    Attributes:
        public_key: PEM, as it was registered.
        is_online: whether messages may be sent to it.
        silent_s: seconds since its last heartbeat, or since it said goodbye, by the SuperLink's
            own clock; infinite where it was never there.
        interval_s: between two heartbeats, as the node has announced it.
    """

    node_id: int
    public_key: bytes
    is_online: bool
    silent_s: float
    interval_s: float = CONNECTOR_INTERVAL_S

    @property
    def is_silent(self) -> bool:
        """Whether nothing has been heard of it for long."""
        return self.silent_s >= SILENT_AFTER_S * max(self.interval_s / CONNECTOR_INTERVAL_S, 1.0)


class Declined(RunError):  # noqa: N818  # what is so, not what went wrong
    """The SuperLink has refused a call.

    Attributes:
        reason: Flower's name of the error, or "" for one without.
    """

    def __init__(self, text: str, *, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class Control:
    """Calls to the Control API of one SuperLink.

    Raises (each method): `RunError` that says what was refused, or that nothing answers.
    """

    def __init__(self, address: str, *, ca: Path) -> None:
        self._address = address
        tls = tls_of(ca)
        self._patient = Patient(tls, patience_s=0.0)
        self._client = ControlHttpClient(
            f"https://{address}", interceptors=[self._patient], verify=tls, timeout=_CALL_TIMEOUT_S
        )

    def close(self) -> None:
        """Closes every connection."""
        self._client.close()
        self._patient.close()

    def nodes(self) -> tuple[tuple[Seen, ...], datetime]:
        """All registered nodes, and the SuperLink's own time."""
        response = self._call("list its nodes", self._client.ListNodes, ListNodesRequest())
        now = datetime.fromisoformat(response.now).astimezone(UTC)
        found = [info for info in response.nodes_info if info.status != "unregistered"]
        return tuple(_seen(info, now) for info in found), now

    def register(self, roster: Roster) -> dict[int, str]:
        """The roster's sites by the id of their node.

        Guarantees:
            - Every site's node is registered, and no other: who has left the roster, or has other
              keys now, is unregistered.
            - Doing it again changes nothing.
        """
        nodes, _ = self.nodes()
        known = {node.public_key: node.node_id for node in nodes}
        wanted = {site.node_key_pem(): site.name for site in roster.sites}
        for key in known.keys() - wanted.keys():
            self._call(
                "take a node off its list",
                self._client.UnregisterNode,
                UnregisterNodeRequest(node_id=known[key]),
            )
        sites = {}
        for key, name in wanted.items():
            node_id = known[key] if key in known else self._register(key, name)
            sites[node_id] = name
        return sites

    def start_run(self) -> int:
        """The number of a new run. Runs from before that have not ended are stopped."""
        runs = self._call("list its runs", self._client.ListRuns, ListRunsRequest()).run_dict
        for run_id, run in runs.items():
            if run.status.status != "finished":
                self._stop_run(run_id)
        bundle = empty_bundle()
        fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
        request = StartRunRequest(fab=fab)
        run_id = int(self._call("start a run", self._client.StartRun, request).run_id)
        if run_id == 0:
            raise self._declined("start a run", "", "no number of a run")
        return run_id

    def _stop_run(self, run_id: int) -> None:
        try:
            self._call("stop a run", self._client.StopRun, StopRunRequest(run_id=run_id))
        except Declined as fault:
            if fault.reason != "RUN_ALREADY_FINISHED":
                raise

    def _register(self, key: bytes, site: str) -> int:
        request = RegisterNodeRequest(public_key=key)
        try:
            response = self._call("register a node", self._client.RegisterNode, request)
        except Declined as fault:
            if fault.reason != "PUBLIC_KEY_ALREADY_IN_USE":
                raise
            # The answer to a request of before may have been lost.
            known = {node.public_key: node.node_id for node in self.nodes()[0]}
            if key in known:
                return known[key]
            # The SuperLink keeps the key of a node that was taken off, and takes it no more.
            raise RunError(
                f"Expected a node key of '{site}' that the SuperLink has not taken off its list "
                "before, found one that it has. The hospital makes new keys (`wardround site keys "
                f"--rotate`), and you: `wardround provision … --replace {site}`."
            ) from None
        return int(response.node_id)

    def _call(self, what: str, method: Callable[[Any], R], request: object) -> R:
        try:
            return method(request)
        except httpx.HTTPStatusError as fault:
            error = FlowerError.from_json(fault.response.text)
            known = error is not None and error.code in set(ApiErrorCode)
            reason = ApiErrorCode(error.code).name if error and known else ""
            status = f"HTTP {fault.response.status_code}"
            raise self._declined(
                what, reason, f"{reason} ({status})" if reason else status
            ) from None
        except (httpx.HTTPError, ValueError) as fault:
            raise RunError(
                f"Expected the SuperLink to answer at {self._address}, found "
                f"{type(fault).__name__}. Start it by `wardround server up DIR`."
            ) from None

    def _declined(self, what: str, reason: str, found: str) -> Declined:
        return Declined(
            f"Expected the SuperLink at {self._address} to {what}, found {found}. See "
            "superlink/superlink.log in the coordinator's folder; it must be of the release of "
            "Flower that is installed here.",
            reason=reason,
        )


@contextmanager
def control_of(address: str, *, ca: Path) -> Iterator[Control]:
    """The Control API at `address`, closed afterwards."""
    control = Control(address, ca=ca)
    try:
        yield control
    finally:
        control.close()


def sites_of(nodes: tuple[Seen, ...], sites_by_node: Mapping[int, str]) -> tuple[str, ...]:
    """The names of the sites that are connected, in order."""
    return tuple(
        sorted(
            sites_by_node[n.node_id]
            for n in nodes
            # Flower counts a killed one as online for 20 s.
            if n.is_online and not n.is_silent and n.node_id in sites_by_node
        )
    )


def _seen(info: NodeInfo, now: datetime) -> Seen:
    silent_s = float("inf")
    if info.HasField("online_until"):
        # Flower adds this much to the time of a heartbeat.
        patience_s = HEARTBEAT_PATIENCE * info.heartbeat_interval
        silent_s = now.timestamp() - (info.online_until - patience_s)
    return Seen(
        node_id=info.node_id,
        public_key=bytes(info.public_key),
        is_online=info.status == "online",
        silent_s=silent_s,
        interval_s=float(info.heartbeat_interval),
    )


def empty_bundle() -> bytes:
    """A Flower App Bundle without any code, always the same bytes."""
    digest = hashlib.sha256(_PYPROJECT.encode()).hexdigest()
    content = f"pyproject.toml,{digest},{len(_PYPROJECT.encode()) * 8}\n"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in (("pyproject.toml", _PYPROJECT), (".info/CONTENT", content)):
            archive.writestr(zipfile.ZipInfo(name), text)
    return data.getvalue()
