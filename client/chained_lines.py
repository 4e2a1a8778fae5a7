r"""Lines that hang together: each holds the digest of the whole line before it.

The audit log and the record of accepted studies are such files. A line is the canonical JSON of
what it tells, with its digest, and the site's signature where there is a key, put at the end:

    {"at":…,"previous":…,"seq":7,…,"digest":"…","signature":"…"}\n

so that every byte is covered: the content by the digest, digest and signature by the `previous` of
the next line, the last line by its signature. The file is only ever added to. Must not import
torch or flwr: commands read it without them.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.signing import Purpose, SigningKey, canonical_bytes, verify

FIRST = "0" * 64
_LINE = re.compile(rb'(\{.*),"digest":"([0-9a-f]{64})"(?:,"signature":"([0-9a-f]{128})")?\}', re.S)
_OURS = frozenset({"seq", "previous", "torn", "digest", "signature"})


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line.

    Attributes:
        seq: its number, from 0.
        previous: SHA-256 of the whole line before; `FIRST` for the first.
        torn: digest and number of the bytes that stand before this line and are none, because a
            power cut or a full disk ended them; None if there are none.
        fields: what the line tells.
        digest: SHA-256 of all the above.
        signature: of seq and digest, by the site; None if it has no key.
        link: what the next line names as its `previous`.
    """

    seq: int
    previous: str
    torn: Mapping[str, Any] | None
    fields: Mapping[str, Any]
    digest: str
    signature: str | None
    link: str

    def is_signed(self, public_key: str, purpose: Purpose) -> bool:
        """Whether the owner of `public_key` has signed this line, and so all before it."""
        head = _head(self.seq, self.digest)
        return verify(public_key, head, self.signature or "", purpose=purpose)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What a file of such lines holds.

    Attributes:
        lines: up to the first fault.
        torn: the bytes after the last newline.
        faults: why the rest cannot be trusted; a torn end is told apart.
    """

    lines: tuple[Line, ...]
    torn: bytes
    faults: tuple[str, ...]

    @property
    def num_repairs(self) -> int:
        """How many torn lines there are that the next one tells of."""
        return sum(line.torn is not None for line in self.lines)

    def faults_and_torn_end(self) -> tuple[str, ...]:
        """The faults, a torn end among them."""
        if not self.torn:
            return self.faults
        text = f"the last line is torn after {len(self.torn)} bytes (a power cut, a full disk?)"
        return (*self.faults, text)


def write_line(
    fields: Mapping[str, Any],
    *,
    after: Line | None,
    torn: bytes,
    purpose: Purpose,
    key: SigningKey | None,
) -> tuple[bytes, Line]:
    """The bytes of the next line, with its newline, and what they say.

    Args:
        torn: what stands between the line `after` and this one.

    Raises:
        ValueError: a field has no form in JSON, or the name of one that each line has.
    """
    if not _OURS.isdisjoint(fields):
        raise ValueError(f"expected fields of other names than {', '.join(sorted(_OURS))}")
    seq, previous = (0, FIRST) if after is None else (after.seq + 1, after.link)
    told = _told(torn) if torn else None
    content = {**fields, "seq": seq, "previous": previous, **({"torn": told} if told else {})}
    tagged = canonical_bytes(content, purpose=purpose)
    digest = hashlib.sha256(tagged).hexdigest()
    signature = None if key is None else key.sign(_head(seq, digest), purpose=purpose)
    end = f',"digest":"{digest}"' + (f',"signature":"{signature}"' if signature else "")
    _, _, body = tagged.partition(b"\n")
    piece = body[:-1] + end.encode() + b"}"
    line = Line(
        seq=seq,
        previous=previous,
        torn=told,
        fields=fields,
        digest=digest,
        signature=signature,
        link=hashlib.sha256(piece).hexdigest(),
    )
    return piece + b"\n", line


def read_line(piece: bytes, purpose: Purpose) -> Line | None:
    """The line of these bytes, without newline; None unless they are exactly one that was written.

    Whether it follows the one before, `read_lines` says.
    """
    match = _LINE.fullmatch(piece)
    if match is None:
        return None
    body, digest, signature = match[1] + b"}", match[2].decode(), match[3]
    if hashlib.sha256(f"wardround/{purpose}\n".encode() + body).hexdigest() != digest:
        return None
    try:
        fields = json.loads(body)
        seq, previous, torn = fields.pop("seq"), fields.pop("previous"), fields.pop("torn", None)
    except (ValueError, KeyError, RecursionError):
        return None
    if type(seq) is not int or not isinstance(torn, dict | None):
        return None
    return Line(
        seq=seq,
        previous=previous,
        torn=torn,
        fields=fields,
        digest=digest,
        signature=None if signature is None else signature.decode(),
        link=hashlib.sha256(piece).hexdigest(),
    )


def read_lines(
    content: bytes,
    *,
    purpose: Purpose,
    public_key: str | None = None,
    after: Line | None = None,
) -> Lines:
    """The lines of a file, and what is wrong with it.

    Guarantees:
        - One changed byte anywhere, the last newline apart, is a fault.
        - A line that was dropped, repeated, moved or put in is a fault.
        - With a public key, a last line that its owner has not signed is a fault.

    Edge cases:
        | the file ends | then |
        |---|---|
        | within a line | the bytes after the last newline are `torn` |
        | after a line that was once followed by others | nothing is wrong with what is left: only
          what is known from elsewhere tells (`client.audit_view`) |

    Args:
        public_key: of the site; without it a file that somebody wrote anew from a line on is whole.
        after: the line that `content` follows.
    """
    *pieces, end = content.split(b"\n")
    lines: list[Line] = []
    between: list[bytes] = []
    last = after
    for number, piece in enumerate(pieces, start=1):
        line = read_line(piece, purpose)
        if line is None:
            between.append(piece)
            continue
        if not _follows(line, last, between):
            text = f"line {number} of {len(pieces)} does not follow the one before"
            return Lines(lines=tuple(lines), torn=end, faults=(text,))
        lines.append(line)
        last, between = line, []
    if between:
        text = f"line {len(pieces) - len(between) + 1} of {len(pieces)} is damaged"
        return Lines(lines=tuple(lines), torn=end, faults=(text,))
    faults: tuple[str, ...] = ()
    if public_key is not None and lines and not lines[-1].is_signed(public_key, purpose):
        faults = ("the last line is not signed by the site's key",)
    return Lines(lines=tuple(lines), torn=end, faults=faults)


def _follows(line: Line, last: Line | None, between: list[bytes]) -> bool:
    expected = (0, FIRST) if last is None else (last.seq + 1, last.link)
    told = _told(b"\n".join(between)) if between else None
    return (line.seq, line.previous) == expected and line.torn == told


def _head(seq: int, digest: str) -> dict[str, Any]:
    """What a signature is of."""
    return {"seq": seq, "digest": digest}


def _told(torn: bytes) -> dict[str, Any]:
    """What a line tells of torn bytes before it."""
    return {"num_bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
