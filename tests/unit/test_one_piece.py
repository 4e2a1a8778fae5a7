"""Messages in one piece at both ends: what is no small parcel is refused as protobuf has it.

A parcel of bytes is all that honest programs send so. Anything else is for Python to make objects
of, of many names very many, before anybody has looked at a signature.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from hypothesis import given

from client.node_objects import Pulled
from client.node_session import Session
from common import wire
from common.errors import MessageError
from common.messages import Reply, Task
from common.one_piece import MOST_BYTES, check_announced, is_small
from common.parcels import packed, parcel_of
from server.superlink.replies import Replies
from tests.unit.builders import instruction, replies, tasks

ID = "b" * 64


def announced(content: RecordDict) -> ProtoMessage:
    """A reply in one piece to the message "asked"."""
    message = Message(content, reply_to=instruction(5, message_id="asked"))
    message.metadata.__dict__["_message_id"] = ID
    return message_to_proto(message)


def parcel(**values: Any) -> RecordDict:
    return parcel_of(ConfigRecord(values))


def empty_records(num_bytes: int) -> ProtoMessage:
    """Very many names of 10 digits, each with an empty record behind it: 16 bytes in all."""
    one = b"\x0a\x0e\x0a\x0a%010x\x22\x00"
    items = b"".join(one % n for n in range(num_bytes // 16))
    message = announced(RecordDict())
    message.content.CopyFrom(ProtoRecordDict.FromString(items))
    assert message.content.ByteSize() == num_bytes
    assert message.content.items[0].WhichOneof("value") == "config_record"
    return message


def with_long_type() -> ProtoMessage:
    message = announced(RecordDict())
    message.metadata.message_type = "x" * MOST_BYTES
    return message


# The largest content that is sent in one piece: 4 KiB are for what is around it.
LARGEST = parcel(records=bytes(2**21 - 2**12))
REFUSED: dict[str, ProtoMessage] = {
    "8 MiB of empty records": empty_records(2**23),
    "a mebibyte of empty records": empty_records(2**20),
    "a parcel of 3 MiB": announced(parcel(records=bytes(3 * 2**20))),
    "two records": announced(RecordDict({**parcel(records=b""), "b": ConfigRecord()})),
    "a record of another name": announced(RecordDict({"header": ConfigRecord({"a": b""})})),
    "a parcel of three": announced(parcel(records=b"", mask=b"", more=b"")),
    "an empty parcel": announced(parcel()),
    "a parcel of numbers": announced(parcel(records=[1] * 2**18)),
    "a parcel of texts": announced(parcel(records=[""] * 2**18)),
}


@pytest.mark.threat("N-3")
@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED.keys())
def test_python_makes_nothing_of_a_reply_in_one_piece_that_is_no_small_parcel(
    message: ProtoMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "server.superlink.replies.message_from_proto"
    monkeypatch.setattr(made, lambda _: pytest.fail("it was made"))
    (error,) = pulled_by_the_coordinator(message)
    assert (error.error.code, error.metadata.reply_to_message_id) == (ErrorCode.UNKNOWN, "asked")


@pytest.mark.threat("N-3")
@pytest.mark.parametrize(
    "message",
    [*REFUSED.values(), with_long_type()],
    ids=[*REFUSED.keys(), "a type of 2 MiB"],
)
def test_a_connector_makes_nothing_of_a_message_in_one_piece_that_is_no_small_parcel(
    message: ProtoMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "client.node_objects.message_from_proto"
    monkeypatch.setattr(made, lambda _: pytest.fail("it was made"))
    with pytest.raises(MessageError, match="in one piece, found"):
        pulled_by_the_connector(message)


@pytest.mark.threat("N-3")
def test_the_largest_message_in_one_piece_comes_through_and_its_session_stays_small(
    tmp_path: Path,
) -> None:
    assert is_small(LARGEST)
    assert not is_small(parcel(records=bytes(2**21 - 2**12 + 1)))
    message = announced(LARGEST)
    (reply,) = pulled_by_the_coordinator(message)
    assert reply.content == LARGEST
    pulled = pulled_by_the_connector(message)
    assert pulled.own_content() == LARGEST
    path = tmp_path / "session.json"
    Session(path, superlink="a", key_digest="b").save(node_id=2, in_hand=pulled)
    assert path.stat().st_size < 4 * 2**20


@given(tasks() | replies())
def test_an_honest_parcel_is_announced_as_it_may_be(message: Task | Reply) -> None:
    if isinstance(message, Task):
        records = wire.task_to_records(message)
    else:
        records = wire.reply_to_records(message)
    for mask in (b"", b"mask"):
        assert is_small(packed(records, mask=mask))
        check_announced(announced(packed(records, mask=mask)))


def test_a_message_without_content_is_announced_as_ever() -> None:
    check_announced(announced(RecordDict()))


def pulled_by_the_coordinator(message: ProtoMessage) -> list[Message]:
    found = PullAppMessagesResponse(
        messages_list=[message], message_object_trees=[ObjectTree(object_id=ID)]
    )
    client = SimpleNamespace(PullMessages=lambda _: found)
    return Replies(1).pull(client, ["asked"])  # type: ignore[arg-type]


def pulled_by_the_connector(message: ProtoMessage) -> Pulled:
    response = PullMessagesResponse(
        messages_list=[message], message_object_trees=[ObjectTree(object_id=ID)]
    )
    pulled = Pulled.from_response(response)
    assert pulled is not None
    return pulled
