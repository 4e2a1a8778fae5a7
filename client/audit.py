"""The audit log: one line for every answer that left this hospital, refusals included.

Names, sizes, norms and digests; never a value of a patient and never the arrays themselves.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from common.files import sync_folder
from common.wire import Reply, Task


def utc_now() -> datetime:
    """The present time, with its zone."""
    return datetime.now(UTC)


class AuditLog:
    """An append-only file of JSON lines.

    Args:
        durable: whether each line is on disk (fsync) before the answer it tells of may leave.
    """

    def __init__(
        self, path: Path, *, durable: bool = True, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._path = path
        self._durable = durable
        self._clock = clock

    def append(self, **fields: object) -> None:
        """Writes one line; raises `OSError` if it cannot, and then nothing may leave."""
        line = json.dumps({"at": self._clock().isoformat(timespec="milliseconds"), **fields})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self._path.exists()
        with self._path.open("a+b") as file:
            # A line that a power cut tore must not take the next one with it.
            file.write(b"\n" * _is_torn(file) + line.encode() + b"\n")
            file.flush()
            if self._durable:
                os.fsync(file.fileno())
        if is_new and self._durable:
            sync_folder(self._path.parent)


def audit_line(task: Task, reply: Reply, kept_back: list[str]) -> dict[str, object]:
    """What the log says of an answer: names, counts and digests.

    Args:
        kept_back: names of what the policy withheld.
    """
    arrays = reply.arrays
    return {
        "site": reply.site,
        "study_hash": task.study_hash,
        "run_id": reply.run_id,
        "round": reply.round,
        "nonce": reply.nonce,
        "kind": reply.kind.value,
        "status": reply.status,
        "withheld": kept_back,
        "counts": dict(reply.counts),
        "statistics": sorted(reply.metrics),
        "num_elements": 0 if arrays is None else arrays.flat.size,
        "norm": None if arrays is None else round(arrays.norm(), 6),
        "sha256": None if arrays is None else arrays.digest(),
        "receipt": None if reply.receipt is None else asdict(reply.receipt),
    }


def _is_torn(file: BinaryIO) -> bool:
    """Whether the file ends within a line."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
