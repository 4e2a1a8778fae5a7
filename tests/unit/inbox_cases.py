"""What an honest site answers, what is expected of it, and ways to spoil its replies."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Message

from common import wire
from common.arrays import Arrays, Block, Manifest, size_of
from common.messages import Reply, Task, TaskKind
from common.metrics.evaluation import to_flat
from common.normalisation import moments_manifest
from server.correspondence import Unsigned
from server.inbox import Expected, open_reply
from tests.unit.builders import HASH, evaluation, instruction, study_of

Spoil = Callable[[Reply], Reply]

STUDY = study_of(strategy={"max_patients_per_site": 1000})
UPDATE: Manifest = (
    Block(name="heads.event.linear.weight", shape=(1, 4)),
    Block(name="heads.event.linear.bias", shape=(1,)),
)
COUNTS = {"patients": 90, "labs": 90, "vitals": 10, "lifestyle": 0, "event": 80}
METRICS = to_flat(evaluation(30, STUDY)) | {
    "seconds_training": (1.5,),
    "seconds_evaluation": (0.5,),
}
OUTSIDE = "moments outside of the plausible ranges"


def arrays_of(manifest: Manifest, dtype: type = np.float32) -> Arrays:
    """Zeros in this shape."""
    return Arrays(manifest=manifest, flat=np.zeros(size_of(manifest), dtype=dtype))


def task_of(kind: TaskKind) -> Task:
    """A task of round 2."""
    return Task(kind=kind, run_id="r", round=2, nonce="n", study_hash=HASH, code="c")


def expected_of(kind: TaskKind) -> Expected:
    """What the coordinator expects of the site north, which has enrolled with `COUNTS`."""
    return {
        TaskKind.TRAIN: Expected(
            task=task_of(TaskKind.TRAIN),
            study=STUDY,
            site="north",
            manifest=UPDATE,
            dtype="float32",
            counts=COUNTS,
        ),
        TaskKind.EVALUATE: Expected(
            task=task_of(TaskKind.EVALUATE),
            study=STUDY,
            site="north",
            manifest=None,
            dtype="float32",
            counts=COUNTS,
        ),
        TaskKind.ENROL: Expected(
            task=task_of(TaskKind.ENROL),
            study=STUDY,
            site=None,
            manifest=moments_manifest(STUDY),
            dtype="float64",
            counts=None,
        ),
    }[kind]


def honest(kind: TaskKind) -> Reply:
    """The reply of the site north to such a task."""
    reply = Reply(kind=kind, run_id="r", round=2, nonce="n", site="north")
    match kind:
        case TaskKind.TRAIN:
            return replace(reply, arrays=arrays_of(UPDATE), counts=COUNTS, metrics=METRICS)
        case TaskKind.EVALUATE:
            return replace(reply, metrics=METRICS)
        case TaskKind.ENROL:
            return replace(reply, arrays=moments(), counts=COUNTS)


def moments(**changes: float) -> Arrays:
    """Moments that 90 patients may have, some of the labs replaced: `moments(sum=92.0)`."""
    named = arrays_of(moments_manifest(STUDY), np.float64).unpack()
    named |= {
        "labs.count": np.array([90.0, 80.0]),
        "labs.sum": np.array([-90.0, 40.0]),
        "labs.sum_squares": np.array([90.0, 30.0]),
    }
    for name, value in changes.items():
        named[f"labs.{name}"] = np.array([value, 0.0])
    return Arrays.pack(named, dtype=np.float64)


def opened(reply: Reply, kind: TaskKind = TaskKind.TRAIN) -> tuple[Reply | None, str]:
    """What the inbox makes of a reply: the reply, or none and why."""
    message = instruction(1, kind.value)
    return open_reply(
        Message(wire.reply_to_records(reply), reply_to=message), expected_of(kind), Unsigned()
    )


def with_fields(**changes: Any) -> Spoil:
    """The same reply with other fields."""
    return lambda reply: replace(reply, **changes)


def with_metric(name: str, *values: float) -> Spoil:
    """The same reply with one statistic of other values."""
    return lambda reply: replace(reply, metrics={**reply.metrics, name: values})


def with_count(name: str, count: int) -> Spoil:
    """The same reply with one other count."""
    return lambda reply: replace(reply, counts={**reply.counts, name: count})
