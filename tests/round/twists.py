"""Ways in which a site that is otherwise honest may lie or fail."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from common.arrays import Arrays, Block
from common.messages import Reply, Task, TaskKind

Change = Callable[[Reply], Reply]


def only(kind: TaskKind, change: Change):
    """A site that is honest in everything but its replies of one kind."""

    def twist(task: Task, answer) -> Reply:
        reply = answer()
        return change(reply) if task.kind is kind else reply

    return twist


def update_of(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """A reply whose update, all of it in one array, is changed so."""

    def changed(reply: Reply) -> Reply:
        assert reply.arrays is not None
        flat = change(reply.arrays.flat.copy())
        return replace(reply, arrays=Arrays(manifest=reply.arrays.manifest, flat=flat))

    return changed


def with_value(value: float) -> Change:
    """A reply with one parameter of this value."""

    def put(flat: np.ndarray) -> np.ndarray:
        flat[5] = value
        return flat

    return update_of(put)


def with_counts(**counts: int) -> Change:
    """A reply with some other counts."""
    return lambda reply: replace(reply, counts=dict(reply.counts) | counts)


def other_shape(reply: Reply) -> Reply:
    """As many numbers, under one name."""
    assert reply.arrays is not None
    manifest = (Block(name="a", shape=(reply.arrays.flat.size,)),)
    return replace(reply, arrays=Arrays(manifest=manifest, flat=reply.arrays.flat))


def raising(task: Task, answer) -> Reply:
    """No reply, and words about a patient."""
    raise RuntimeError("Mrs Miller, born 1943")
