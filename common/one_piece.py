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
from flwr.proto.message_pb2 import ObjectTree

from common.parcels import is_packed

# In `metadata.group_id`, which Flower hands through, and nobody else of ours reads.
ASKED: Final = "in one piece"


def is_small(content: RecordDict) -> bool:
    """Whether content is a parcel with everything in it, which is about a mebibyte at the most."""
    return is_packed(content) and len(content) == 1


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
