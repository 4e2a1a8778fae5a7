"""A file of chained lines, added to by any number of processes, one line at a time."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from client.chained_lines import Line, read_line, read_lines, write_line
from common.errors import SiteConfigError
from common.files import sync_folder
from common.signing import Purpose, SigningKey

_FIRST_LOOK_BYTES = 1 << 16
_DIGEST = b',"digest":"'


@dataclass(frozen=True, kw_only=True)
class _End:
    """How the file ends: its last line, the bytes of it in the file, and torn bytes behind.

    Attributes:
        at: device and inode of the file.
        stop: where the last line ends.
        num_bytes: of the last line, with its newline, where this writer wrote it.
        has_newline: whether the file ends a line there; else the next one must.
    """

    at: tuple[int, int]
    last: Line | None
    stop: int
    torn: bytes
    num_bytes: int = 0
    has_newline: bool = True

    @property
    def size(self) -> int:
        return self.stop + len(self.torn)


class ChainedFile:
    """Appends lines to a file, and knows its end without reading it again.

    Guarantees:
        - A line is added, and no byte before it is ever changed.
        - Lines of several writers at once are one chain.
        - A torn end stays where it is, and the next line tells its digest.
        - What does not end in a line of a chain (with a key: in one that it has signed) is not
          added to.
        - A file that was replaced or cut while it is in use, or has grown by what does not follow,
          is not added to.

    Args:
        durable: whether a line is on disk (fsync) when `append` returns.
        key: of the site; without it, lines are not signed.
    """

    def __init__(
        self, path: Path, *, purpose: Purpose, durable: bool, key: SigningKey | None
    ) -> None:
        self._path = path
        self._purpose = purpose
        self._durable = durable
        self._key = key
        self._end: _End | None = None
        self._is_lost = False

    def append(self, fields: Mapping[str, Any]) -> None:
        """Adds one line.

        Raises:
            OSError: it could not be written or synced.
            SiteConfigError: the file is not one that may be added to.
            ValueError: a field has no form in JSON.
        """
        with self._locked() as descriptor:
            end = self._current_end(descriptor)
            piece, line = write_line(
                fields, after=end.last, torn=end.torn, purpose=self._purpose, key=self._key
            )
            # A torn line must not take the next one with it.
            content = (b"" if end.has_newline else b"\n") + piece
            if os.write(descriptor, content) != len(content):
                raise OSError("the disk took a part of a line")
            self._sync(descriptor, is_new=end.size == 0)
            size = end.size + len(content)
            self._end = _End(at=end.at, last=line, num_bytes=len(piece), stop=size, torn=b"")

    def check_end(self) -> None:
        """Nothing, if the file may be added to; one that is not there may.

        Raises:
            OSError: the file cannot be opened.
            SiteConfigError: it does not end in a line of its chain, or in one of another key.
        """
        if self._path.exists():
            with self._locked() as descriptor:
                self._current_end(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The open file, while no other writer has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _sync(self, descriptor: int, *, is_new: bool) -> None:
        if not self._durable:
            return
        # After a failed sync nobody knows what the disk holds: this writer stops there.
        self._is_lost = True
        os.fsync(descriptor)
        if is_new:
            sync_folder(self._path.parent)
        self._is_lost = False

    def _current_end(self, descriptor: int) -> _End:
        if self._is_lost:
            raise self._fault("a line before that was lost")
        found = os.fstat(descriptor)
        at, size, known = (found.st_dev, found.st_ino), found.st_size, self._end
        if known is None:
            end = _read_end(descriptor, at, size, self._purpose)
        elif (at, size) == (known.at, known.size):
            return known
        elif at != known.at or size < known.stop:
            raise self._fault("another file, or one that was cut,")
        else:
            end = self._grown_end(descriptor, known, size)
        if end is None:
            raise self._fault("a damaged last line")
        end = _completed(end, self._purpose)
        if end.last is not None and self._key is not None:
            self._check_signed(end.last, self._key)
        return end

    def _check_signed(self, last: Line, key: SigningKey) -> None:
        if not last.is_signed(key.public_key, self._purpose):
            raise self._fault("a last line that this site's key has not signed")

    def _grown_end(self, descriptor: int, known: _End, size: int) -> _End:
        """The end after others have added to the file: all of it must follow our last line."""
        start = known.stop - known.num_bytes
        tail = os.pread(descriptor, size - start, start)
        ours = read_line(tail[: known.num_bytes - 1], self._purpose) if known.last else None
        added = read_lines(tail[known.num_bytes :], purpose=self._purpose, after=ours)
        # By the links, which cover each byte: what was written holds tuples, what is read lists.
        if (ours and ours.link) != (known.last and known.last.link) or added.faults:
            raise self._fault("changed lines")
        last = added.lines[-1] if added.lines else known.last
        return _End(at=known.at, last=last, stop=size - len(added.torn), torn=added.torn)

    def _fault(self, found: str) -> SiteConfigError:
        return SiteConfigError(
            f"Expected {self._path.name} as this site left it, found {found} ({self._path}). "
            "Nothing is added to it, and nothing leaves. Have a person look at it; then put back "
            "the newest copy, or move it aside and keep it."
        )


def _completed(end: _End, purpose: Purpose) -> _End:
    """The end, where all but the newline of a line was written: that is a whole line."""
    if not end.torn:
        return end
    found = read_lines(end.torn + b"\n", purpose=purpose, after=end.last)
    if found.faults:
        return replace(end, has_newline=False)
    line = found.lines[-1]
    return replace(end, last=line, stop=end.size, torn=b"", has_newline=False)


def _read_end(descriptor: int, at: tuple[int, int], size: int, purpose: Purpose) -> _End | None:
    """The end of a file, read backwards; None where complete lines behind the last are damaged."""
    look = _FIRST_LOOK_BYTES
    while True:
        start = max(0, size - look)
        tail = os.pread(descriptor, size - start, start)
        *pieces, torn = tail.split(b"\n")
        stop = len(tail) - len(torn)
        for piece in reversed(pieces if start == 0 else pieces[1:]):
            line = read_line(piece, purpose)
            if line is not None:
                return _End(at=at, last=line, stop=start + stop, torn=tail[stop:])
            # Torn twice, in a line and in the one that was to tell of it: the first has lost its
            # end. A line that still has its digest was whole, and somebody has changed it.
            if not piece or piece.endswith(b"}") or _DIGEST in piece:
                return None
            stop -= len(piece) + 1
        if start == 0:
            return _End(at=at, last=None, stop=0, torn=tail)
        look *= 8
