"""The file of a ledger: one writer at a time, lines at its end alone, on disk before they count."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from common.errors import SiteConfigError
from common.files import sync_folder


class LedgerFile:
    """An open ledger file, locked for this process.

    Guarantees:
        - While it is open, another process that opens it is told so at once.
        - A line that could not be written and synced whole is the end: nothing more is appended.
        - A file that was changed or replaced by someone else while it is open is not appended to.
    """

    def __init__(self, path: Path, descriptor: int, *, durable: bool) -> None:
        self._path = path
        self._descriptor = descriptor
        self.durable = durable
        self._size = os.fstat(descriptor).st_size
        self._num_given_up = 0
        self._is_usable = True

    @classmethod
    def open(cls, path: Path, *, durable: bool) -> Self:
        """The file at `path`, made if there is none, and locked.

        Raises:
            SiteConfigError: another process has it open, or it cannot be opened.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
        except OSError as fault:
            raise SiteConfigError(
                f"Expected a ledger that can be written at {path}, found {type(fault).__name__}. "
                "Check site.state_dir and its permissions."
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise SiteConfigError(
                f"Expected a ledger that no other process has open, found one that has ({path}). "
                "Stop the other process of this hospital first."
            ) from None
        if durable:
            # What a killed process wrote and did not sync is read here, and relied on from here on.
            os.fsync(descriptor)
            sync_folder(path.parent)
            sync_folder(path.parent.parent)
        return cls(path, descriptor, durable=durable)

    def read(self) -> bytes:
        """All bytes of the file.

        Raises:
            SiteConfigError: there are fewer than there were a moment ago.
        """
        parts: list[bytes] = []
        num_read = 0
        # One call gives 2 GiB at most: the rest would count as never written.
        while num_read < self._size:
            part = os.pread(self._descriptor, self._size - num_read, num_read)
            if not part:
                raise SiteConfigError(
                    f"Expected a ledger of {self._size} bytes, found {num_read} ({self._path}). "
                    "Stop whoever changes it, and start again."
                )
            parts.append(part)
            num_read += len(part)
        return b"".join(parts)

    def give_up(self, num_bytes: int) -> None:
        """Leaves out the last bytes from here on: the next line is written in their place.

        Until then they stay, so that a process that dies in between leaves a torn end as it was.
        """
        self._size -= num_bytes
        self._num_given_up = num_bytes

    def append(self, line: bytes, *, on_written: Callable[[], None]) -> None:
        """Adds a line; it is on disk when this returns, if the ledger is durable.

        Args:
            on_written: called after the line is written, and before it is synced.

        Raises:
            SiteConfigError: the file is not as this process left it, or a line was lost before.
            OSError: the line could not be written or synced.
        """
        if not (self._is_usable and self._is_as_left()):
            raise SiteConfigError(
                f"Expected the ledger as this process left it, found another ({self._path}). "
                "Start the site again: it then checks what there is."
            )
        self._is_usable = False
        if os.pwrite(self._descriptor, line, self._size) != len(line):
            raise OSError("the disk took a part of a line")
        on_written()
        if self._num_given_up:
            os.ftruncate(self._descriptor, self._size + len(line))
            self._num_given_up = 0
        if self.durable:
            os.fsync(self._descriptor)
        self._size += len(line)
        self._is_usable = True

    def close(self) -> None:
        """Closes the file and gives the lock back; closing twice is once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._is_usable = -1, False

    def _is_as_left(self) -> bool:
        ours = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except OSError:
            return False
        size = self._size + self._num_given_up
        return (there.st_dev, there.st_ino, there.st_size) == (ours.st_dev, ours.st_ino, size)
