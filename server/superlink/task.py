"""The run's one task, taken by this process: it is the ServerApp, and Flower starts none.

The task's grid outlives a SuperLink that is killed and started again with its database: requests
are repeated, what was lost on the way is asked for again, and hospitals are given the time to
connect anew before anybody counts as absent.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from common import wire
from common.errors import MessageError, RunError, WardroundError
from common.parcels import is_packed, packed, unpacked
from server.superlink.http import Patient
from server.superlink.masks import Masks
from server.superlink.presence import ListedPresence
from server.superlink.replies import Replies
from server.superlink.tls import tls_of

# Flower gives a task up after 60 s without one.
_BEAT_S = 5.0
_FAREWELL_S = 5.0
# A connector tries again after 10 s at the most, and a little.
_RETURNING_S = 12.0
# One that has lost a message is away for three.
_AWAY_S = 8.0
_MOST_PUSHES = 3
# What an update of the model may be larger than the task that brought it: statistics, moments.
_REPLY_ROOM_BYTES = 64 * 2**20
_TASK_TYPE = "flwr-serverapp"
_GONE = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})


class RunLost(Exception):  # noqa: N818  # what is so, not what went wrong
    """The SuperLink has ended this run, or has forgotten it: go on in a new one."""


class SuperLinkGrid(HttpGrid):
    """The grid of one task.

    Guarantees:
        - A call that is not answered is repeated until patience ends; a message that is pushed
          again is still one message (its id is its digest).
        - A reply that was lost because the SuperLink died while handing it out is asked for again.
        - A message of which the SuperLink says that nobody will answer it is sent again for 8 s: a
          connector that has lost one on its way leaves for a moment, so that this is said.
        - A site that knows the model before it is sent cannot keep it from the others, by naming
          its pieces to the SuperLink first.
        - After an outage, a site counts as gone only once it has had the time to come back.

    Args:
        presence: which nodes are silent, for whoever waits for replies.

    Raises (each call):
        RunLost: the SuperLink does not know the task any more.
        RunError: no answer for as long as patience lasts.
    """

    def __init__(
        self, address: str, *, ca: Path, token: str, patience_s: float, presence: ListedPresence
    ) -> None:
        super().__init__(address, root_certificates=ca.read_bytes(), token=token)
        self.presence = presence
        self.patient = Patient(tls_of(ca), patience_s=patience_s, on_return=presence.start_again)
        # The message in each node's hands, and how many outages it has seen.
        self._in_hand: dict[int, tuple[Message, int]] = {}
        self._replies = Replies(0)
        # When each message was first said to be lost.
        self._lost_at: dict[str, float] = {}
        self._masks = Masks()
        # Until when a message to a node that is offline waits for it to come back.
        self._returning: dict[str, float] = {}

    def set_run(self, run: Run) -> None:
        """Says which run this is."""
        super().set_run(run)
        self._replies = Replies(run.run_id)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that are online."""
        with _understood(self._addr):
            return super().get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages; their ids, "" for one that was not taken.

        Raises `ObjectPushError` where a node disturbs the push of its own message.
        """
        messages = list(messages)
        for message in messages:
            if not is_packed(message.content):
                mask = self._masks.mask_for(message.metadata.dst_node_id)
                message.content = packed(message.content, mask=mask)
            self._replies.most_bytes = wire.num_bytes(message.content) + _REPLY_ROOM_BYTES
        for number in range(1, _MOST_PUSHES + 1):
            outages = self.patient.outages
            try:
                with _understood(self._addr):
                    ids = list(super().push_messages(messages))
            except ObjectPushError:
                # An object that had arrived when the answer was lost is not taken twice.
                if number == _MOST_PUSHES or self.patient.outages == outages:
                    raise
            else:
                break
        for message in messages:
            self._in_hand[message.metadata.dst_node_id] = (message, self.patient.outages)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come whole; of the others, what has come is kept."""
        held = self._held_back()
        asked = [message_id for message_id in message_ids if message_id not in held]
        if not asked:
            return []
        with _understood(self._addr):
            replies = [_opened(reply) for reply in self._replies.pull(self.client(), asked)]
        return [reply for reply in replies if not self._is_asked_again(reply)]

    def close(self) -> None:
        """Closes every connection."""
        super().close()
        self.patient.close()

    def client(self) -> RuntimeHttpClient:
        """The calls of this task that no method stands for."""
        return self._runtime_client

    def _connect(self) -> None:
        self._client = _runtime(
            self._addr, RuntimeTokenHttpInterceptor(token=self._token), self.patient
        )

    def _is_asked_again(self, reply: Message) -> bool:
        """Whether this is no reply, but what an outage has left of one."""
        asked = reply.metadata.reply_to_message_id
        found = [(n, m) for n, m in self._in_hand.items() if m[0].metadata.message_id == asked]
        if not found:
            return False
        node_id, (message, outages) = found[0]
        now = time.monotonic()
        is_outage = outages < self.patient.outages
        if _is_lost(reply) and (is_outage or now - self._lost_at.setdefault(asked, now) < _AWAY_S):
            with suppress(ObjectPushError):
                self.push_messages([message])
                self._returning[asked] = now + (_RETURNING_S if is_outage else _AWAY_S)
                return True
        del self._in_hand[node_id]
        return False

    def _held_back(self) -> frozenset[str]:
        """The messages of which it is not asked yet: their nodes may be on their way back.

        Asked of a message to a node that is offline, the SuperLink would give it up.
        """
        now = time.monotonic()
        self._returning = {m: end for m, end in self._returning.items() if now < end}
        if not self._returning:
            return frozenset()
        online = set(self.get_node_ids())
        back = {m.metadata.message_id for n, (m, _) in self._in_hand.items() if n in online}
        self._returning = {m: end for m, end in self._returning.items() if m not in back}
        return frozenset(self._returning)


@contextmanager
def task_of(
    run_id: int, *, address: str, ca: Path, patience_s: float, presence: ListedPresence
) -> Iterator[SuperLinkGrid]:
    """The grid of the run's task, which is this process's from now on.

    Guarantees:
        - The run ends with the block: completed, or failed with the code of the error, or stopped.

    Raises:
        RunError: the task cannot be had.
    """
    grid = SuperLinkGrid(
        address,
        ca=ca,
        token=_acquire(run_id, address, ca),
        patience_s=patience_s,
        presence=presence,
    )
    outcome, details = SubStatus.FAILED, ""
    beating = _Beating(address, ca, grid._token)
    try:
        with _understood(address):
            given = grid.client().PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        grid.set_run(run_from_proto(given.run))
        beating.start()
        yield grid
        outcome = SubStatus.COMPLETED
    except WardroundError as fault:
        details = fault.code
        raise
    except KeyboardInterrupt:
        outcome = SubStatus.STOPPED
        raise
    finally:
        grid.patient.patience_s = _FAREWELL_S
        with suppress(httpx.HTTPError):
            grid.client().PushTaskOutput(PushTaskOutputRequest(sub_status=outcome, details=details))
        beating.end()
        grid.close()


class _Beating(threading.Thread):
    """Tells the SuperLink that the task lives. What it answers is for the grid's calls to find."""

    def __init__(self, address: str, ca: Path, token: str) -> None:
        super().__init__(name="task heartbeat", daemon=True)
        self._patient = Patient(tls_of(ca), patience_s=0.0)
        self._client = _runtime(address, RuntimeTokenHttpInterceptor(token=token), self._patient)
        self._end = threading.Event()

    def run(self) -> None:
        """Beats until it is ended."""
        while not self._end.wait(_BEAT_S):
            with suppress(httpx.HTTPError, ValueError):
                self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    def end(self) -> None:
        """Stops; waits for a beat that is on its way."""
        self._end.set()
        if self.is_alive():
            self.join()
        self._client.close()
        self._patient.close()


def _opened(reply: Message) -> Message:
    """The reply with its records; whatever is no parcel of them is for its reader to refuse."""
    if reply.has_content():
        with suppress(MessageError):
            reply.content = unpacked(reply.content)
    return reply


def _is_lost(reply: Message) -> bool:
    """Whether the SuperLink itself says that there will be no reply."""
    if not reply.has_error() or reply.metadata.src_node_id != SUPERLINK_NODE_ID:
        return False
    return reply.error.code in (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)


def _acquire(run_id: int, address: str, ca: Path) -> str:
    """The token of the run's task. Tasks of runs that nobody goes on with are ended."""
    patient = Patient(tls_of(ca), patience_s=_FAREWELL_S)
    client = _runtime(address, patient)
    try:
        with _understood(address):
            request = AcquireTaskRequest(supported_task_types=[_TASK_TYPE])
            while (given := client.AcquireTask(request)).HasField("task"):
                if given.task.run_id == run_id:
                    return str(given.token)
    finally:
        client.close()
        patient.close()
    raise RunError(
        f"Expected the task of run {run_id} from the SuperLink at {address}, found none. Another "
        "program takes its tasks: end it (flower-superexec), and start again."
    )


def _runtime(address: str, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
    versioned = RuntimeVersionHttpInterceptor(component_name=_TASK_TYPE)
    return RuntimeHttpClient(f"https://{address}", interceptors=[versioned, *interceptors])


@contextmanager
def _understood(address: str) -> Iterator[None]:
    """Says what a failed call means."""
    try:
        yield
    except httpx.HTTPStatusError as fault:
        status = fault.response.status_code
        if status in _GONE:
            raise RunLost(
                f"the SuperLink does not know this run any more (HTTP {status})"
            ) from None
        raise RunError(
            f"Expected the SuperLink at {address} to take a call, found HTTP {status}. See "
            "superlink/superlink.log in the coordinator's folder."
        ) from None
    except httpx.HTTPError as fault:
        raise RunError(
            f"Expected the SuperLink to answer at {address}, found {type(fault).__name__} for as "
            "long as patience lasts. Start it by `wardround server up DIR`, and go on with "
            "--resume."
        ) from None
