"""How much a message may make of few bytes: looked at before Python makes anything of it.

A number of one byte on the wire is eight in protobuf and some thirty in a Python list: half a
gigabyte that anybody may send would be sixteen. Must not import torch.
"""

from collections.abc import Iterator

from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from common.errors import MessageError

# Of a reply with everything in it six.
MOST_RECORDS = 16
# Of lists and names; the arrays, one in a message, count as one. An honest reply has thousands.
MOST_VALUES = 1 << 20
# The text of a manifest: 100,000 names of 40 letters.
MOST_MANIFEST_CHARS = 1 << 22


def check_bytes(data: bytes, most: int) -> None:
    """A message is at most as large as the largest task that this site may work on.

    Threat: N-3. Refuses: MESSAGE_MALFORMED.
    """
    if len(data) > most:
        raise MessageError(f"Expected a message of at most {most} bytes, found a larger one.")


def check_values(records: ProtoRecordDict) -> None:
    """A message holds at most 16 records, and 2^20 names and listed numbers, beside its arrays.

    Threat: N-3, S1-4. Refuses: MESSAGE_MALFORMED.
    """
    if len(records.items) > MOST_RECORDS:
        raise MessageError(f"Expected at most {MOST_RECORDS} records in a message, found more.")
    num_values = 0
    for size in _sizes(records):
        num_values += size
        if num_values > MOST_VALUES:
            raise MessageError(f"Expected at most {MOST_VALUES} values in a message, found more.")


def _sizes(records: ProtoRecordDict) -> Iterator[int]:
    for item in records.items:
        record = getattr(item, item.WhichOneof("value") or "", None)
        entries = [] if record is None else record.items
        yield 1 + len(entries)
        for entry in entries:
            value = entry.value
            if item.WhichOneof("value") == "array_record":
                yield len(value.shape)
            elif (name := value.WhichOneof("value") or "").endswith("_list"):
                yield len(getattr(value, name).vals)
