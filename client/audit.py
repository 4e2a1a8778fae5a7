"""The audit log: one line for every answer that left this hospital, refusals included.

Names, sizes, norms and digests; never a value of a patient and never the arrays themselves.
"""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path


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
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            if self._durable:
                file.flush()
                os.fsync(file.fileno())
