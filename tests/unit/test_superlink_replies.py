"""Replies that arrive in pieces, from a double at the seam of Flower's Runtime API."""

from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from server.superlink.replies import Replies
from tests.unit.builders import instruction


class Runtime:
    """Hands every reply out once; its pieces one after another, as the test lets them come."""

    def __init__(self, *replies: Message) -> None:
        self.new = {r.metadata.reply_to_message_id: r for r in replies}
        self.pieces: dict[str, bytes] = {}
        for reply in replies:
            objects = get_all_nested_objects(reply)
            self.pieces |= {object_id: o.deflate() for object_id, o in objects.items()}
        self.arrived: set[str] = set()
        self.gone: set[str] = set()
        self.pulled: list[str] = []
        self.confirmed: list[str] = []

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        found = [self.new.pop(m) for m in request.message_ids if m in self.new]
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(m)) for m in found],
            message_object_trees=[get_object_tree(m) for m in found],
        )

    def PullObject(self, request: Any) -> PullObjectResponse:
        object_id = request.object_id
        if object_id in self.gone:
            return PullObjectResponse(object_found=False)
        if object_id not in self.arrived:
            return PullObjectResponse(object_found=True, object_available=False)
        self.pulled.append(object_id)
        return PullObjectResponse(
            object_found=True, object_available=True, object_content=self.pieces[object_id]
        )

    def ConfirmMessageReceived(self, request: Any) -> ConfirmMessageReceivedResponse:
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()


@pytest.fixture
def reply() -> Message:
    asked = instruction(5, message_id="asked")
    message = Message(RecordDict({"a": ConfigRecord({"n": 1})}), reply_to=asked)
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def test_a_reply_is_there_once_all_of_it_is(reply: Message) -> None:
    runtime, replies = Runtime(reply), Replies(1)
    for object_id in runtime.pieces:
        assert replies.pull(runtime, ["asked"]) == []  # type: ignore[arg-type]
        runtime.arrived.add(object_id)
    (whole,) = replies.pull(runtime, ["asked"])  # type: ignore[arg-type]
    assert whole.content == reply.content
    assert whole.metadata.reply_to_message_id == "asked"
    assert sorted(runtime.pulled) == sorted(runtime.pieces)
    assert runtime.confirmed == [reply.object_id]


def test_a_reply_whose_pieces_are_gone_is_lost(reply: Message) -> None:
    runtime, replies = Runtime(reply), Replies(1)
    runtime.gone = set(runtime.pieces)
    (lost,) = replies.pull(runtime, ["asked"])  # type: ignore[arg-type]
    assert lost.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert lost.metadata.reply_to_message_id == "asked"


def test_one_that_does_not_arrive_holds_nobody_up(reply: Message) -> None:
    other = Message(RecordDict({}), reply_to=instruction(6, message_id="other"))
    other.metadata.__dict__["_message_id"] = other.object_id
    runtime, replies = Runtime(reply, other), Replies(1)
    runtime.arrived = set(get_all_nested_objects(other))
    (came,) = replies.pull(runtime, ["asked", "other"])  # type: ignore[arg-type]
    assert came.metadata.reply_to_message_id == "other"
