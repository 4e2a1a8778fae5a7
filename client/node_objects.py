"""Messages as Flower's Fleet API hands them out: a bare message, a tree of objects, the objects.

All of it is the server's. Whatever its size, shape or bytes, it becomes records or a
`MessageError`, and never more memory than the limit.
"""

from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    is_valid_sha256_hash,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from client.agent_client import MAX_MESSAGE_BYTES
from common.errors import MessageError
from common.flower_objects import check_arrays
from common.one_piece import check_announced, is_whole
from common.wire import num_bytes

# Names and framing come on top of the values, within the site process's limit.
MAX_CONTENT_BYTES = MAX_MESSAGE_BYTES - 2**20
_MAX_OBJECTS = 1_000


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A message that was pulled, and the tree of the objects that it is.

    Its content is empty, unless it has come in one piece.
    """

    message: Message
    tree: ObjectTree

    @classmethod
    def from_response(cls, response: PullMessagesResponse) -> "Pulled | None":
        """The first message of `response`, if any. Raises `MessageError` if it is malformed."""
        if not response.messages_list:
            return None
        # What is announced is also stored as it is, before anybody asks for its content.
        check_announced(response.messages_list[0])
        try:
            message = message_from_proto(response.messages_list[0])
            tree = response.message_object_trees[0]
        except Exception as fault:  # Flower and protobuf raise many classes
            raise _malformed("a message", fault) from fault
        # The id is written to logs: no text of anybody's making.
        if not is_valid_sha256_hash(message.metadata.message_id):
            raise MessageError("Expected a digest as the id of a message, found another text.")
        return cls(message=message, tree=tree)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Pulled":
        """What `to_bytes` was made of. Raises `MessageError` for anything else."""
        try:
            response = PullMessagesResponse.FromString(data)
        except Exception as fault:  # protobuf raises many classes
            raise _malformed("a stored message", fault) from fault
        found = cls.from_response(response)
        if found is None:
            raise MessageError("Expected a stored message, found none.")
        return found

    def to_bytes(self) -> bytes:
        """As protobuf, for `from_bytes`; with the content of a message in one piece alone."""
        response = PullMessagesResponse(
            messages_list=[message_to_proto(self.message)], message_object_trees=[self.tree]
        )
        return bytes(response.SerializeToString())

    def object_ids(self) -> list[str]:
        """The id of each object, once. Raises `MessageError` for too many."""
        seen: dict[str, None] = {}
        for node in iterate_object_tree(self.tree):
            seen[node.object_id] = None
            if len(seen) > _MAX_OBJECTS:
                raise MessageError(f"Expected at most {_MAX_OBJECTS} objects, found more.")
        return list(seen)

    @property
    def is_whole(self) -> bool:
        """Whether the message has come in one piece, so that there are no objects to be had."""
        return is_whole(self.message)

    def own_content(self) -> RecordDict:
        """The records of a message in one piece. Raises `MessageError` for more than the limit."""
        return _checked(self.message.content)

    def content(self, objects: dict[str, bytes]) -> RecordDict:
        """The records that the objects are. Empties `objects`.

        Raises `MessageError` where they are no message, or more than the limit.
        """
        check_arrays(objects, most_bytes=MAX_CONTENT_BYTES)
        try:
            message = inflate_object_from_contents(self.tree.object_id, objects)
            content = message.content if isinstance(message, Message) else None
        except Exception as fault:  # Flower raises many classes
            raise _malformed("objects of a message", fault) from fault
        if content is None:
            raise MessageError("Expected the objects of a message, found others.")
        # Of one array under many names there is one copy here, and many in the bytes.
        return _checked(content)


@dataclass(kw_only=True)
class Outgoing:
    """A reply on its way: what is left of it to send outlives the connection.

    Attributes:
        seconds: how long the site took, for the coordinator's record.
        session_id: of the upload that has begun at the SuperLink; empty before.
        missing: ids of the objects that the SuperLink has asked for and not got.
    """

    reply: Message
    seconds: float
    session_id: str = ""
    missing: set[str] = field(default_factory=set)


def _checked(content: RecordDict) -> RecordDict:
    if num_bytes(content) > MAX_CONTENT_BYTES:
        raise MessageError(f"Expected content of at most {MAX_CONTENT_BYTES} bytes.")
    return content


def _malformed(expected: str, fault: Exception) -> MessageError:
    return MessageError(f"Expected {expected}, found what fails with {type(fault).__name__}.")
