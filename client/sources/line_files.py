"""Text files that are read as a stream, plain or gzip: never the whole file in memory.

What a file is, is told by its first bytes and not by its name. Nothing here decodes text, so that a
file in any encoding can be walked through. A packed file may be a bomb: what it may unpack to, and
how long a line may be, is bounded here for every format of text.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from client.findings import Finding, error

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 26  # half a million samples of a VCF with room to spare
# A VCF of many samples packs to a fiftieth. Gzip ends at a thousandth: nothing but repeats.
MAX_UNPACKED_RATIO = 200
SMALLEST_LIMIT_BYTES = 1 << 24  # below, nobody need care

_GZIP = b"\x1f\x8b"
_BUFFER_BYTES = 1 << 17
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BrokenFileError(Exception):
    """The stream ends early, is no valid gzip, or holds a line longer than MAX_LINE_BYTES."""


class BombError(BrokenFileError):
    """A packed file unpacks to more than `unpacked_limit`."""


class LongLineError(BrokenFileError):
    """A line is longer than whoever reads it can use."""


def unpacked_limit(packed_bytes: int) -> int:
    """The bytes that a gzip file of this size may unpack to.

    >>> unpacked_limit(1_000_000)
    200000000
    """
    return max(SMALLEST_LIMIT_BYTES, MAX_UNPACKED_RATIO * packed_bytes)


class BoundedFile(io.RawIOBase):
    """The content of a file, plain or unpacked, with its bounds.

    Guarantees:
        - Of a packed file no more is given than `unpacked_limit`: BombError is raised beyond it.
        - A line longer than `max_line_bytes`, where this is given, ends in LongLineError: whoever
          reads in pieces never holds more than such a line and a piece. (A line that lies within
          one piece is no longer than that, and is not measured.)
    """

    def __init__(self, path: Path, *, is_gzip: bool, max_line_bytes: int | None = None) -> None:
        # Closed by `close`.
        self._file = cast(BinaryIO, gzip.open(path)) if is_gzip else path.open("rb")  # noqa: SIM115
        self._num_left = unpacked_limit(path.stat().st_size) if is_gzip else None
        self._max_line_bytes = max_line_bytes
        self._line_bytes = 0

    def readable(self) -> bool:
        """True: this is what it is for."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fills the buffer as far as there is something; the number of bytes, 0 at the end."""
        piece = self._file.read(len(memoryview(buffer)))
        memoryview(buffer)[: len(piece)] = piece
        if self._num_left is not None:
            self._num_left -= len(piece)
            if self._num_left < 0:
                raise BombError("more than the limit")
        if self._max_line_bytes is not None:
            self._measure(piece, self._max_line_bytes)
        return len(piece)

    def close(self) -> None:
        """Closes the file, too."""
        self._file.close()
        super().close()

    def _measure(self, piece: bytes, max_line_bytes: int) -> None:
        """Goes on with the length of the open line; lines within a piece are no longer than it."""
        piece = piece.replace(b"\r", b"\n")  # which ends a line for some parsers
        first, last = piece.find(b"\n"), piece.rfind(b"\n")
        longest = self._line_bytes + (len(piece) if first < 0 else first)
        if longest > max_line_bytes:
            raise LongLineError("a line without an end")
        self._line_bytes = longest if first < 0 else len(piece) - last - 1


def pieces_of(path: Path, size: int = PIECE_BYTES) -> Iterator[bytes]:
    """The lines of a file with their ends; one longer than `size` bytes comes in several pieces.

    Raises:
        BombError: the file is packed and unpacks to more than `unpacked_limit`.
        BrokenFileError: the file cannot be read to its end.
    """
    try:
        with closing(_unpacked(path)) as file:
            piece = file.readline(size).removeprefix(_BYTE_ORDER_MARK)
            while piece:
                yield piece
                piece = file.readline(size)
    except (OSError, EOFError, zlib.error) as fault:
        raise BrokenFileError(type(fault).__name__) from None


def lines_of(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """The lines of a file without their ends.

    Raises:
        BombError: the file is packed and unpacks to more than `unpacked_limit`.
        BrokenFileError: the file cannot be read to its end, or a line is longer than `limit`.
    """
    for piece in pieces_of(path, limit):
        if len(piece) >= limit:
            raise LongLineError("a line without an end")
        yield piece.rstrip(b"\r\n")


def absent_file(where: str) -> Finding:
    """The finding for a file that is not there."""
    return error(where, "a file", "none", "Add it, or name it in site.toml.")


def broken_file(where: str, expected: str, fault: BrokenFileError) -> Finding:
    """The finding for a file that cannot be read to its end."""
    if isinstance(fault, BombError):
        return bomb(where)
    found = "one that ends early or is damaged"
    return error(where, expected, found, "Copy or export it again.")


def bomb(where: str) -> Finding:
    """The finding for a packed file that unpacks to more than `unpacked_limit`."""
    return error(
        where,
        f"a gzip file that unpacks to at most {MAX_UNPACKED_RATIO} times its size",
        "one that goes on beyond",
        "Export it again; if it is right as it is, unpack it: plain files may have any size.",
    )


def opened(path: Path, *, is_gzip: bool, max_line_bytes: int | None = None) -> io.BufferedReader:
    """A `BoundedFile` with a buffer, to read lines from or to hand to a parser."""
    bounded = BoundedFile(path, is_gzip=is_gzip, max_line_bytes=max_line_bytes)
    return io.BufferedReader(bounded, buffer_size=_BUFFER_BYTES)


def _unpacked(path: Path) -> io.BufferedReader:
    with path.open("rb") as file:
        is_gzip = file.read(len(_GZIP)) == _GZIP
    return opened(path, is_gzip=is_gzip)
