"""Replies on their way: taken as their pieces arrive, and never waited for.

A node announces its reply first and sends the pieces afterwards. Flower's own grid waits for them
for up to two hours, and with it everybody: a hospital that dies at that moment, or is hostile,
would hold up the round. Here a reply is there once all of it is.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.runtime import RuntimeHttpClient

from common.flower_objects import check_arrays
from common.one_piece import check_announced

_NODE = Node(node_id=SUPERLINK_NODE_ID)
# Of one reply. An honest one is a few objects, and Flower cuts arrays into pieces of 5 MiB.
_MAX_OBJECTS = 1000
# A connector gives one request 60 s. One that was killed in mid-upload sends another reply, which
# the SuperLink does not take while it waits for the rest of the first.
_LOST_AFTER_S = 75.0
# The largest reply that is taken, where nobody says less.
_MAX_BYTES = 2**29


@dataclass(kw_only=True)
class _Announced:
    """A reply of which some pieces may be missing, by their digests.

    Attributes:
        came_at: when its last piece came, or it was announced.
    """

    message_id: str
    object_ids: tuple[str, ...]
    came_at: float
    contents: dict[str, bytes] = field(default_factory=dict)


class Replies:
    """The replies of one run that were announced and have not been taken.

    Guarantees:
        - Nothing is waited for: what has not come yet is looked for by the next call.
        - A piece is pulled once. Where none comes for 75 s, the reply counts as lost.
        - What is given as the reply to a message says itself that it is.
        - A reply of absurd size, or of pieces that make no message, is an error of its site's, and
          costs the others neither memory nor time.
        - Nothing is kept of a reply that nobody asks for any more.
        - A reply in one piece is there at once, and nothing is asked of the SuperLink for it.
        - Of one that is no small parcel Python makes nothing: it is an error of its site's.

    Attributes:
        most_bytes: of one reply, as it comes and as it is put together.
        came_whole: the messages to which the last call has found replies in one piece.
    """

    def __init__(self, run_id: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes = _MAX_BYTES
        self.came_whole: frozenset[str] = frozenset()
        self._run_id = run_id
        self._clock = clock
        self._announced: dict[str, _Announced] = {}

    def pull(self, client: RuntimeHttpClient, asked: Collection[str]) -> list[Message]:
        """The replies to the messages `asked` that are whole; an error for one that was lost."""
        # Of one that was late, some pieces may be here: a hostile site sends all but the last.
        for late in self._announced.keys() - set(asked):
            self._end(client, late)
        # One that was announced is announced no more.
        unknown = [message_id for message_id in asked if message_id not in self._announced]
        whole: dict[str, Message] = {}
        if unknown:
            found = client.PullMessages(PullAppMessagesRequest(message_ids=unknown))
            pairs = zip(found.messages_list, found.message_object_trees, strict=True)
            for message, tree in pairs:
                if (reply := self._whole(message)) is not None:
                    whole[message.metadata.reply_to_message_id] = reply
                    continue
                self._announced[message.metadata.reply_to_message_id] = _Announced(
                    message_id=message.metadata.message_id,
                    came_at=self._clock(),
                    object_ids=tuple(dict.fromkeys(t.object_id for t in iterate_object_tree(tree))),
                )
        self.came_whole = frozenset(m for m, reply in whole.items() if reply.has_content())
        taken = [self._take(client, m) for m in asked if m in self._announced]
        return [*whole.values(), *(message for message in taken if message is not None)]

    def _whole(self, announced: ProtoMessage) -> Message | None:
        """The reply that an announcement is; None for one whose objects are to be had."""
        asked = announced.metadata.reply_to_message_id
        if not announced.content.items:
            return None
        if announced.ByteSize() > self.most_bytes:
            return self._error(asked, ErrorCode.UNKNOWN)
        try:
            check_announced(announced)
            return message_from_proto(announced)
        except Exception:  # noqa: BLE001  # Flower raises many classes for what a node has made up
            return self._error(asked, ErrorCode.UNKNOWN)

    def _take(self, client: RuntimeHttpClient, asked: str) -> Message | None:
        reply = self._announced[asked]
        if len(reply.object_ids) > _MAX_OBJECTS:
            return self._end(client, asked)
        for object_id in reply.object_ids:
            if object_id in reply.contents:
                continue
            piece = client.PullObject(
                PullObjectRequest(node=_NODE, run_id=self._run_id, object_id=object_id)
            )
            if not piece.object_found:
                del self._announced[asked]
                return self._error(asked, ErrorCode.MESSAGE_UNAVAILABLE)
            if not piece.object_available:
                if self._clock() - reply.came_at < _LOST_AFTER_S:
                    return None
                return self._end(client, asked, ErrorCode.MESSAGE_UNAVAILABLE)
            reply.came_at = self._clock()
            reply.contents[object_id] = piece.object_content
            if sum(map(len, reply.contents.values())) > self.most_bytes:
                return self._end(client, asked)
        return self._end(client, asked, _message_of(reply, asked, most_bytes=self.most_bytes))

    def _end(
        self, client: RuntimeHttpClient, asked: str, ended: Message | int | None = None
    ) -> Message:
        """The reply, or an error in its place; the SuperLink may forget it."""
        reply = self._announced.pop(asked)
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=_NODE, run_id=self._run_id, message_object_id=reply.message_id
            )
        )
        if isinstance(ended, Message):
            return ended
        return self._error(asked, ErrorCode.UNKNOWN if ended is None else ended)

    def _error(self, asked: str, code: int) -> Message:
        """What is said of a reply in its place."""
        metadata = Metadata(
            run_id=self._run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=SUPERLINK_NODE_ID,
            reply_to_message_id=asked,
            group_id="",
            created_at=now().timestamp(),
            ttl=0,
            message_type=SYSTEM_MESSAGE_TYPE,
        )
        return make_message(metadata=metadata, error=Error(code=code, reason=""))


def _message_of(reply: _Announced, asked: str, *, most_bytes: int) -> Message | None:
    """The message that the pieces make; None where they make none, or another than announced.

    A node announces a reply to one message, and its pieces may say that they answer another one,
    which is another node's.
    """
    try:
        check_arrays(reply.contents, most_bytes=most_bytes)
        message = inflate_object_from_contents(reply.message_id, reply.contents)
    except Exception:  # noqa: BLE001  # Flower raises many classes for what a node has made up
        return None
    if not isinstance(message, Message) or message.metadata.reply_to_message_id != asked:
        return None
    message.metadata.__dict__["_message_id"] = reply.message_id
    return message
