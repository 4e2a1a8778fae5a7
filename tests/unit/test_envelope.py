"""Signatures over whole messages: one changed field, number or byte, and they do not hold."""

import math
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import envelope, wire
from common.arrays import Arrays, Block
from common.envelope import is_reply_signed, is_task_signed, sign_reply, sign_task
from common.messages import Reply, Task, TaskKind
from common.receipts import Countersigned, Receipt
from common.signing import Purpose, SigningKey, verify
from tests.unit.builders import HASH, replies, tasks
from tests.unit.consortium import COORDINATOR

SITE = SigningKey.generate()
ARRAYS = Arrays.pack({"a": np.arange(6.0).reshape(2, 3), "b": np.ones(())})
HEAD = Countersigned(
    seq=3, digest="a" * 64, site_signature="b" * 128, key="c" * 64, signature="d" * 128
)
RECEIPT = Receipt(seq=3, digest="a" * 64, key="b" * 64, signature="c" * 128)
TASK = Task(
    kind=TaskKind.TRAIN,
    run_id="r",
    round=2,
    nonce="n",
    study_hash=HASH,
    code="c",
    site="north",
    arrays=ARRAYS,
    ledger=HEAD,
)
REPLY = Reply(
    kind=TaskKind.TRAIN,
    run_id="r",
    round=2,
    nonce="n",
    site="north",
    arrays=ARRAYS,
    counts={"patients": 12, "labs": 3},
    metrics={"loss_sum": (0.5,), "confusion": (1.0, 2.0)},
    receipt=RECEIPT,
)


def through_task(task: Task) -> Task:
    """The task as it comes out of the wire."""
    data = wire.records_to_bytes(wire.task_to_records(task))
    return wire.task_from_records(wire.records_from_bytes(data))


def through_reply(reply: Reply) -> Reply:
    data = wire.records_to_bytes(wire.reply_to_records(reply))
    return wire.reply_from_records(wire.records_from_bytes(data))


def with_shapes(*shapes: tuple[str, tuple[int, ...]]) -> Arrays:
    manifest = tuple(Block(name=name, shape=shape) for name, shape in shapes)
    return Arrays(manifest=manifest, flat=ARRAYS.flat)


OTHER_ARRAYS = [
    None,
    with_shapes(("a", (3, 2)), ("b", ())),
    with_shapes(("c", (2, 3)), ("b", ())),
    with_shapes(("a", (6,)), ("b", ())),
    Arrays(manifest=ARRAYS.manifest, flat=ARRAYS.flat.astype(np.float64)),
    Arrays(manifest=ARRAYS.manifest, flat=np.negative(ARRAYS.flat)),
]
HEADER: dict[str, list[Any]] = {
    "kind": [TaskKind.ENROL, TaskKind.EVALUATE],
    "run_id": ["", "R", "r2"],
    "round": [0, 1, 3],
    "nonce": ["", "N", "r"],
    "site": ["", "south"],
    "arrays": OTHER_ARRAYS,
}
OTHER_TASKS = HEADER | {
    "study_hash": ["", "1" * 64],
    "code": ["", "d"],
    "ledger": [None, replace(HEAD, seq=4), replace(HEAD, signature="e" * 128)],
}
OTHER_REPLIES = HEADER | {
    "status": ["internal_error", ""],
    "counts": [{}, {"patients": 12}, {"patients": 13, "labs": 3}, {"patients": 3, "labs": 12}],
    "metrics": [
        {},
        {"loss_sum": (0.5, 0.0), "confusion": (1.0, 2.0)},
        {"loss_sum": (math.nextafter(0.5, 1.0),), "confusion": (1.0, 2.0)},
        {"loss_sum": (-0.5,), "confusion": (1.0, 2.0)},
        {"loss_sum": (math.nan,), "confusion": (1.0, 2.0)},
        {"loss_sum": (0.5,), "confusion": (2.0, 1.0)},
        {"confusion": (0.5,), "loss_sum": (1.0, 2.0)},
    ],
    "receipt": [None, replace(RECEIPT, seq=4), replace(RECEIPT, epsilon=1.0, delta=1e-4)],
}


def cases(others: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{i}")
        for name, values in others.items()
        for i, value in enumerate(values)
    ]


@pytest.mark.threat("C-3")
@pytest.mark.parametrize(("name", "value"), cases(OTHER_TASKS))
def test_another_value_of_any_field_breaks_the_signature_of_a_task(name: str, value: Any) -> None:
    signed = sign_task(TASK, COORDINATOR)
    assert is_task_signed(signed, COORDINATOR.public_key)
    assert not is_task_signed(replace(signed, **{name: value}), COORDINATOR.public_key)


@pytest.mark.threat("C-3")
@pytest.mark.parametrize(("name", "value"), cases(OTHER_REPLIES))
def test_another_value_of_any_field_breaks_the_signature_of_a_reply(name: str, value: Any) -> None:
    signed = sign_reply(REPLY, SITE)
    assert is_reply_signed(signed, SITE.public_key)
    assert not is_reply_signed(replace(signed, **{name: value}), SITE.public_key)


@pytest.mark.parametrize(("kind", "others"), [(Task, OTHER_TASKS), (Reply, OTHER_REPLIES)])
def test_no_field_is_left_out_of_these_tests(kind: type, others: dict[str, list[Any]]) -> None:
    assert {field.name for field in fields(kind)} - {"signature"} == set(others)


def test_another_schema_breaks_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    task, reply = sign_task(TASK, COORDINATOR), sign_reply(REPLY, SITE)
    monkeypatch.setattr(envelope, "SCHEMA", wire.SCHEMA + 1)
    assert not is_task_signed(task, COORDINATOR.public_key)
    assert not is_reply_signed(reply, SITE.public_key)


@pytest.mark.threat("C-3", "N-1")
@given(st.integers(0, 8 * ARRAYS.flat.nbytes - 1))
def test_one_bit_of_the_arrays_breaks_both_signatures(bit: int) -> None:
    data = bytearray(ARRAYS.flat.tobytes())
    data[bit // 8] ^= 1 << bit % 8
    flipped = Arrays(manifest=ARRAYS.manifest, flat=np.frombuffer(bytes(data), np.float32))
    task = replace(sign_task(TASK, COORDINATOR), arrays=flipped)
    reply = replace(sign_reply(REPLY, SITE), arrays=flipped)
    assert not is_task_signed(task, COORDINATOR.public_key)
    assert not is_reply_signed(reply, SITE.public_key)


@given(tasks())
def test_what_was_signed_is_what_is_read_from_the_wire_a_task(task: Task) -> None:
    assert is_task_signed(through_task(sign_task(task, COORDINATOR)), COORDINATOR.public_key)


@given(replies())
def test_what_was_signed_is_what_is_read_from_the_wire_a_reply(reply: Reply) -> None:
    assert is_reply_signed(through_reply(sign_reply(reply, SITE)), SITE.public_key)


@given(tasks(), tasks())
def test_a_signature_is_of_one_task_alone(one: Task, other: Task) -> None:
    signature = sign_task(one, COORDINATOR).signature
    is_same = replace(one, signature=None) == replace(other, signature=None)
    moved = replace(other, signature=signature)
    assert is_task_signed(moved, COORDINATOR.public_key) == is_same


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
def test_numbers_without_a_text_of_their_own_are_signed_bit_for_bit(value: float) -> None:
    odd = replace(REPLY, metrics={"loss_sum": (value,)})
    signed = through_reply(sign_reply(odd, SITE))
    assert struct.pack("<d", signed.metrics["loss_sum"][0]) == struct.pack("<d", value)
    assert is_reply_signed(signed, SITE.public_key)


def test_the_order_of_counts_and_statistics_says_nothing() -> None:
    signed = sign_reply(REPLY, SITE)
    turned = {name: signed.metrics[name] for name in reversed(signed.metrics)}
    assert is_reply_signed(replace(signed, metrics=turned), SITE.public_key)


def test_big_endian_arrays_are_signed_as_they_are_sent() -> None:
    swapped = Arrays(manifest=ARRAYS.manifest, flat=ARRAYS.flat.astype(">f4"))
    signed = sign_task(replace(TASK, arrays=swapped), COORDINATOR)
    assert is_task_signed(through_task(signed), COORDINATOR.public_key)


@pytest.mark.parametrize("signature", [None, "0" * 128, "", "no hex", "C" * 128])
def test_what_is_not_signed_does_not_hold(signature: str | None) -> None:
    assert not is_task_signed(replace(TASK, signature=signature), COORDINATOR.public_key)
    assert not is_reply_signed(replace(REPLY, signature=signature), SITE.public_key)


@pytest.mark.parametrize(
    "key", ["", "0" * 64, "no hex", SITE.public_key], ids=["none", "zeros", "words", "the site's"]
)
def test_another_key_does_not_hold(key: str) -> None:
    assert not is_task_signed(sign_task(TASK, COORDINATOR), key)
    assert not is_reply_signed(sign_reply(REPLY, COORDINATOR), key)


@pytest.mark.threat("C-3")
def test_a_signature_of_a_task_is_none_for_a_reply() -> None:
    payload, key = {"site": "north"}, COORDINATOR
    signature = key.sign(payload, purpose=Purpose.TASK)
    assert not verify(key.public_key, payload, signature, purpose=Purpose.REPLY)
    reply = replace(REPLY, signature=sign_task(TASK, key).signature)
    assert not is_reply_signed(reply, key.public_key)
    for message, content, purpose, is_signed in (
        (TASK, envelope._of_task(TASK), Purpose.REPLY, is_task_signed),
        (REPLY, envelope._of_reply(REPLY), Purpose.TASK, is_reply_signed),
    ):
        signature = key.sign(content, purpose=purpose)
        assert not is_signed(replace(message, signature=signature), key.public_key)


@pytest.mark.parametrize(
    ("spoil", "holds"),
    [(lambda task: replace(task, run_id="\ud800"), False), (lambda task: task, True)],
)
def test_verifying_never_raises(spoil: Callable[[Task], Task], holds: bool) -> None:
    assert is_task_signed(spoil(sign_task(TASK, COORDINATOR)), COORDINATOR.public_key) is holds


def test_an_envelope_is_opened_without_torch() -> None:
    code = "import sys, common.envelope, client.trust; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
