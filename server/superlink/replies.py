"""Replies on their way: taken as their pieces arrive, and never waited for.

A node announces its reply first and sends the pieces afterwards. Flower's own grid waits for them
for up to two hours, and with it everybody: a hospital that dies at that moment, or is hostile,
would hold up the round. Here a reply is there once all of it is.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.runtime import RuntimeHttpClient

_NODE = Node(node_id=SUPERLINK_NODE_ID)


@dataclass(frozen=True, kw_only=True)
class _Announced:
    """A reply of which some pieces may be missing, by their digests."""

    message_id: str
    object_ids: tuple[str, ...]
    contents: dict[str, bytes] = field(default_factory=dict)


class Replies:
    """The replies of one run that were announced and have not been taken.

    Guarantees:
        - Nothing is waited for: what has not come yet is looked for by the next call.
        - A piece is pulled once.
    """

    def __init__(self, run_id: int) -> None:
        self._run_id = run_id
        self._announced: dict[str, _Announced] = {}

    def pull(self, client: RuntimeHttpClient, asked: Collection[str]) -> list[Message]:
        """The replies to the messages `asked` that are whole; an error for one that was lost."""
        # One that was announced is announced no more.
        unknown = [message_id for message_id in asked if message_id not in self._announced]
        if unknown:
            found = client.PullMessages(PullAppMessagesRequest(message_ids=unknown))
            pairs = zip(found.messages_list, found.message_object_trees, strict=True)
            for message, tree in pairs:
                self._announced[message.metadata.reply_to_message_id] = _Announced(
                    message_id=message.metadata.message_id,
                    object_ids=tuple(dict.fromkeys(t.object_id for t in iterate_object_tree(tree))),
                )
        taken = [self._take(client, m) for m in asked if m in self._announced]
        return [message for message in taken if message is not None]

    def _take(self, client: RuntimeHttpClient, asked: str) -> Message | None:
        reply = self._announced[asked]
        for object_id in reply.object_ids:
            if object_id in reply.contents:
                continue
            piece = client.PullObject(
                PullObjectRequest(node=_NODE, run_id=self._run_id, object_id=object_id)
            )
            if not piece.object_found:
                del self._announced[asked]
                return self._lost(asked)
            if not piece.object_available:
                return None
            reply.contents[object_id] = piece.object_content
        del self._announced[asked]
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=_NODE, run_id=self._run_id, message_object_id=reply.message_id
            )
        )
        message = inflate_object_from_contents(reply.message_id, reply.contents)
        if not isinstance(message, Message):
            return self._lost(asked)
        message.metadata.__dict__["_message_id"] = reply.message_id
        return message

    def _lost(self, asked: str) -> Message:
        """What Flower's own grid says of a reply whose pieces are gone."""
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
        error = Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason="")
        return make_message(metadata=metadata, error=error)
