"""Tasks and replies on the wire: what goes in comes out, and nothing else comes in."""

import json
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from hypothesis import given

from common import wire
from common.arrays import Arrays
from common.errors import MessageError
from common.messages import Reply, Task, TaskKind
from common.receipts import Countersigned, Receipt
from common.wire_limits import MOST_MANIFEST_CHARS, MOST_RECORDS, MOST_VALUES, check_bytes
from tests.unit.builders import HASH, arrays, replies, tasks

ARRAYS = Arrays.pack({"a": np.arange(6.0).reshape(2, 3), "b": np.ones(())})
TASK = Task(
    kind=TaskKind.TRAIN, run_id="r", round=2, nonce="n", study_hash=HASH, code="c", arrays=ARRAYS
)
REPLY = Reply(
    kind=TaskKind.TRAIN,
    run_id="r",
    round=2,
    nonce="n",
    site="north",
    arrays=ARRAYS,
    counts={"patients": 12, "labs": 3},
    metrics={"loss_sum": (0.5,), "confusion": (1.0, 2.0, 3.0, 4.0)},
)


@given(tasks())
def test_a_task_survives_records_and_bytes(task: Task) -> None:
    records = wire.records_from_bytes(wire.records_to_bytes(wire.task_to_records(task)))
    assert wire.task_from_records(records) == task


@given(replies())
def test_a_reply_survives_records_and_bytes(reply: Reply) -> None:
    records = wire.records_from_bytes(wire.records_to_bytes(wire.reply_to_records(reply)))
    assert wire.reply_from_records(records) == reply


@given(arrays(dtypes=[np.float32]))
def test_arrays_survive_the_form_that_strategies_hold(whole: Arrays) -> None:
    assert wire.arrays_from_record(wire.arrays_to_record(whole)) == whole


def test_big_endian_arrays_are_sent_as_the_numbers_that_they_are() -> None:
    swapped = Arrays(manifest=ARRAYS.manifest, flat=ARRAYS.flat.astype(">f4"))
    records = wire.task_to_records(Task(**{**vars(TASK), "arrays": swapped}))
    received = wire.task_from_records(records).arrays
    assert received is not None
    np.testing.assert_array_equal(received.flat, ARRAYS.flat)


@pytest.mark.parametrize("cost", [{}, {"epsilon": 1.5, "delta": 1e-5}])
def test_a_receipt_survives_the_wire(cost: dict[str, float]) -> None:
    receipt = Receipt(seq=3, digest="a" * 64, key="b" * 64, signature="c" * 128, **cost)
    reply = replace(REPLY, receipt=receipt)
    assert wire.reply_from_records(wire.reply_to_records(reply)).receipt == receipt


def test_a_countersigned_head_survives_the_wire() -> None:
    head = Countersigned(
        seq=3, digest="a" * 64, site_signature="b" * 128, key="c" * 64, signature="d" * 128
    )
    task = replace(TASK, ledger=head)
    assert wire.task_from_records(wire.task_to_records(task)).ledger == head


def test_a_reply_with_a_coordinators_receipt_is_refused() -> None:
    head = Countersigned(
        seq=3, digest="a" * 64, site_signature="b" * 128, key="c" * 64, signature="d" * 128
    )
    records = wire.reply_to_records(REPLY)
    records["receipt"] = wire.task_to_records(replace(TASK, ledger=head))["receipt"]
    with pytest.raises(MessageError, match="signed head"):
        wire.reply_from_records(records)


def test_received_arrays_cannot_be_written_to() -> None:
    received = wire.task_from_records(wire.task_to_records(TASK)).arrays
    assert received is not None
    with pytest.raises(ValueError, match="read-only"):
        received.flat[0] = 1.0


def test_bytes_are_counted_by_hand() -> None:
    # Header: schema and round 8 each; kind "train" 5, run_id 1, nonce 1, site "north" 5, status
    # "ok" 2, manifest [["a", 2, 3], ["b"]] 20. Arrays: 7 float32, 28. Counts 2 · 8, metrics 5 · 8.
    assert wire.num_bytes(wire.reply_to_records(REPLY)) == 16 + 34 + 28 + 16 + 40


def _flat(
    *,
    dtype: str = "float32",
    shape: tuple[int, ...] = (7,),
    stype: str = "wardround.flat",
    data: bytes = ARRAYS.flat.tobytes(),
) -> ArrayRecord:
    return ArrayRecord({"flat": Array(dtype=dtype, shape=shape, stype=stype, data=data)})


def _header(**changes: Any) -> ConfigRecord:
    header = dict(wire.reply_to_records(REPLY).config_records["header"])
    header.update(changes)
    return ConfigRecord({key: value for key, value in header.items() if value is not None})


def _receipt(**changes: Any) -> ConfigRecord:
    honest = {"seq": 3, "digest": "a" * 64, "key": "b" * 64, "signature": "c" * 128}
    fields = {key: value for key, value in (honest | changes).items() if value is not None}
    return ConfigRecord(fields)


def _manifest(rows: Any) -> ConfigRecord:
    return _header(manifest=json.dumps(rows))


# Each would be a valid reply if the one thing that its name says were allowed.
MALFORMED: dict[str, tuple[str, Any]] = {
    "an extra record of metrics": ("more", MetricRecord({"a": 1})),
    "an extra record of arrays": ("more", _flat()),
    "an extra record of configuration": ("more", ConfigRecord({"a": "b"})),
    "a header that holds metrics": ("header", MetricRecord({"round": 1})),
    "a header that holds arrays": ("header", _flat()),
    "no header": ("header", None),
    "an extra header key": ("header", _header(more="x")),
    "a missing header key": ("header", _header(nonce=None)),
    "another schema": ("header", _header(schema=2)),
    "a schema that is text": ("header", _header(schema="3")),
    "a receipt that holds metrics": ("receipt", MetricRecord({"seq": 1})),
    "a receipt without a signature": ("receipt", _receipt(signature=None)),
    "a receipt with one more key": ("receipt", _receipt(more="x")),
    "a receipt with a text as digest": ("receipt", _receipt(digest="Mrs Miller")),
    "a receipt with a signature of a wrong length": ("receipt", _receipt(signature="ab")),
    "a receipt with a negative number": ("receipt", _receipt(seq=-1)),
    "a receipt with a number that is true": ("receipt", _receipt(seq=True)),
    "a receipt with an epsilon below 0": ("receipt", _receipt(epsilon=-1.0, delta=1e-4)),
    "a receipt with an epsilon that is no number": (
        "receipt",
        _receipt(epsilon=float("nan"), delta=1e-4),
    ),
    "a receipt with an epsilon alone": ("receipt", _receipt(epsilon=1.0)),
    "a receipt with a delta of 1": ("receipt", _receipt(epsilon=1.0, delta=1.0)),
    "a signature that is a metric": ("signature", MetricRecord({"signature": 1})),
    "a signature of another name": ("signature", ConfigRecord({"sign": "c" * 128})),
    "two signatures": ("signature", ConfigRecord({"signature": "c" * 128, "more": "c" * 128})),
    "an empty record of a signature": ("signature", ConfigRecord()),
    "a signature that is bytes": ("signature", ConfigRecord({"signature": b"c" * 128})),
    "a signature of a wrong length": ("signature", ConfigRecord({"signature": "c" * 127})),
    "a signature in capitals": ("signature", ConfigRecord({"signature": "C" * 128})),
    "a signature with a line break": ("signature", ConfigRecord({"signature": "c" * 128 + "\n"})),
    "an unknown kind": ("header", _header(kind="attack")),
    "a kind that is a number": ("header", _header(kind=1)),
    "a round below 0": ("header", _header(round=-1)),
    "a round that is a fraction": ("header", _header(round=1.0)),
    "a round that is true": ("header", _header(round=True)),
    "a run id that is bytes": ("header", _header(run_id=b"r")),
    "a site that is a list": ("header", _header(site=["north"])),
    "arrays without a manifest": ("header", _header(manifest=None)),
    "a manifest without arrays": ("arrays", None),
    "a manifest that is bytes": ("header", _header(manifest=b"[]")),
    "a manifest that is not JSON": ("header", _header(manifest="{")),
    "a manifest that nests deeply": ("header", _header(manifest="[" * 100_000)),
    "a manifest with a number of 5000 digits": ("header", _header(manifest="[1" + "0" * 5000)),
    "a manifest that is an object": ("header", _manifest({"a": [2, 3]})),
    "a manifest row that is a name": ("header", _manifest(["a"])),
    "an empty manifest row": ("header", _manifest([[]])),
    "a block whose name is a number": ("header", _manifest([[1, 7]])),
    "a size that is negative": ("header", _manifest([["a", -1, -7]])),
    "a size that is a fraction": ("header", _manifest([["a", 7.0]])),
    "a size that is true": ("header", _manifest([["a", 6], ["b", True]])),
    "a size that is null": ("header", _manifest([["a", None]])),
    "a size of 2^31": ("header", _manifest([["a", 7], ["b", 0, 2**31]])),
    "a block of nine dimensions": ("header", _manifest([["a", 7, *[1] * 8]])),
    "a repeated name": ("header", _manifest([["a", 3], ["a", 4]])),
    "a manifest of too few elements": ("header", _manifest([["a", 6]])),
    "a manifest of too many elements": ("header", _manifest([["a", 8]])),
    "a manifest of 100 001 blocks": (
        "header",
        _manifest([["a", 7], *([str(i), 0] for i in range(100_000))]),
    ),
    "arrays that are metrics": ("arrays", MetricRecord({"flat": 1.0})),
    "two arrays": ("arrays", ArrayRecord({**_flat(), "more": _flat()["flat"]})),
    "no array in the record": ("arrays", ArrayRecord()),
    "an array of another name": ("arrays", ArrayRecord({"round": _flat()["flat"]})),
    "an array of Flower's own kind": ("arrays", _flat(stype="numpy.ndarray")),
    "a pickle": ("arrays", _flat(dtype="object", data=b"cos\nsystem\n(S'true'\ntR.")),
    "strings": ("arrays", _flat(dtype="<U1")),
    "half precision": ("arrays", _flat(dtype="float16")),
    "integers": ("arrays", _flat(dtype="int32")),
    "an unknown type": ("arrays", _flat(dtype="float33")),
    "a matrix": ("arrays", _flat(shape=(7, 1))),
    "a shape of too few": ("arrays", _flat(shape=(6,))),
    "a negative shape": ("arrays", _flat(shape=(-7,))),
    "no shape": ("arrays", _flat(shape=())),
    "trailing bytes": ("arrays", _flat(data=ARRAYS.flat.tobytes() + b"secret")),
    "missing bytes": ("arrays", _flat(data=ARRAYS.flat.tobytes()[:-1])),
    "the bytes of another type": ("arrays", _flat(dtype="float64")),
    "counts that are fractions": ("counts", MetricRecord({"patients": 12.5})),
    "counts that are lists": ("counts", MetricRecord({"patients": [12]})),
    "counts that are configuration": ("counts", ConfigRecord({"patients": 12})),
    "a metric that is no list": ("metrics", MetricRecord({"loss_sum": 0.5})),
    "metrics that are configuration": ("metrics", ConfigRecord({"loss_sum": [0.5]})),
}


@pytest.mark.threat("C-1", "S1-4")
@pytest.mark.parametrize("spoil", MALFORMED.values(), ids=MALFORMED.keys())
def test_anything_that_is_not_exactly_a_reply_is_refused(spoil: tuple[str, Any]) -> None:
    key, record = spoil
    records = wire.reply_to_records(REPLY)
    records.pop(key, None)
    if record is not None:
        records[key] = record
    with pytest.raises(MessageError, match="Expected"):
        wire.reply_from_records(records)


def test_a_reply_is_not_a_task_nor_a_task_a_reply() -> None:
    with pytest.raises(MessageError):
        wire.task_from_records(wire.reply_to_records(REPLY))
    with pytest.raises(MessageError):
        wire.reply_from_records(wire.task_to_records(TASK))


@pytest.mark.threat("S1-4")
@pytest.mark.parametrize("key", ["counts", "metrics"])
def test_a_task_with_counts_or_metrics_is_refused(key: str) -> None:
    records = wire.task_to_records(TASK)
    records[key] = wire.reply_to_records(REPLY)[key]
    with pytest.raises(MessageError, match="without counts and metrics"):
        wire.task_from_records(records)


@pytest.mark.threat("N-3", "S1-4")
@pytest.mark.parametrize(
    "records",
    [
        {"metrics": MetricRecord({"a": [0] * MOST_VALUES})},
        {"header": ConfigRecord({"a": [True] * (MOST_VALUES // 2), "b": [""] * MOST_VALUES})},
    ],
    ids=["numbers", "texts"],
)
def test_a_message_of_too_many_values_is_refused_before_python_holds_them(records: Any) -> None:
    data = wire.records_to_bytes(RecordDict(records))
    with pytest.raises(MessageError, match=f"at most {MOST_VALUES} values"):
        wire.records_from_bytes(data)


@pytest.mark.threat("N-3", "S1-4")
def test_a_message_of_too_many_records_is_refused_before_python_makes_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "recorddict_from_proto", lambda _: pytest.fail("it was made"))
    data = wire.records_to_bytes(RecordDict({str(n): ConfigRecord() for n in range(17)}))
    with pytest.raises(MessageError, match=f"at most {MOST_RECORDS} records"):
        wire.records_from_bytes(data)


def test_a_message_may_have_more_records_than_any_has() -> None:
    records = RecordDict({str(n): ConfigRecord() for n in range(MOST_RECORDS)})
    assert len(wire.records_from_bytes(wire.records_to_bytes(records))) == MOST_RECORDS == 16


def test_a_message_has_as_many_bytes_as_it_may_have_and_not_one_more() -> None:
    check_bytes(bytes(7), 7)
    with pytest.raises(MessageError, match="at most 7 bytes"):
        check_bytes(bytes(8), 7)


def test_a_manifest_longer_than_any_is_refused_before_it_is_read() -> None:
    rows = "[" + "[]," * (MOST_MANIFEST_CHARS // 3) + "[]]"
    records = wire.task_to_records(TASK)
    records["header"] = ConfigRecord({**records["header"], "manifest": rows})
    tracemalloc.start()
    with pytest.raises(MessageError, match="manifest"):
        wire.task_from_records(records)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < len(rows)


def test_bytes_that_are_not_protobuf_are_refused() -> None:
    with pytest.raises(MessageError, match="DecodeError"):
        wire.records_from_bytes(b"\xff\xff\xff")


@pytest.mark.threat("S1-4", "I-1")
def test_bytes_with_a_field_that_nobody_knows_are_refused() -> None:
    # Field 99 of the outermost message, five bytes long: protobuf alone would drop it in silence.
    trailing = b"\x9a\x06\x05guess"
    assert ProtoRecordDict.FromString(trailing) is not None
    with pytest.raises(MessageError, match="known fields"):
        wire.records_from_bytes(wire.records_to_bytes(wire.reply_to_records(REPLY)) + trailing)


@pytest.mark.threat("S1-4")
@pytest.mark.parametrize(
    ("content", "read"),
    [
        (wire.task_to_records(TASK), wire.task_from_records),
        (wire.reply_to_records(REPLY), wire.reply_from_records),
    ],
    ids=["task", "reply"],
)
def test_damaged_bytes_are_refused_or_mean_something_valid(
    content: RecordDict, read: Callable[[RecordDict], Task | Reply]
) -> None:
    rng = random.Random(2026)
    whole = wire.records_to_bytes(content)
    num_refused = 0
    for _ in range(2500):
        try:
            value = read(wire.records_from_bytes(_mutant(whole, rng)))
        except MessageError:
            num_refused += 1
        else:
            assert value.round >= 0
            assert value.arrays is None or value.arrays.unpack() is not None
    assert 1000 < num_refused < 2500


def _mutant(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                del data[place : place + rng.randint(1, 4)]
            case 3:
                data[place:place] = rng.randbytes(rng.randint(1, 4))
    return bytes(data) or whole


def test_a_connector_imports_the_wire_without_torch() -> None:
    code = "import sys, common.wire; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.threat("S1-4", "I-1")
@pytest.mark.parametrize("text", ["a\nERROR forged", "a" * 65, "é", "a b", "\0"])
@pytest.mark.parametrize("key", ["run_id", "nonce", "study_hash", "code"])
def test_a_header_that_is_not_one_short_word_is_refused_before_it_can_reach_a_log(
    key: str, text: str
) -> None:
    records = wire.task_to_records(replace(TASK, **{key: text}))
    with pytest.raises(MessageError, match=key):
        wire.task_from_records(records)
