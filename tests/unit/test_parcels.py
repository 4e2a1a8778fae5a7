"""Parcels: the same records in fewer of Flower's objects, and nothing hidden in them."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from common import wire
from common.errors import MessageError
from common.parcels import is_packed, packed, unpacked


def _records(num_values: int = 10) -> RecordDict:
    flat = Array(np.arange(num_values, dtype=np.float32))
    return RecordDict(
        {
            "arrays": ArrayRecord({"flat": flat}),
            "counts": MetricRecord({"patients": 7}),
            "header": ConfigRecord({"nonce": "n"}),
        }
    )


@pytest.mark.parametrize("num_values", [10, 2**20])
def test_a_parcel_holds_the_same_records(num_values: int) -> None:
    records = _records(num_values)
    assert is_packed(packed(records))
    assert unpacked(packed(records)) == records


def test_small_records_are_two_objects_of_flower_instead_of_six() -> None:
    assert len(get_all_nested_objects(_records())) == 6
    assert len(get_all_nested_objects(packed(_records()))) == 2


def test_large_arrays_stay_outside_so_that_messages_share_them() -> None:
    records = _records(2**20)
    content = packed(records)
    assert content["arrays"] is records["arrays"]
    assert wire.num_bytes(content) < wire.num_bytes(records) + 1000


def test_whoever_does_not_know_the_mask_knows_no_name_of_a_large_array() -> None:
    records = _records(2**21)
    names = [
        set(get_all_nested_objects(content["arrays"]))
        for content in (records, packed(records, mask=b"abcd"), packed(records, mask=b"abce"))
    ]
    assert not names[0] & names[1]
    assert not names[1] & names[2]
    assert unpacked(packed(records, mask=b"abcd")) == records


def test_under_one_mask_messages_share_a_large_array() -> None:
    one, other = (packed(_records(2**20), mask=b"abcd")["arrays"] for _ in range(2))
    assert one.object_id == other.object_id


@pytest.mark.parametrize(
    ("mask", "num_bytes"), [(b"abc", 8), (b"abcde", 8), ("abcd", 8), (7, 8), (b"abcd", 7)]
)
def test_a_mask_that_fits_no_array_is_refused(mask: Any, num_bytes: int) -> None:
    array = Array(dtype="float32", shape=(2,), stype="", data=bytes(num_bytes))
    parcel = ConfigRecord({"records": wire.records_to_bytes(RecordDict()), "mask": mask})
    with pytest.raises(MessageError):
        unpacked(RecordDict({"parcel": parcel, "arrays": ArrayRecord({"flat": array})}))


def test_a_mask_over_other_records_than_arrays_is_refused() -> None:
    parcel = ConfigRecord({"records": wire.records_to_bytes(RecordDict()), "mask": b"abcd"})
    with pytest.raises(MessageError):
        unpacked(RecordDict({"parcel": parcel, "header": ConfigRecord({"nonce": "n"})}))


def test_a_parcel_is_not_packed_again_and_plain_records_are_not_unpacked() -> None:
    content = packed(_records())
    assert packed(content) is content
    assert unpacked(_records()) == _records()


@pytest.mark.parametrize(
    "parcel",
    [
        MetricRecord({"records": 1}),
        ConfigRecord({"records": "text"}),
        ConfigRecord({"records": b"\xff\xff"}),
        ConfigRecord({"records": b"", "more": b""}),
        ConfigRecord({}),
        ConfigRecord({"records": wire.records_to_bytes(packed(_records()))}),
        ConfigRecord({"records": wire.records_to_bytes(_records())}),
    ],
)
def test_what_is_no_parcel_or_hides_a_record_is_refused(parcel: ConfigRecord) -> None:
    beside = {"header": ConfigRecord({"nonce": "another"})}
    with pytest.raises(MessageError):
        unpacked(RecordDict({"parcel": parcel, **beside}))
