"""Edits that somebody might make to a file of chained lines, by name."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from client.chained_lines import read_lines, write_line
from common.signing import Purpose, SigningKey


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file with a past.

    Attributes:
        key: of the site; what is written with it alone cannot be told from the truth.
        older: all its older copies, each whole.
    """

    purpose: Purpose
    key: SigningKey
    content: bytes
    older: Sequence[bytes]


Edit = Callable[[Target, random.Random], bytes]


def flipped(target: Target, source: random.Random) -> bytes:
    damaged = bytearray(target.content)
    for at in source.sample(range(len(damaged)), source.randint(1, 4)):
        damaged[at] ^= 1 << source.randrange(8)
    return bytes(damaged)


def one_bit_of_a_newline(target: Target, source: random.Random) -> bytes:
    places = [at for at, byte in enumerate(target.content) if byte == ord("\n")]
    damaged = bytearray(target.content)
    damaged[source.choice(places)] ^= 1 << source.randrange(8)
    return bytes(damaged)


def overwritten(target: Target, source: random.Random) -> bytes:
    at, width = source.randrange(len(target.content)), source.choice([1, 8, 512])
    content = target.content
    return content[:at] + bytes([source.choice([0, 10, 32, 255])]) * width + content[at + width :]


def spaced(target: Target, source: random.Random) -> bytes:
    """The same JSON in other bytes."""
    lines = target.content.splitlines()
    at = source.choice([i for i, line in enumerate(lines) if line.endswith(b"}")])
    lines[at] = json.dumps(json.loads(lines[at])).encode()
    return b"\n".join(lines) + b"\n"


def put_in(target: Target, source: random.Random) -> bytes:
    lines = target.content.splitlines(keepends=True)
    lines.insert(source.randrange(len(lines) + 1), source.choice([b"\n", b"{}\n", b"x\n"]))
    return b"".join(lines)


def dropped(target: Target, source: random.Random) -> bytes:
    lines = target.content.splitlines(keepends=True)
    del lines[source.randrange(len(lines) - 1)]
    return b"".join(lines)


def repeated(target: Target, source: random.Random) -> bytes:
    lines = target.content.splitlines(keepends=True)
    at = source.randrange(len(lines))
    lines.insert(source.choice([at, len(lines)]), lines[at])
    return b"".join(lines)


def reordered(target: Target, source: random.Random) -> bytes:
    lines = target.content.splitlines(keepends=True)
    one, other = source.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def cut_in_a_line(target: Target, source: random.Random) -> bytes:
    ends = {at + 1 for at, byte in enumerate(target.content) if byte == ord("\n")}
    return target.content[
        : source.choice([at for at in range(1, len(target.content)) if at not in ends])
    ]


def cut_at_a_line(target: Target, source: random.Random) -> bytes:
    return source.choice(target.older)


def rewritten_without_the_key(target: Target, source: random.Random) -> bytes:
    """One changed line, and from there on right digests, with the signatures that there are."""
    return _rewritten(target, source, signer=None)


def one_line_rewritten(target: Target, source: random.Random) -> bytes:
    """A changed line with a right digest, before others that are as they were."""
    lines = read_lines(target.content, purpose=target.purpose).lines
    at = source.randrange(1, len(lines) - 1)
    old, fields = lines[at], json.loads(json.dumps(lines[at].fields))
    fields["at"] = "2020-01-01T00:00:00+00:00"
    signer = source.choice([None, SigningKey.generate(), target.key])
    piece, _ = write_line(fields, after=lines[at - 1], torn=b"", purpose=target.purpose, key=signer)
    pieces = target.content.splitlines(keepends=True)
    (place,) = [i for i, p in enumerate(pieces) if old.digest.encode() in p[-220:]]
    return b"".join([*pieces[:place], piece, *pieces[place + 1 :]])


def rewritten_by_another_key(target: Target, source: random.Random) -> bytes:
    return _rewritten(target, source, signer=SigningKey.generate())


def forged_on_from_an_older_copy(target: Target, source: random.Random) -> bytes:
    content = source.choice(target.older)
    last = read_lines(content, purpose=target.purpose).lines[-1]
    signer = source.choice([None, SigningKey.generate()])
    for _ in range(source.randint(1, 12)):
        piece, last = write_line(
            last.fields, after=last, torn=b"", purpose=target.purpose, key=signer
        )
        content += piece
    return content


def _rewritten(target: Target, source: random.Random, *, signer: SigningKey | None) -> bytes:
    old = read_lines(target.content, purpose=target.purpose).lines
    changed, content, last = source.randrange(len(old)), b"", None
    for line in old:
        fields = json.loads(json.dumps(line.fields))
        if line.seq == changed:
            fields["at"] = "2020-01-01T00:00:00+00:00"
        piece, last = write_line(fields, after=last, torn=b"", purpose=target.purpose, key=signer)
        if signer is None and line.signature is not None and source.random() < 0.5:
            piece = piece[:-2] + f',"signature":"{line.signature}"}}\n'.encode()
            last = read_lines(content + piece, purpose=target.purpose).lines[-1]
        content += piece
    return content


# Of these a chain and a public key find all; of `cut_at_a_line` none.
FOUND: tuple[Edit, ...] = (
    flipped,
    one_bit_of_a_newline,
    overwritten,
    spaced,
    put_in,
    dropped,
    repeated,
    reordered,
    cut_in_a_line,
    rewritten_without_the_key,
    one_line_rewritten,
    rewritten_by_another_key,
    forged_on_from_an_older_copy,
)
