"""Replies that arrive in pieces, from a double at the seam of Flower's Runtime API."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)

from common.parcels import packed
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
        # What the envelope says that it answers, if not what the reply itself says.
        self.announced_as = ""
        # Whether replies come in one piece.
        self.in_one_piece = False

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        if self.announced_as:
            found = list(self.new.values())
        else:
            found = [self.new.pop(m) for m in request.message_ids if m in self.new]
        bare = found if self.in_one_piece else map(remove_content_from_message, found)
        announced = [message_to_proto(m) for m in bare]
        for message in announced if self.announced_as else []:
            message.metadata.reply_to_message_id = self.announced_as
        return PullAppMessagesResponse(
            messages_list=announced,
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
    message = Message(packed(RecordDict({"a": ConfigRecord({"n": 1})})), reply_to=asked)
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


def test_a_reply_that_was_announced_as_one_to_another_message_is_an_error(reply: Message) -> None:
    runtime, replies = Runtime(reply), Replies(1)
    runtime.arrived = set(runtime.pieces)
    runtime.announced_as = "of another node"
    (error,) = replies.pull(runtime, ["of another node"])  # type: ignore[arg-type]
    assert error.error.code == ErrorCode.UNKNOWN
    assert error.metadata.reply_to_message_id == "of another node"
    assert runtime.confirmed == [reply.object_id]


def test_pieces_that_make_no_message_are_an_error(reply: Message) -> None:
    runtime, replies = Runtime(reply), Replies(1)
    runtime.pieces = dict.fromkeys(runtime.pieces, b"no object of Flower's")
    runtime.arrived = set(runtime.pieces)
    (error,) = replies.pull(runtime, ["asked"])  # type: ignore[arg-type]
    assert error.error.code == ErrorCode.UNKNOWN


def test_a_reply_of_absurd_size_is_not_pulled_to_its_end(reply: Message) -> None:
    runtime, replies = Runtime(reply), Replies(1)
    replies.most_bytes = 10
    runtime.arrived = set(runtime.pieces)
    (error,) = replies.pull(runtime, ["asked"])  # type: ignore[arg-type]
    assert error.error.code == ErrorCode.UNKNOWN
    assert len(runtime.pulled) < len(runtime.pieces)
    assert runtime.confirmed == [reply.object_id]


@pytest.mark.threat("N-3")
def test_an_array_that_repeats_its_pieces_is_not_put_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each piece is sent once, so what comes is within the limit; put together, it is not."""
    monkeypatch.setattr("server.superlink.replies._MAX_BYTES", 100_000)
    array = Array(np.zeros(2_000, dtype=np.float32))
    content = RecordDict({"arrays": ArrayRecord({"flat": array})})
    message = Message(content, reply_to=instruction(5, message_id="asked"))
    message.metadata.__dict__["_message_id"] = message.object_id
    honest, hostile = Runtime(message), Runtime(message)
    repeat_pieces(hostile, array, times=1_000)
    for runtime in (honest, hostile):
        runtime.arrived = set(runtime.pieces)
    (came,) = Replies(1).pull(honest, ["asked"])  # type: ignore[arg-type]
    assert came.content == content
    (error,) = Replies(1).pull(hostile, ["asked"])  # type: ignore[arg-type]
    assert sum(map(len, hostile.pieces.values())) < 100_000
    assert error.error.code == ErrorCode.UNKNOWN


def repeat_pieces(runtime: Runtime, array: Array, *, times: int) -> None:
    """Lets the array among the pieces name its one piece many times."""
    told = array.deflate()
    head, _, body = told.partition(b"\0")
    more = body.replace(
        b'"arraychunk_ids": [0]', b'"arraychunk_ids": %s' % str([0] * times).encode()
    )
    kind, children, _ = head.split(b" ")
    runtime.pieces[array.object_id] = b"%s %s %d\0%s" % (kind, children, len(more), more)


@pytest.mark.threat("N-3")
def test_nothing_is_kept_of_a_reply_that_was_late(reply: Message) -> None:
    """Or a site that sends all of its replies but the last piece would fill the memory."""
    other = Message(RecordDict({}), reply_to=instruction(6, message_id="next"))
    other.metadata.__dict__["_message_id"] = other.object_id
    runtime, replies = Runtime(reply, other), Replies(1)
    first = next(iterate_object_tree(get_object_tree(reply))).object_id
    runtime.arrived = {first}
    assert replies.pull(runtime, ["asked"]) == []  # type: ignore[arg-type]
    assert runtime.pulled == [first]
    assert replies.pull(runtime, ["next"]) == []  # type: ignore[arg-type]
    assert runtime.confirmed == [reply.object_id]
    assert list(replies._announced) == ["next"]


def test_a_reply_of_very_many_pieces_is_not_pulled_at_all(
    reply: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.superlink.replies._MAX_OBJECTS", 1)
    runtime, replies = Runtime(reply), Replies(1)
    runtime.arrived = set(runtime.pieces)
    (error,) = replies.pull(runtime, ["asked"])  # type: ignore[arg-type]
    assert error.error.code == ErrorCode.UNKNOWN
    assert runtime.pulled == []


def test_a_reply_of_which_no_piece_comes_any_more_is_lost(reply: Message) -> None:
    now_s = 0.0
    runtime, replies = Runtime(reply), Replies(1, clock=lambda: now_s)
    first = next(iterate_object_tree(get_object_tree(reply))).object_id
    for arrived in (set(), {first}, {first}):
        runtime.arrived = arrived
        assert replies.pull(runtime, ["asked"]) == []  # type: ignore[arg-type]
        now_s += 50  # 100 s in all since it was announced, 50 s since its first piece
    now_s += 50
    (lost,) = replies.pull(runtime, ["asked"])  # type: ignore[arg-type]
    assert lost.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert runtime.confirmed == [reply.object_id]


def test_a_reply_in_one_piece_is_there_at_once_and_nothing_is_asked_for_it(reply: Message) -> None:
    runtime, replies = Runtime(reply), Replies(1)
    runtime.in_one_piece = True
    (whole,) = replies.pull(runtime, ["asked"])  # type: ignore[arg-type]
    assert whole.content == reply.content
    assert whole.metadata.message_id == reply.object_id
    assert whole.metadata.reply_to_message_id == "asked"
    assert replies.came_whole == {"asked"}
    assert (runtime.pulled, runtime.confirmed) == ([], [])
    assert replies.pull(runtime, ["asked"]) == []  # type: ignore[arg-type]
    assert replies.came_whole == frozenset()


@pytest.mark.threat("N-3")
def test_a_reply_in_one_piece_that_is_too_large_or_no_message_is_an_error(reply: Message) -> None:
    runtime, replies = Runtime(reply), Replies(1)
    runtime.in_one_piece, replies.most_bytes = True, 10
    (error,) = replies.pull(runtime, ["asked"])  # type: ignore[arg-type]
    assert (error.error.code, error.metadata.reply_to_message_id) == (ErrorCode.UNKNOWN, "asked")

    class Malformed(Runtime):
        def PullMessages(self, request: Any) -> PullAppMessagesResponse:
            found = super().PullMessages(request)
            found.messages_list[0].content.items[0].config_record.items[0].ClearField("value")
            return found

    runtime = Malformed(reply)
    runtime.in_one_piece = True
    (error,) = Replies(1).pull(runtime, ["asked"])  # type: ignore[arg-type]
    assert (error.error.code, error.metadata.reply_to_message_id) == (ErrorCode.UNKNOWN, "asked")
