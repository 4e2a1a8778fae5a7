"""Mutants of messages: bytes changed anywhere, and records changed with knowledge of their form.

Both kinds are drawn from a seeded generator, so that a mutant that gets through can be made again
from the seed and its number.
"""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

# Field 1007 of protobuf with three bytes: known to nobody.
UNKNOWN_FIELD = b"\xfa\x3e\x03abc"

_INTEGERS = (-1, 0, 1, 2**31, 2**63 - 1, -(2**63), 10**12)
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e300, 1e15, 5e-324)
_TEXTS = ("", "a" * 65, "a\nb", "../x", "é", "\x00", "alpha", "train", "0" * 64, "rm -rf /")
_DTYPES = ("float16", "float32", "float64", "int64", "object", "<U8", "bfloat16", ">f4", "")
_SHAPES = ((), (0,), (-1,), (1, 1), (2**31 - 1,), (2**31 - 1, 2**31 - 1), (1,) * 40)


def mutate_bytes(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """`data` with one to four changes of bytes; some take a part of another message."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(_BYTE_CHANGES)(data, random, others)
    return data


def _place(data: bytes, random: Random) -> int:
    # Half of them in the first part, where names and sizes are rather than numbers of a model.
    return random.randrange(min(len(data), 400) if random.random() < 0.5 else len(data))


def _flip(data: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = _place(data, random)
    return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]


def _put(data: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = _place(data, random)
    return data[:at] + bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF))]) + data[at + 1 :]


def _insert(data: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.randbytes(random.randint(1, 16)) + data[at:]


def _delete(data: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + data[at + random.randint(1, 64) :]


def _repeat(data: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    start, length = random.randint(0, len(data)), random.randint(1, 200)
    return data[: start + length] + data[start : start + length] + data[start + length :]


def _cut(data: bytes, random: Random, _: Sequence[bytes]) -> bytes:
    return data[: random.randint(0, len(data))]


def _append(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    return data + random.choice((UNKNOWN_FIELD, b"\x00", random.randbytes(9), *others))


def _splice(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    other = random.choice(others)
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


_BYTE_CHANGES = (_flip, _flip, _put, _insert, _delete, _repeat, _cut, _append, _splice)


def mutate_records(records: RecordDict, random: Random) -> RecordDict:
    """A copy of `records` with one to three changes that keep it a message of Flower."""
    mutant = _copy(records)
    for _ in range(random.choice((1, 1, 2, 3))):
        random.choice(_RECORD_CHANGES)(mutant, random)
    return mutant


def _copy(records: RecordDict) -> RecordDict:
    copy = RecordDict()
    for name, record in records.items():
        copy[name] = type(record)(dict(record))  # type: ignore[arg-type]
    return copy


def _any_value(random: Random) -> Any:
    values: tuple[Any, ...] = (
        random.choice(_INTEGERS),
        random.choice(_FLOATS),
        random.choice(_TEXTS),
        random.choice((True, False)),
        random.randbytes(8),
        [random.choice(_TEXTS)],
        [random.choice(_INTEGERS)] * random.randint(0, 3),
        [random.choice(_FLOATS)] * random.choice((0, 1, 1000)),
    )
    return random.choice(values)


def _any_number(random: Random) -> Any:
    one: Any = random.choice((random.choice(_INTEGERS), random.choice(_FLOATS)))
    return one if random.random() < 0.5 else [one] * random.choice((0, 1, 2, 1000))


def _config_value(records: RecordDict, random: Random) -> None:
    configs = [r for r in records.values() if isinstance(r, ConfigRecord) and r]
    if configs:
        record = random.choice(configs)
        record[random.choice(list(record))] = _any_value(random)


def _header_word(records: RecordDict, random: Random) -> None:
    """Another value of the right form: what only a look at its meaning can refuse."""
    header = records.get("header")
    if isinstance(header, ConfigRecord):
        words = [name for name, value in header.items() if isinstance(value, str)]
        name = random.choice([*words, "round"])
        header[name] = random.choice((1, 999, 10**9)) if name == "round" else "0" * 64


def _consistent_layer(records: RecordDict, random: Random) -> None:
    """A layer more or less, with its numbers, so that manifest and array agree."""
    header, record = records.get("header"), records.get("arrays")
    if not isinstance(header, ConfigRecord) or not isinstance(record, ArrayRecord):
        return
    try:
        rows, array = json.loads(str(header["manifest"])), record["flat"]
        more = random.random() < 0.5
        rows = [*rows, ["encoders.labs.trap", 2]] if more else [["all", len(array.data) // 4]]
    except (KeyError, ValueError, TypeError, RecursionError):
        return
    data = array.data + b"\0" * (8 if more else 0)
    header["manifest"] = json.dumps(rows)
    changed = _with(array, data=data, shape=(len(data) // 4,))
    _put_record(records, "arrays", ArrayRecord({"flat": changed}))


def _config_key(records: RecordDict, random: Random) -> None:
    configs = [r for r in records.values() if isinstance(r, ConfigRecord) and r]
    if configs:
        record = random.choice(configs)
        if random.random() < 0.5:
            del record[random.choice(list(record))]
        else:
            record[random.choice(("noise_multiplier", "epsilon", "lr", ""))] = _any_value(random)


def _array(records: RecordDict, random: Random) -> None:
    record = records.get("arrays")
    if not isinstance(record, ArrayRecord) or "flat" not in record:
        return
    array = record["flat"]
    changes: tuple[Callable[[], Array], ...] = (
        lambda: _with(array, dtype=random.choice(_DTYPES)),
        lambda: _with(array, shape=random.choice(_SHAPES)),
        lambda: _with(array, stype=random.choice(("", "numpy.ndarray", "wardround.flat2"))),
        lambda: _with(array, data=array.data + random.randbytes(random.choice((1, 4, 8)))),
        lambda: _with(array, data=array.data[: random.randint(0, len(array.data))]),
        lambda: _with(array, data=_with_value(array, random)),
        lambda: _with(array, data=_scaled(array, random)),
        lambda: Array(np.array(["patient", "p0001"])),
    )
    changed = random.choice(changes)()
    named = random.choice(
        (
            {"flat": changed},
            {"flat": changed},
            {"flat": array, "more": changed},
            {"other": changed},
        )
    )
    _put_record(records, "arrays", ArrayRecord(named))


def _with(array: Array, **fields: Any) -> Array:
    kept = {name: getattr(array, name) for name in ("dtype", "shape", "stype", "data")}
    return Array(**(kept | fields))


def _with_value(array: Array, random: Random) -> bytes:
    flat = np.frombuffer(array.data[: len(array.data) // 4 * 4], dtype="<f4").copy()
    if flat.size:
        flat[random.randrange(flat.size)] = random.choice((np.nan, np.inf, -np.inf, 1e38, 0.5))
    return flat.tobytes()


def _scaled(array: Array, random: Random) -> bytes:
    flat = np.frombuffer(array.data[: len(array.data) // 4 * 4], dtype="<f4")
    factor = np.float32(random.choice((0.0, -1.0, 1e3, 1e30)))
    with np.errstate(all="ignore"):
        return (flat * factor).tobytes()


def _manifest(records: RecordDict, random: Random) -> None:
    header = records.get("header")
    if not isinstance(header, ConfigRecord) or not isinstance(header.get("manifest"), str):
        return
    try:
        rows = json.loads(str(header["manifest"]))
    except (ValueError, RecursionError):
        return
    if not isinstance(rows, list):
        return
    change = random.randrange(8)
    if change == 0:
        rows.append(["trap", random.choice((0, 1, 2**31 - 1))])
    elif change == 1 and rows:
        rows[random.randrange(len(rows))] = ["patient_names", 4]
    elif change == 2 and rows:
        rows.pop(random.randrange(len(rows)))
    elif change == 3:
        rows.reverse()
    elif change == 4 and rows:
        rows.append(rows[0])
    elif change == 5 and rows:
        # The same number of elements in another shape.
        row = random.choice(rows)
        row[1:] = [*row[1:], 1]
    elif change == 6:
        rows = random.choice(
            ([], {}, 5, [[]], [[1, 2]], [["a", -1]], [["a", 1.5]], [["a", *[1] * 9]])
        )
    else:
        header["manifest"] = random.choice(("[" * 5000, "", "null", '[["a", 1e400]]', "\u00e9"))
        return
    header["manifest"] = json.dumps(rows)


def _metric(records: RecordDict, random: Random) -> None:
    name = random.choice(("counts", "metrics"))
    record = records.get(name)
    found = dict(record) if isinstance(record, MetricRecord) else {}
    key = random.choice([*found, "diagnoses", "patients", "event.loss_sum", ""])
    found[str(key)] = _any_number(random)
    if random.random() < 0.2:
        del found[random.choice(list(found))]
    _put_record(records, name, MetricRecord(found))


def _record(records: RecordDict, random: Random) -> None:
    name = random.choice(("arrays", "arrays2", "counts", "metrics", "receipt", "header", "x"))
    made = random.choice(
        (
            None,
            ArrayRecord({"flat": Array(np.zeros(3, dtype=np.float32))}),
            MetricRecord({"patients": random.choice(_INTEGERS)}),
            ConfigRecord({"notes": random.choice(_TEXTS)}),
            ConfigRecord({}),
        )
    )
    _put_record(records, name, made)


def _put_record(
    records: RecordDict, name: str, record: ArrayRecord | MetricRecord | ConfigRecord | None
) -> None:
    # Flower warns of a record that is written over.
    records.pop(name, None)
    if record is not None:
        records[name] = record


_RECORD_CHANGES = (
    _header_word,
    _header_word,
    _consistent_layer,
    _config_value,
    _config_key,
    _array,
    _array,
    _manifest,
    _metric,
    _record,
)
