"""What a hospital's messages hold, field by field, in words: for people who want to see it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from common.messages import OK, Reply, TaskKind
from common.metrics.attributions import is_attribution
from common.metrics.evaluation import SECONDS, statistic_of
from common.metrics.subgroups import is_of_group
from common.study import Study

_HEADER = {
    "kind": "what was asked for",
    "run_id": "the run's id, as the task said it",
    "round": "the round, as the task said it",
    "nonce": "the task's nonce, as it came",
    "site": "the name of this hospital",
    "status": "ok, or a code of the closed list of refusals",
}
_ARRAYS = {
    TaskKind.TRAIN: "the update of the model: parameters after training, less those before",
    TaskKind.ENROL: "sums over all patients, to normalise by: counts, sums and sums of squares",
}
_RECEIPT = {
    "seq": "the number of the ledger's last entry",
    "digest": "of that entry, SHA-256",
    "key": "this hospital's public key",
    "signature": "by this hospital, over the entry",
    "epsilon": "what this run has cost a patient at most",
    "delta": "the probability with which that may not hold",
}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of what a hospital sends.

    Attributes:
        message: the kind of task that it answers.
        record: of the message; `name` is the field in it.
        dtype, shape: of its value; a word has neither dimension.
        size_bytes: of its value.
        what: what it is, in words.
    """

    message: str
    record: str
    name: str
    dtype: str
    shape: str
    size_bytes: int
    what: str


def fields_of(replies: Iterable[Reply], study: Study) -> tuple[Field, ...]:
    """The fields of these messages, each once, by kind of message as first sent.

    Values are not among them: of each, what it is, and its largest size.
    """
    found: dict[tuple[str, str, str], Field] = {}
    for reply in replies:
        for field in _fields_of(reply, study):
            key = (field.message, field.record, field.name)
            if key not in found or field.size_bytes > found[key].size_bytes:
                found[key] = field
    order = list(dict.fromkeys(field.message for field in found.values()))
    return tuple(sorted(found.values(), key=lambda field: order.index(field.message)))


def _fields_of(reply: Reply, study: Study) -> list[Field]:
    message = reply.kind.value if reply.status == OK else "refusal"
    is_private = study.privacy.mode == "patient"
    word = partial(_word, message)
    fields = [word("header", key, getattr(reply, key), what) for key, what in _HEADER.items()]
    fields += _array_fields(message, reply, is_private=is_private)
    of_whom = "as told for weights, not counted" if is_private else "small groups as 0"
    fields += [
        word("counts", name, count, f"patients ({name}), {of_whom}")
        for name, count in reply.counts.items()
    ]
    fields += [
        _metric(message, name, values, is_private=is_private)
        for name, values in reply.metrics.items()
    ]
    if reply.receipt is not None:
        said = {name: getattr(reply.receipt, name) for name in _RECEIPT}
        fields += [
            word("receipt", name, value, _RECEIPT[name])
            for name, value in said.items()
            if value is not None
        ]
    if reply.signature is not None:
        what = "by this hospital, over all of the message"
        fields.append(word("signature", "signature", reply.signature, what))
    return fields


def _word(message: str, record: str, name: str, value: object, what: str) -> Field:
    """A text or a number by itself."""
    dtype, size_bytes = "int" if isinstance(value, int) else "float64", 8
    if isinstance(value, str):
        dtype, size_bytes = "text", len(value.encode())
    return Field(
        message=message,
        record=record,
        name=name,
        dtype=dtype,
        shape="",
        size_bytes=size_bytes,
        what=what,
    )


def _array_fields(message: str, reply: Reply, *, is_private: bool) -> list[Field]:
    """The names of the blocks, and their numbers; nothing where no arrays are sent."""
    if reply.arrays is None:
        return []
    flat, manifest = reply.arrays.flat, reply.arrays.manifest
    names = json.dumps([[b.name, *b.shape] for b in manifest])
    told = f"names and shapes of {len(manifest)} blocks, which follow from the study"
    numbers = Field(
        message=message,
        record="arrays",
        name="flat",
        dtype=flat.dtype.name,
        shape=f"({flat.size},)",
        size_bytes=flat.nbytes,
        what=_ARRAYS[reply.kind] + (", clipped and noised" if is_private else ""),
    )
    return [_word(message, "header", "manifest", names, told), numbers]


def _metric(message: str, name: str, values: tuple[float, ...], *, is_private: bool) -> Field:
    """The sums of one statistic, over whom, and whether noise protects them."""
    noised = ", noised" if is_private else ""
    whom = "a group of" if is_of_group(name) else "all"
    what = f"{statistic_of(name)} over {whom} held-out patients{noised}"
    if name in SECONDS:
        what = "seconds of work"
    elif is_attribution(name):
        what = f"{statistic_of(name)} of each granularity and feature, over held-out patients"
    return Field(
        message=message,
        record="metrics",
        name=name,
        dtype="float64",
        shape=f"({len(values)},)",
        size_bytes=8 * len(values),
        what=what,
    )
