"""Records as one parcel: fewer objects, because Flower moves every object by a request of its own.

A reply of ours is nine objects of Flower's (a message, its records, their arrays and pieces); as a
parcel it is three, and a round over a SuperLink takes half the time. Only what travels over one is
packed, at its two ends. Must not import torch: connectors pack and unpack.
"""

from typing import Final

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from common import wire
from common.errors import MessageError

_PARCEL: Final = "parcel"
_RECORDS: Final = "records"
# Larger arrays stay outside: Flower stores one that several messages share once, and moves it in
# pieces.
_MAX_BYTES: Final = 2**20


def is_packed(content: RecordDict) -> bool:
    """Whether `content` is a parcel, or claims to be."""
    return _PARCEL in content


def packed(records: RecordDict) -> RecordDict:
    """The records as a parcel; a parcel as it is.

    Guarantees:
        - `unpacked` gives the same records again.
        - Arrays of more than a mebibyte in all stay records of their own.
    """
    if is_packed(records):
        return records
    is_small = wire.num_bytes(records) <= _MAX_BYTES
    outside = {
        name: record
        for name, record in records.items()
        if isinstance(record, ArrayRecord) and not is_small
    }
    inside = RecordDict({n: record for n, record in records.items() if n not in outside})
    parcel = ConfigRecord({_RECORDS: wire.records_to_bytes(inside)})
    return RecordDict({**outside, **parcel_of(parcel)})


def parcel_of(record: ConfigRecord) -> RecordDict:
    """The content that holds this record, as a parcel, and nothing else."""
    return RecordDict({_PARCEL: record})


def unpacked(content: RecordDict) -> RecordDict:
    """The records of a parcel; other records as they are.

    Raises:
        MessageError: a parcel that holds no records, or hides some under the names of others.
    """
    if not is_packed(content):
        return content
    parcel = content[_PARCEL]
    data = parcel.get(_RECORDS) if isinstance(parcel, ConfigRecord) else None
    if not isinstance(data, bytes) or len(parcel) != 1:
        raise MessageError("Expected a parcel of records as bytes, found something else.")
    outside = {name: record for name, record in content.items() if name != _PARCEL}
    inside = wire.records_from_bytes(data)
    if is_packed(inside) or set(inside) & set(outside):
        raise MessageError("Expected each record once, in a parcel or beside it, found one twice.")
    return RecordDict({**inside, **outside})
