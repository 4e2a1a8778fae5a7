"""Room on a hospital's disk: a task whose traces would not fit is refused before any work.

A disk that is full in the middle of a task costs budget for nothing: the reservation is written,
the update is made, and the sealed reply has no place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.disk import MARGIN_BYTES, free_bytes
from common.errors import Refusal, RefusalCode
from common.messages import Task


@dataclass(frozen=True, kw_only=True)
class Room:
    """The disk below a hospital's state folder.

    Guarantees:
        - A task passes only where there is room for what answering it writes: a sealed reply and a
          personal model, each at most as large as the model that came, and some lines.
    """

    state_dir: Path
    free_bytes: Callable[[Path], int] = free_bytes

    def check(self, task: Task) -> None:
        """There is room on the disk for what answering writes, before anything is charged.

        Threat: S1-4. Refuses: DISK_FULL.
        """
        model_bytes = 0 if task.arrays is None else task.arrays.flat.nbytes
        needed = 2 * model_bytes + MARGIN_BYTES
        found = self.free_bytes(self.state_dir)
        if found < needed:
            raise Refusal(
                RefusalCode.DISK_FULL,
                f"Expected {needed >> 20} MiB of free disk before a task, found {found >> 20} MiB "
                f"({self.state_dir}). Make room; the coordinator may ask again.",
            )
