"""Fields of protobuf messages, without the copies that protobuf makes of what is in them.

A message within another is its length and its bytes: what is large is put one after the other.
Must not import torch, flwr or numpy: whoever holds a connection to a site process uses it.
"""

from collections.abc import Iterator
from typing import Any

_LENGTH_DELIMITED = 2


def field(kind: Any, name: str, *parts: bytes) -> Iterator[bytes]:
    """The bytes, in parts, of a field that holds text, bytes or a message made of `parts`.

    Args:
        kind: the class of the message that has the field, as protobuf generates it.

    Source: the encoding of protobuf, protobuf.dev/programming-guides/encoding.
    """
    number = kind.DESCRIPTOR.fields_by_name[name].number
    yield _varint(number << 3 | _LENGTH_DELIMITED)
    yield _varint(sum(map(len, parts)))
    yield from parts


def scalar(kind: Any, name: str, value: bytes) -> Iterator[bytes]:
    """A field of text or bytes, which is left out where it is empty, as protobuf does."""
    if value:
        yield from field(kind, name, value)


def _varint(number: int) -> bytes:
    """A whole number, seven bits a byte, the lowest first.

    >>> _varint(300).hex()
    'ac02'
    """
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
