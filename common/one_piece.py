"""Messages in one piece: what is in them travels with them, not as objects of its own.

Flower announces a message without its content, and moves that object by object, each by a request
of its own: into the SuperLink and out of it, on the way to a hospital and back. The announcement
has a field for content, though, which the SuperLink stores and hands out with it. A small message
needs no other request then: task and reply of one hospital take 3 requests of both sides together
in place of 17.

Flower's own programs leave that field empty and look for objects, so nobody is sent a message in
one piece who has not answered in one, nor answered in one without having asked for it. Must not
import torch: connectors use it.
"""

from typing import Final

from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from common import wire
from common.errors import MessageError
from common.parcels import PARCEL, is_packed

# In `metadata.group_id`, which Flower hands through, and nobody else of ours reads.
ASKED: Final = "in one piece"
# A parcel of a mebibyte of values, with as much again for names: of thousands of short lists they
# take more than the numbers do.
MOST_BYTES: Final = 2**21
# The message around the parcel: ids, a type, an address.
_AROUND_BYTES: Final = 2**12
_MOST_ENTRIES: Final = 2  # the records and a mask


def is_small(content: RecordDict) -> bool:
    """Whether content is a parcel with everything in it, which one piece has room for."""
    has_all = is_packed(content) and len(content) == 1
    return has_all and wire.num_bytes(content) <= MOST_BYTES - _AROUND_BYTES


def check_announced(message: ProtoMessage) -> None:
    """A message is announced without content, or with one parcel of bytes, in 2 MiB at most.

    It is looked at as protobuf has it: Python would make objects of each of very many names, and
    nobody has looked at any signature yet.

    Threat: N-3. Refuses: MESSAGE_MALFORMED.
    """
    if message.ByteSize() > MOST_BYTES:
        raise MessageError(f"Expected at most {MOST_BYTES} bytes in one piece, found more.")
    items = message.content.items
    if items and (len(items) != 1 or not _is_parcel(items[0])):
        raise MessageError("Expected one parcel of bytes in one piece, found something else.")


def _is_parcel(item: ProtoRecordDict.Item) -> bool:
    entries = item.config_record.items
    is_short = item.key == PARCEL and 0 < len(entries) <= _MOST_ENTRIES
    return is_short and all(entry.value.WhichOneof("value") == "bytes" for entry in entries)


def is_whole(message: Message) -> bool:
    """Whether a message that came as an announcement brought its content along."""
    return message.has_content() and len(message.content) > 0


def tree_of(message: Message) -> ObjectTree:
    """What the SuperLink is told of the objects of a message in one piece: there are none.

    It wants a name to hand the message out under, and never gets what belongs to it. It waits for
    that in a session that ends with the run, or 180 s later if somebody asks for the object: each
    message must have a session of its own, so that nobody can end another's.
    """
    return ObjectTree(object_id=message.metadata.message_id)
