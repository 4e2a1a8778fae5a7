"""The run's one task, taken by this process: it is the ServerApp, and Flower starts none.

The task's grid outlives a SuperLink that is killed and started again with its database: requests
are repeated, what was lost on the way is asked for again, and hospitals are given the time to
connect anew before anybody counts as absent.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from flwr.app import ArrayRecord, Message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SubStatus
from flwr.common.serde import message_to_proto, run_from_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from common import wire
from common.errors import MessageError, RunError, WardroundError
from common.memory import give_back_at_once
from common.one_piece import ASKED, tree_of
from common.parcels import is_packed, packed, unpacked
from server.grid import Pace
from server.superlink.beating import Beating
from server.superlink.forms import Forms
from server.superlink.http import Patient
from server.superlink.masks import Masks
from server.superlink.presence import ListedPresence
from server.superlink.replies import Replies
from server.superlink.runtime import TASK_TYPE, NotTaken, runtime, understood
from server.superlink.tls import tls_of

_FAREWELL_S = 5.0
# A connector tries again after 10 s at the most, and a little.
_RETURNING_S = 12.0
# One that has lost a message is away for three.
_AWAY_S = 8.0
_MOST_PUSHES = 3
# What an update of the model may be larger than the task that brought it: statistics, moments.
_REPLY_ROOM_BYTES = 64 * 2**20


class SuperLinkGrid(HttpGrid):
    """The grid of one task.

    Guarantees:
        - A call that is not answered is repeated until patience ends; a message that is pushed
          again is still one message (its id is its digest).
        - A reply that was lost because the SuperLink died while handing it out is asked for again.
        - A message of which the SuperLink says that nobody will answer it is sent again for 8 s: a
          connector that has lost one on its way leaves for a moment, so that this is said.
        - A site that knows the model before it is sent cannot keep it from the others, by naming
          its pieces to the SuperLink first, nor while it is sent to others.
        - After an outage, a site counts as gone only once it has had the time to come back.
        - A small message, and its reply, take one request each at either end, once the node has
          shown that it understands that.

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
        self._forms = Forms()
        self.pace = Pace()
        # Until when a message to a node that is offline waits for it to come back.
        self._returning: dict[str, float] = {}

    def set_run(self, run: Run) -> None:
        """Says which run this is."""
        super().set_run(run)
        self._replies = Replies(run.run_id)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that are online."""
        with understood(self._addr):
            return super().get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages; their ids, "" for one that was not taken.

        Raises `ObjectPushError` where a node disturbs the push of a message.
        """
        messages = list(messages)
        for number in range(1, _MOST_PUSHES + 1):
            for message in messages:
                self._pack(message)
            outages = self.patient.outages
            try:
                with understood(self._addr):
                    ids = list(super().push_messages(messages))
            except ObjectPushError:
                # An object that had arrived when the answer was lost is not taken twice.
                if number == _MOST_PUSHES or self.patient.outages == outages:
                    raise
            except NotTaken:
                # Somebody has named its pieces to the SuperLink since they were sent to him.
                for message in messages:
                    message.content = unpacked(message.content)
                self._masks.renew()
                if number == _MOST_PUSHES:
                    raise ObjectPushError("", self.run.run_id, "") from None
            else:
                break
        for message in messages:
            self._in_hand[message.metadata.dst_node_id] = (message, self.patient.outages)
        return ids

    def _pack(self, message: Message) -> None:
        """Gives a message the form in which it travels."""
        if not is_packed(message.content):
            mask = self._masks.mask_for(message.metadata.dst_node_id)
            message.content = packed(message.content, mask=mask)
            records = [r for r in message.content.values() if isinstance(r, ArrayRecord)]
            arrays = [array for record in records for array in record.values()]
            shared = self._masks.shared([array.data for array in arrays])
            for array, data in zip(arrays, shared, strict=True):
                array.data = data
        message.metadata.group_id = ASKED
        self._replies.most_bytes = wire.num_bytes(message.content) + _REPLY_ROOM_BYTES

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come whole; of the others, what has come is kept."""
        held = self._held_back()
        asked = [message_id for message_id in message_ids if message_id not in held]
        if not asked:
            return []
        with understood(self._addr):
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
        self._client = runtime(
            self._addr, RuntimeTokenHttpInterceptor(token=self._token), self.patient
        )

    def _try_push_messages(self, run_id: int, messages: Iterable[Message]) -> list[str]:
        """Flower's own, but for messages in one piece."""
        ids: list[str] = []
        for message in messages:
            if not self._forms.is_whole(message):
                ids += super()._try_push_messages(run_id, [message])
                continue
            request = PushAppMessagesRequest(
                messages_list=[message_to_proto(message)],
                message_object_trees=[tree_of(message)],
            )
            ids += self.client().PushMessages(request).message_ids
        return ids

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
        self._forms.answered(message, is_whole=asked in self._replies.came_whole)
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
    # The messages of a round are many times the model, and nothing is trained here.
    give_back_at_once()
    grid = SuperLinkGrid(
        address,
        ca=ca,
        token=_acquire(run_id, address, ca),
        patience_s=patience_s,
        presence=presence,
    )
    outcome, details = SubStatus.FAILED, ""
    beating = Beating(address, ca, grid._token)
    try:
        with understood(address):
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
    client = runtime(address, patient)
    try:
        with understood(address):
            request = AcquireTaskRequest(supported_task_types=[TASK_TYPE])
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
