"""Tasks and replies in their one form on the wire: Flower records and bytes.

The only module that knows record keys. A record with anything but the fields of `common.messages`
in it is refused, here, before torch sees a byte.
Importing this module must not import torch: connectors run without it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from common.arrays import Arrays, Block
from common.errors import MessageError
from common.messages import Reply, Task, TaskKind
from common.receipts import Countersigned, Receipt
from common.records_bytes import records_to_bytes as records_to_bytes
from common.wire_limits import MOST_MANIFEST_CHARS, check_values

SCHEMA = 3
_STYPE = "wardround.flat"
_DTYPES: dict[str, np.dtype[np.floating]] = {
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}
_WORD = re.compile(r"[A-Za-z0-9_-]{0,64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_MAX_BLOCKS = 100_000
_MAX_DIMENSIONS = 8  # a row of a million sizes would cost minutes to multiply


def task_to_records(task: Task) -> RecordDict:
    """The Flower records of a task."""
    header = {name: getattr(task, name) for name in _TASK_FIELDS}
    return _to_records(header, task.arrays, {}, {}, task.ledger, task.signature)


def task_from_records(records: RecordDict) -> Task:
    """The task in `records`. Raises `MessageError` for anything that is not exactly a task."""
    header, arrays, counts, metrics = _from_records(records, _TASK_FIELDS)
    ledger = _receipt(records, Countersigned)
    if counts or metrics:
        raise MessageError("Expected a task without counts and metrics, found some.")
    return Task(arrays=arrays, ledger=ledger, signature=_signature(records), **header)


def reply_to_records(reply: Reply) -> RecordDict:
    """The Flower records of a reply."""
    header = {name: getattr(reply, name) for name in _REPLY_FIELDS}
    return _to_records(
        header, reply.arrays, reply.counts, reply.metrics, reply.receipt, reply.signature
    )


def reply_from_records(records: RecordDict) -> Reply:
    """The reply in `records`. Raises `MessageError` for anything that is not exactly a reply."""
    header, arrays, counts, metrics = _from_records(records, _REPLY_FIELDS)
    receipt = _receipt(records, Receipt)
    return Reply(
        arrays=arrays,
        counts=counts,
        metrics=metrics,
        receipt=receipt,
        signature=_signature(records),
        **header,
    )


def records_from_bytes(data: bytes) -> RecordDict:
    """The records of `data`. Raises `MessageError` where the bytes are not such a message."""
    try:
        proto = ProtoRecordDict.FromString(data)
        num_known = proto.ByteSize()
        proto.DiscardUnknownFields()
        if proto.ByteSize() != num_known:
            raise MessageError("Expected known fields of protobuf alone, found others.")
        check_values(proto)
        return recorddict_from_proto(proto)
    except MessageError:
        raise
    except Exception as fault:  # protobuf and Flower raise many classes for malformed bytes
        raise MessageError(
            f"Expected records in protobuf, found bytes that fail with {type(fault).__name__}."
        ) from fault


def num_bytes(records: RecordDict) -> int:
    """The bytes of what `records` hold, 8 for a number, without protobuf's framing."""
    return sum(_num_bytes(value) for record in records.values() for value in record.values())


def _num_bytes(value: object) -> int:
    if isinstance(value, Array):
        return len(value.data)
    if isinstance(value, list):
        return 8 * len(value)
    return len(value) if isinstance(value, str | bytes) else 8


def arrays_to_record(arrays: Arrays) -> ArrayRecord:
    """The arrays under their names: the form in which Flower's strategies hold a model."""
    return ArrayRecord({name: Array(value) for name, value in arrays.unpack().items()})


def arrays_from_record(record: ArrayRecord) -> Arrays:
    """The inverse of `arrays_to_record`, for float32."""
    return Arrays.pack({name: array.numpy() for name, array in record.items()})


_RECORDS = {"header", "arrays", "counts", "metrics", "receipt", "signature"}
_TASK_FIELDS: dict[str, type] = {
    "kind": TaskKind,
    "run_id": str,
    "round": int,
    "nonce": str,
    "study_hash": str,
    "code": str,
    "site": str,
}
_REPLY_FIELDS: dict[str, type] = {
    "kind": TaskKind,
    "run_id": str,
    "round": int,
    "nonce": str,
    "site": str,
    "status": str,
}


def _to_records(
    header: Mapping[str, Any],
    arrays: Arrays | None,
    counts: Mapping[str, int],
    metrics: Mapping[str, tuple[float, ...]],
    receipt: Receipt | Countersigned | None,
    signature: str | None,
) -> RecordDict:
    config: dict[str, Any] = {"schema": SCHEMA}
    config |= {k: str(v) if isinstance(v, StrEnum) else v for k, v in header.items()}
    records = RecordDict()
    if arrays is not None:
        config["manifest"] = json.dumps([[b.name, *b.shape] for b in arrays.manifest])
        dtype = arrays.flat.dtype.name
        flat = Array(dtype=dtype, shape=(arrays.flat.size,), stype=_STYPE, data=arrays.to_bytes())
        records["arrays"] = ArrayRecord({"flat": flat})
    if counts:
        records["counts"] = MetricRecord(dict(counts))
    if metrics:
        records["metrics"] = MetricRecord({k: list(v) for k, v in metrics.items()})
    if receipt is not None:
        said = {name: value for name, value in asdict(receipt).items() if value is not None}
        records["receipt"] = ConfigRecord(said)
    if signature is not None:
        records["signature"] = ConfigRecord({"signature": signature})
    records["header"] = ConfigRecord(config)
    return records


def _from_records(
    records: RecordDict, fields: Mapping[str, type]
) -> tuple[dict[str, Any], Arrays | None, dict[str, int], dict[str, tuple[float, ...]]]:
    """The parts of a message: known records alone, each of its one form.

    Threat: S1-4, C-1, I-1. Refuses: MESSAGE_MALFORMED.
    """
    if not set(records) <= _RECORDS:
        raise MessageError(f"Expected the records {sorted(_RECORDS)}, found others.")
    header = _header(records.get("header"), fields, has_arrays="arrays" in records)
    manifest = header.pop("manifest", None)
    arrays = None if manifest is None else _arrays(records.get("arrays"), manifest)
    counts = _metric_record(records, "counts")
    if not all(type(v) is int for v in counts.values()):
        raise MessageError("Expected whole numbers as counts, found something else.")
    metrics = _metric_record(records, "metrics")
    if not all(isinstance(v, list) for v in metrics.values()):
        raise MessageError("Expected lists of numbers as metrics, found something else.")
    return header, arrays, counts, {k: tuple(map(float, v)) for k, v in metrics.items()}


def _header(record: object, fields: Mapping[str, type], *, has_arrays: bool) -> dict[str, Any]:
    """The header has exactly its keys; texts are words of at most 64 letters, digits, - and _.

    Threat: S1-1, S1-4, I-1. Refuses: MESSAGE_MALFORMED.
    """
    if not isinstance(record, ConfigRecord):
        raise MessageError("Expected a record 'header' of configuration, found none.")
    expected = {"schema", *fields} | ({"manifest"} if has_arrays else set())
    if set(record) != expected:
        raise MessageError(f"Expected exactly the header keys {sorted(expected)}, found others.")
    if record["schema"] != SCHEMA:
        raise MessageError(f"Expected wire schema {SCHEMA}, found another. Update the older side.")
    header: dict[str, Any] = {}
    for name, kind in fields.items():
        value = record[name]
        plain = str if issubclass(kind, str) else kind
        if type(value) is not plain:
            raise MessageError(f"Expected header key {name} as {plain.__name__}, found another.")
        # Headers reach logs: no line breaks, no megabytes, no text of anybody's making.
        if isinstance(value, str) and _WORD.fullmatch(value) is None:
            raise MessageError(f"Expected header key {name} as one short word, found another.")
        try:
            header[name] = kind(value)
        except ValueError:
            raise MessageError(f"Expected a known value of header key {name}.") from None
    if header["round"] < 0:
        raise MessageError("Expected a round of 0 or more, found less.")
    if has_arrays:
        header["manifest"] = record["manifest"]
    return header


def _arrays(record: object, manifest_json: object) -> Arrays:
    """One flat array of 32- or 64-bit floats: as many bytes as the manifest says, none behind.

    Threat: S1-4, C-1, I-1. Refuses: MESSAGE_MALFORMED.
    """
    if not isinstance(record, ArrayRecord) or set(record) != {"flat"}:
        raise MessageError("Expected one array named 'flat', found something else.")
    array = record["flat"]
    if array.stype != _STYPE or array.dtype not in _DTYPES:
        raise MessageError("Expected a flat array of float32 or float64, found another kind.")
    dtype = _DTYPES[array.dtype]
    manifest = _manifest(manifest_json)
    num_elements = sum(block.size for block in manifest)
    if array.shape != (num_elements,) or len(array.data) != num_elements * dtype.itemsize:
        raise MessageError(
            f"Expected {num_elements} elements as the manifest says, found another number."
        )
    return Arrays(manifest=manifest, flat=np.frombuffer(array.data, dtype=dtype))


def _manifest(text: object) -> tuple[Block, ...]:
    """The manifest has at most 100,000 names, each once, of at most 8 dimensions below 2^31.

    Threat: S1-4, C-1. Refuses: MESSAGE_MALFORMED.
    """
    if not isinstance(text, str) or len(text) > MOST_MANIFEST_CHARS:
        raise MessageError("Expected a manifest of names and shapes, found something else.")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or len(rows) > _MAX_BLOCKS:
        raise MessageError("Expected a manifest of names and shapes, found something else.")
    blocks: list[Block] = []
    for row in rows:
        if not isinstance(row, list) or not row or type(row[0]) is not str:
            raise MessageError("Expected manifest rows [name, size, …], found something else.")
        if len(row) > 1 + _MAX_DIMENSIONS:
            raise MessageError(f"Expected at most {_MAX_DIMENSIONS} dimensions, found more.")
        if not all(type(n) is int and 0 <= n < 2**31 for n in row[1:]):
            raise MessageError("Expected sizes from 0 to 2^31 in the manifest, found others.")
        blocks.append(Block(name=row[0], shape=tuple(row[1:])))
    if len({block.name for block in blocks}) != len(blocks):
        raise MessageError("Expected every name once in the manifest, found one repeated.")
    return tuple(blocks)


R = TypeVar("R", Receipt, Countersigned)


def _receipt(records: RecordDict, kind: type[R]) -> R | None:
    if "receipt" not in records:
        return None
    record = records["receipt"]
    if not isinstance(record, ConfigRecord):
        raise MessageError("Expected the record 'receipt' to hold a configuration, found another.")
    fields: dict[str, Any] = dict(record)
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        raise MessageError("Expected a receipt with a signed head, found another.") from None


def _signature(records: RecordDict) -> str | None:
    """The signature, in its one form; whether it holds is for `common.envelope` to say."""
    if "signature" not in records:
        return None
    record = records["signature"]
    if not isinstance(record, ConfigRecord) or set(record) != {"signature"}:
        raise MessageError("Expected the record 'signature' to hold a signature, found another.")
    signature = record["signature"]
    if not isinstance(signature, str) or _SIGNATURE.fullmatch(signature) is None:
        raise MessageError("Expected a signature of 128 hex digits, found another.")
    return signature


def _metric_record(records: RecordDict, key: str) -> dict[str, Any]:
    record = records.get(key, MetricRecord())
    if not isinstance(record, MetricRecord):
        raise MessageError(f"Expected the record '{key}' to hold metrics, found another kind.")
    return dict(record)
