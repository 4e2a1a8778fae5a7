"""What stands around a task and a reply: the sender's signature over all that they say.

TLS ends at Flower's server and its node keys say nothing of what is in a message: whoever sits
there could ask in the coordinator's name and answer in a hospital's. These signatures are made and
verified at the two ends alone. Must not import torch.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from common.arrays import Arrays
from common.messages import Reply, Task
from common.signing import Purpose, SigningKey, canonical_json, verify
from common.wire import SCHEMA


def sign_task(task: Task, key: SigningKey) -> Task:
    """The task, signed by the coordinator's `key`.

    Guarantees:
        - Another value of any field, or another byte of the arrays, breaks the signature.
        - A signature of a task is none for a reply.
        - What was signed is what is read from the wire again: the signature holds there too.
    """
    return replace(task, signature=key.sign(_of_task(task), purpose=Purpose.TASK))


def is_task_signed(task: Task, public_key: str) -> bool:
    """Whether the owner of `public_key` has signed this task; never raises."""
    return task.signature is not None and verify(
        public_key, _of_task(task), task.signature, purpose=Purpose.TASK
    )


def sign_reply(reply: Reply, key: SigningKey) -> Reply:
    """The reply, signed by the site's `key`: with the guarantees of `sign_task`."""
    return replace(reply, signature=key.sign(_of_reply(reply), purpose=Purpose.REPLY))


def is_reply_signed(reply: Reply, public_key: str) -> bool:
    """Whether the owner of `public_key` has signed this reply; never raises."""
    return reply.signature is not None and verify(
        public_key, _of_reply(reply), reply.signature, purpose=Purpose.REPLY
    )


def _of_task(task: Task) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": str(task.kind),
        "run_id": task.run_id,
        "round": task.round,
        "nonce": task.nonce,
        "study_hash": task.study_hash,
        "code": task.code,
        "site": task.site,
        "arrays": _of_arrays(task.arrays),
        "ledger": None if task.ledger is None else asdict(task.ledger),
    }


def _of_reply(reply: Reply) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": str(reply.kind),
        "run_id": reply.run_id,
        "round": reply.round,
        "nonce": reply.nonce,
        "site": reply.site,
        "status": reply.status,
        "arrays": _of_arrays(reply.arrays),
        "counts": dict(reply.counts),
        "metrics": _of_metrics(reply.metrics),
        "receipt": None if reply.receipt is None else asdict(reply.receipt),
    }


def _of_arrays(arrays: Arrays | None) -> dict[str, str] | None:
    if arrays is None:
        return None
    manifest = canonical_json([[block.name, *block.shape] for block in arrays.manifest])
    flat = np.ascontiguousarray(arrays.flat, dtype=arrays.flat.dtype.newbyteorder("<"))
    return {
        "dtype": arrays.flat.dtype.name,
        "manifest": hashlib.sha256(manifest).hexdigest(),
        "flat": hashlib.sha256(flat.data).hexdigest(),
    }


def _of_metrics(metrics: Mapping[str, tuple[float, ...]]) -> dict[str, str]:
    """The digest of each statistic's bits: text has no form for NaN, which a forger may send."""
    return {
        name: hashlib.sha256(struct.pack(f"<{len(values)}d", *values)).hexdigest()
        for name, values in metrics.items()
    }
