"""Follows a journal while another process writes it: whole lines, each one once."""

import os
from dataclasses import dataclass, field
from pathlib import Path

# Of what was read last, to be found again before reading on.
_REMEMBERED = 256


@dataclass(frozen=True, kw_only=True)
class News:
    """What a journal holds that was not read before.

    Attributes:
        starts_over: the file is another one than before: forget what it said.
        lines: whole lines, without their ends.
    """

    starts_over: bool
    lines: list[bytes]


@dataclass(kw_only=True)
class Tail:
    """Reads a journal as far as it is written, and goes on there the next time.

    Guarantees:
        - A line is given once, and only when all of it is there.
        - A file that was put in the place of another, or cut short, is read from its start.
        - A file that is not there, or not any more, has no lines, and that is no error.
    """

    path: Path
    _offset: int = field(default=0, init=False)
    _file: tuple[int, int] | None = field(default=None, init=False)
    _last: bytes = field(default=b"", init=False)

    def read(self) -> News:
        """The lines that were written since the last time."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                is_known = self._file == (status.st_dev, status.st_ino)
                file.seek(self._offset - len(self._last))
                is_same = is_known and file.read(len(self._last)) == self._last
                if not is_same:
                    file.seek(0)
                content = file.read()
        except FileNotFoundError:
            return self._forget()
        starts_over = not is_same and self._file is not None
        whole = content[: content.rfind(b"\n") + 1]
        self._offset = len(whole) + (self._offset if is_same else 0)
        self._last = ((self._last if is_same else b"") + whole)[-_REMEMBERED:]
        self._file = (status.st_dev, status.st_ino)
        return News(starts_over=starts_over, lines=whole.split(b"\n")[:-1])

    def _forget(self) -> News:
        was_there = self._file is not None
        self._offset, self._file, self._last = 0, None, b""
        return News(starts_over=was_there, lines=[])
