"""Flower's records as protobuf bytes, with one copy of each array.

Flower's own function puts arrays into messages within messages, a copy each, and protobuf makes
two more of the whole: 30 MB beside a model of 10 MB, and fifteen times as long. Must not import
torch: connectors use it.
"""

from collections.abc import Iterator

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.proto.recorddict_pb2 import Array as ProtoArray
from flwr.proto.recorddict_pb2 import ArrayRecord as ProtoArrayRecord
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from common.protobuf_fields import field, scalar


def records_to_bytes(records: RecordDict) -> bytes:
    """The records as Flower's protobuf bytes.

    Guarantees:
        - They are the bytes that Flower's own function and protobuf make.
        - Of an array there is one copy in memory, the one in the result.
    """
    parts: list[bytes] = []
    for name, record in records.items():
        if isinstance(record, ArrayRecord):
            item = [*scalar(ProtoRecordDict.Item, "key", name.encode())]
            item += field(ProtoRecordDict.Item, "array_record", *_array_record(record))
            parts += field(ProtoRecordDict, "items", *item)
        else:
            parts.append(recorddict_to_proto(RecordDict({name: record})).SerializeToString())
    return b"".join(parts)


def _array_record(record: ArrayRecord) -> Iterator[bytes]:
    for name, array in record.items():
        item = [*scalar(ProtoArrayRecord.Item, "key", name.encode())]
        item += field(ProtoArrayRecord.Item, "value", *_array(array))
        yield from field(ProtoArrayRecord, "items", *item)


def _array(array: Array) -> Iterator[bytes]:
    head = ProtoArray(dtype=array.dtype, shape=array.shape, stype=array.stype)
    yield head.SerializeToString()
    yield from scalar(ProtoArray, "data", array.data)
