"""Text files that are read as a stream, plain or gzip: never the whole file in memory.

What a file is, is told by its first bytes and not by its name. Nothing here decodes text, so that a
file in any encoding can be walked through.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, cast

from client.findings import Finding, error

PIECE_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 26  # half a million samples of a VCF with room to spare

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BrokenFileError(Exception):
    """The stream ends early, is no valid gzip, or holds a line longer than MAX_LINE_BYTES."""


def pieces_of(path: Path, size: int = PIECE_BYTES) -> Iterator[bytes]:
    """The lines of a file with their ends; one longer than `size` bytes comes in several pieces.

    Raises:
        BrokenFileError: the file cannot be read to its end.
    """
    try:
        with path.open("rb") as plain, closing(_unpacked(plain)) as file:
            piece = file.readline(size).removeprefix(_BYTE_ORDER_MARK)
            while piece:
                yield piece
                piece = file.readline(size)
    except (OSError, EOFError, zlib.error) as fault:
        raise BrokenFileError(type(fault).__name__) from None


def lines_of(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """The lines of a file without their ends.

    Raises:
        BrokenFileError: the file cannot be read to its end, or a line is longer than `limit`.
    """
    for piece in pieces_of(path, limit):
        if len(piece) >= limit:
            raise BrokenFileError("a line without an end")
        yield piece.rstrip(b"\r\n")


def absent_file(where: str) -> Finding:
    """The finding for a file that is not there."""
    return error(where, "a file", "none", "Add it, or name it in site.toml.")


def broken_file(where: str, expected: str) -> Finding:
    """The finding for a BrokenFileError."""
    found = "one that ends early or is damaged"
    return error(where, expected, found, "Copy or export it again.")


def _unpacked(file: BinaryIO) -> BinaryIO:
    is_gzip = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzip else file
