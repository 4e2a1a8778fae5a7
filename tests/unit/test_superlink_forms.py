"""In which form messages are sent: by what a node has shown that it understands."""

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from common.one_piece import is_small
from common.parcels import packed
from server.superlink.forms import Forms
from tests.unit.builders import instruction


def message(message_id: str, *, node_id: int = 5, num_bytes: int = 8) -> Message:
    data = bytes(num_bytes)
    flat = Array(dtype="uint8", shape=(num_bytes,), stype="wardround.flat", data=data)
    records = RecordDict({"arrays": ArrayRecord({"flat": flat}), "header": ConfigRecord({"n": 1})})
    asked = instruction(node_id, message_id=message_id)
    asked.content = packed(records)
    return asked


def test_nobody_is_sent_a_message_in_one_piece_who_has_not_answered_in_one() -> None:
    forms = Forms()
    assert not forms.is_whole(message("1"))
    forms.answered(message("1"), is_whole=False)
    assert not forms.is_whole(message("2"))
    forms.answered(message("2"), is_whole=True)
    assert forms.is_whole(message("3"))
    assert not forms.is_whole(message("4", node_id=6))


def test_a_message_that_is_sent_again_has_the_same_form_again() -> None:
    forms = Forms()
    assert not forms.is_whole(message("1"))
    forms.answered(message("0"), is_whole=True)
    assert forms.is_whole(message("1"))  # the other one was answered: this is a new one
    assert forms.is_whole(message("1"))


def test_who_leaves_a_message_in_one_piece_unanswered_gets_the_next_one_as_objects() -> None:
    forms = Forms()
    forms.answered(message("1"), is_whole=True)
    assert forms.is_whole(message("2"))
    assert not forms.is_whole(message("3"))
    forms.answered(message("3"), is_whole=True)
    assert forms.is_whole(message("4"))


def test_a_large_message_is_never_sent_in_one_piece() -> None:
    forms = Forms()
    forms.answered(message("1"), is_whole=True)
    large = message("2", num_bytes=2**20 + 1)
    assert not is_small(large.content)
    assert not forms.is_whole(large)
    assert forms.is_whole(message("2b"))


def test_records_with_very_long_names_are_not_small_though_their_values_are() -> None:
    records = RecordDict({"metrics": MetricRecord({"n" * 2**21: [1.0]})})
    assert len(packed(records)) == 1
    assert not is_small(packed(records))


def test_records_that_are_no_parcel_are_not_small() -> None:
    assert not is_small(RecordDict({"header": ConfigRecord({"n": 1})}))
