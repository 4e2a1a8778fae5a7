"""Records as one parcel: fewer objects, because Flower moves every object by a request of its own.

A reply of ours is nine objects of Flower's (a message, its records, their arrays and pieces); as a
parcel it is three, and a round over a SuperLink takes half the time. Only what travels over one is
packed, at its two ends. Must not import torch: connectors pack and unpack.
"""

from io import BytesIO
from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common import wire
from common.errors import MessageError

PARCEL: Final = "parcel"
_RECORDS: Final = "records"
_MASK: Final = "mask"
MASK_BYTES: Final = 4
# Larger arrays stay outside: Flower stores one that several messages share once, and moves it in
# pieces.
_MAX_BYTES: Final = 2**20
# Words that are turned at a time.
_PIECE: Final = 2**16


def is_packed(content: RecordDict) -> bool:
    """Whether `content` is a parcel, or claims to be."""
    return PARCEL in content


def packed(records: RecordDict, *, mask: bytes = b"") -> RecordDict:
    """The records as a parcel; a parcel as it is.

    Guarantees:
        - `unpacked` gives the same records again.
        - Arrays of more than a mebibyte in all stay records of their own.
        - With a mask, nobody who does not know it can tell how Flower will name these.

    Args:
        mask: of `MASK_BYTES`. Flower names an object by its digest, and takes none whose name
            somebody else has given it before, with other parts: whoever can guess the model would
            keep it from all.
    """
    if is_packed(records):
        return records
    is_small = wire.num_bytes(records) <= _MAX_BYTES
    outside = {
        name: _masked(record, mask) if mask else record
        for name, record in records.items()
        if isinstance(record, ArrayRecord) and not is_small
    }
    inside = RecordDict({n: record for n, record in records.items() if n not in outside})
    parcel = ConfigRecord({_RECORDS: wire.records_to_bytes(inside)})
    if outside and mask:
        parcel[_MASK] = mask
    return RecordDict({**outside, **parcel_of(parcel)})


def parcel_of(record: ConfigRecord) -> RecordDict:
    """The content that holds this record, as a parcel, and nothing else."""
    return RecordDict({PARCEL: record})


def unpacked(content: RecordDict) -> RecordDict:
    """The records of a parcel; other records as they are.

    Raises:
        MessageError: a parcel that holds no records, hides some under the names of others, or
            masks what cannot be masked.
    """
    if not is_packed(content):
        return content
    parcel = content[PARCEL]
    data = parcel.get(_RECORDS) if isinstance(parcel, ConfigRecord) else None
    if not isinstance(data, bytes) or not set(parcel) <= {_RECORDS, _MASK}:
        raise MessageError("Expected a parcel of records as bytes, found something else.")
    outside = {name: record for name, record in content.items() if name != PARCEL}
    if _MASK in parcel:
        outside = {name: _unmasked(record, parcel[_MASK]) for name, record in outside.items()}
    inside = wire.records_from_bytes(data)
    if is_packed(inside) or set(inside) & set(outside):
        raise MessageError("Expected each record once, in a parcel or beside it, found one twice.")
    return RecordDict({**inside, **outside})


def _unmasked(record: object, mask: object) -> ArrayRecord:
    if not isinstance(record, ArrayRecord):
        raise MessageError("Expected arrays alone beside a parcel with a mask, found others.")
    are_whole = all(len(array.data) % MASK_BYTES == 0 for array in record.values())
    if not isinstance(mask, bytes) or len(mask) != MASK_BYTES or not are_whole:
        raise MessageError(f"Expected a mask of {MASK_BYTES} bytes for whole numbers of them.")
    return _masked(record, mask)


def _masked(record: ArrayRecord, mask: bytes) -> ArrayRecord:
    """The arrays with their bits turned where the mask has them; done twice, the same again."""
    return ArrayRecord({name: _masked_array(array, mask) for name, array in record.items()})


def _masked_array(array: Array, mask: bytes) -> Array:
    whole_W = np.frombuffer(array.data, dtype="<u4")
    turned = BytesIO()  # which gives away its bytes without a copy
    for start in range(0, len(whole_W), _PIECE):
        piece_W = whole_W[start : start + _PIECE] ^ np.frombuffer(mask, dtype="<u4")
        turned.write(piece_W.tobytes())
    return Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=turned.getvalue())
