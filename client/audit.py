"""The audit log: one line for every answer that left this hospital, refusals included.

Names, sizes, norms and digests; never a value of a patient and never the arrays themselves. Each
line holds the digest of the one before (`client.chained_lines`), so that what was written cannot
be changed unseen; `client.audit_view` reads and verifies it.
"""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from client.chained_file import ChainedFile
from common.messages import Reply, Task
from common.signing import Purpose, SigningKey


def audit_path(state_dir: Path) -> Path:
    """Where a site keeps its audit log."""
    return state_dir / "audit.jsonl"


def utc_now() -> datetime:
    """The present time, with its zone."""
    return datetime.now(UTC)


class AuditLog:
    """An append-only file of chained lines.

    Guarantees:
        - What was written is never changed; a line that a power cut tore stays, and is told of.
        - A log that was changed, cut or replaced while it is in use is not added to.

    Args:
        durable: whether each line is on disk (fsync) before the answer it tells of may leave.
        key: of the site, which signs each line; without it, lines are chained alone.
    """

    def __init__(
        self,
        path: Path,
        *,
        durable: bool = True,
        clock: Callable[[], datetime] = utc_now,
        key: SigningKey | None = None,
    ) -> None:
        self._file = ChainedFile(path, purpose=Purpose.AUDIT_LINE, durable=durable, key=key)
        self._clock = clock

    def append(self, **fields: object) -> None:
        """Writes one line; where it raises, nothing may leave.

        Raises:
            OSError: the line could not be written.
            SiteConfigError: the log is not as it was left.
            ValueError: a field has no form in JSON.
        """
        self._file.append({**fields, "at": self._clock().isoformat(timespec="milliseconds")})

    def check_end(self) -> None:
        """Nothing, if the log may be added to: a site finds out when it starts, not in a round.

        Raises OSError and SiteConfigError as `append`.
        """
        self._file.check_end()


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
        "size_bytes": _size_bytes(reply),
        "norm": None if arrays is None else round(arrays.norm, 6),
        "sha256": None if arrays is None else arrays.digest(),
        "receipt": None if reply.receipt is None else asdict(reply.receipt),
    }


def _size_bytes(reply: Reply) -> int:
    """The size of all numbers of a reply; 8 bytes for each count and each one of a statistic."""
    num_numbers = len(reply.counts) + sum(len(values) for values in reply.metrics.values())
    return 8 * num_numbers + (0 if reply.arrays is None else reply.arrays.flat.nbytes)
