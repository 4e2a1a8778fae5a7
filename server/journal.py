"""The journal: one JSON line for every event of a run, in the order in which they happened.

Append-only. Results and reports are pure functions of it, so whatever they tell must be here:
names, counts, sums and times; never an array of a model and never anything about one patient.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import RunError

Event = dict[str, Any]
Listener = Callable[[Event], None]


def utc_now() -> datetime:
    """The present time, with its zone."""
    return datetime.now(UTC)


class Journal:
    """Appends events to a file and tells its listeners of each.

    A last line that a killed server has left torn is removed first: it was never a whole event.

    Args:
        durable: whether each event is on disk (fsync) before the next thing happens.
    """

    def __init__(
        self,
        path: Path,
        *,
        durable: bool = True,
        listeners: Sequence[Listener] = (),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_torn_line(path)
        self._file = path.open("a", encoding="utf-8")
        self._durable = durable
        self._listeners = tuple(listeners)
        self._clock = clock

    def write(self, event: str, **fields: Any) -> None:
        """Appends an event of the kind `event`."""
        line: Event = {
            "at": self._clock().isoformat(timespec="milliseconds"),
            "event": event,
            **fields,
        }
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())
        for listener in self._listeners:
            listener(line)

    def close(self) -> None:
        """Closes the file; the journal can be opened again to append."""
        self._file.close()


def read_journal(path: Path) -> Iterator[Event]:
    """The events of a journal, in order. A torn last line (a killed server) is left out.

    Raises:
        RunError: there is no journal, or a whole line is not JSON.
    """
    if not path.is_file():
        raise RunError(f"Expected a journal at {path}, found none. Name the folder of a run.")
    *whole, _torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, start=1):
        try:
            event = json.loads(line.decode())
        except ValueError:
            raise RunError(
                f"Expected one event of JSON a line, found a damaged line {number} in {path}."
            ) from None
        yield event


def _remove_torn_line(path: Path) -> None:
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
