"""The entries of a ledger, and their one form as lines of a file.

A line is canonical JSON, so that every byte of it is told by what it says. Each entry holds its own
digest, the digest of the whole line before it, and the site's signature on the head that it makes.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from common.signing import Purpose, SigningKey, canonical_json, digest_of, is_head_signed, sign_head

FORMAT = 1
FIRST = "0" * 64
_FIELDS = {"seq", "at", "kind", "fields", "previous", "digest", "signature"}


class Kind(StrEnum):
    """What an entry tells."""

    OPENED = "opened"
    COHORT_DECIDED = "cohort_decided"
    REPAIRED = "repaired"
    DATA_CHANGED = "data_changed"
    RESERVED = "reserved"
    SEALED = "sealed"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    ANSWERED = "answered"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Who asks for what: a task, as the ledger tells of it.

    Attributes:
        kind: "query" (enrol), "train" or "evaluate".
        study: the name of the study, for people.
        arrays_digest: of the arrays that the task brought, 64 hex digits; "" if it brought none.
    """

    run_id: str
    kind: str
    round: int
    study_hash: str
    study: str
    arrays_digest: str

    @property
    def key(self) -> tuple[str, str, int]:
        """What may be released once: the run, the kind and the round."""
        return (self.run_id, self.kind, self.round)

    def to_json(self) -> dict[str, Any]:
        """The request as plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a ledger.

    Attributes:
        seq: its number, from 0.
        at: when it was written, UTC, ISO 8601.
        previous: SHA-256 of the whole line before, signature included; `FIRST` for the first.
        digest: SHA-256 of all the above and the fields.
        signature: by the site, over seq and digest: a signed head of the ledger.
    """

    seq: int
    at: str
    kind: str
    fields: Mapping[str, Any]
    previous: str
    digest: str
    signature: str

    @classmethod
    def make(
        cls,
        *,
        seq: int,
        at: str,
        kind: Kind,
        fields: Mapping[str, Any],
        previous: str,
        key: SigningKey,
    ) -> "Entry":
        """The entry with its digest and its signature."""
        content = {"seq": seq, "at": at, "kind": kind, "fields": fields, "previous": previous}
        digest = digest_of(content, purpose=Purpose.LEDGER_ENTRY)
        signature = sign_head(seq, digest, key)
        return cls(**content, digest=digest, signature=signature)  # type: ignore[arg-type]

    def to_line(self) -> bytes:
        """The entry as it stands in the file, with its newline."""
        return canonical_json({name: getattr(self, name) for name in _FIELDS}) + b"\n"

    @property
    def link(self) -> str:
        """What the next entry names as its `previous`."""
        return hashlib.sha256(self.to_line()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What a ledger's file holds.

    Attributes:
        entries: up to the first fault.
        torn: the bytes after the last newline: what a power cut has left of an entry.
        faults: why the rest cannot be trusted; without the torn end, which is told apart.
    """

    entries: tuple[Entry, ...]
    torn: bytes
    faults: tuple[str, ...]

    def holds(self, seq: int, digest: str) -> bool:
        """Whether the entry `seq` is there and has this digest."""
        return 0 <= seq < len(self.entries) and self.entries[seq].digest == digest


def read_chain(content: bytes) -> Chain:
    """The entries of a ledger's file, and what is wrong with it.

    Guarantees:
        - One changed byte anywhere, the last newline apart, is a fault.
        - An entry that was dropped, repeated or moved is a fault.
        - Entries that the site's key has not signed are a fault.

    Edge cases:
        | the file ends | then |
        |---|---|
        | within a line | the bytes after the last newline are `torn` |
        | after an entry that was once followed by others | nothing is wrong with what is left: only
          a head that was countersigned tells (`client.ledger.verification`) |
    """
    *lines, torn = content.split(b"\n")
    entries: list[Entry] = []
    for seq, line in enumerate(lines):
        entry = _parsed(line)
        fault = "is damaged" if entry is None else _fault(entry, entries[-1] if entries else None)
        if entry is None or fault:
            text = f"entry {seq} of {len(lines)} {fault}"
            return Chain(entries=tuple(entries), torn=torn, faults=(text,))
        entries.append(entry)
    faults: tuple[str, ...] = ()
    if entries and not _is_signed(entries[-1], entries[0]):
        faults = ("the last entry is not signed by the key of the first",)
    return Chain(entries=tuple(entries), torn=torn, faults=faults)


def _parsed(line: bytes) -> Entry | None:
    """The entry of a line; None unless the line is exactly what an entry is written as."""
    try:
        table = json.loads(line)
        if not isinstance(table, dict) or set(table) != _FIELDS or type(table["seq"]) is not int:
            return None
        entry = Entry(**table)
        texts = (entry.at, entry.kind, entry.previous, entry.digest, entry.signature)
        if not isinstance(entry.fields, dict) or not all(isinstance(t, str) for t in texts):
            return None
        return entry if entry.to_line() == line + b"\n" else None
    except (ValueError, RecursionError):
        return None


def _fault(entry: Entry, before: Entry | None) -> str:
    expected = (0, FIRST) if before is None else (before.seq + 1, before.link)
    if (entry.seq, entry.previous) != expected:
        return "does not follow the one before"
    if (before is None) != (entry.kind == Kind.OPENED):
        return 'is not what it should be: "opened" stands first, and nowhere else'
    content = {name: getattr(entry, name) for name in ("seq", "at", "kind", "fields", "previous")}
    if entry.digest != digest_of(content, purpose=Purpose.LEDGER_ENTRY):
        return "has another digest than it says"
    return ""


def _is_signed(last: Entry, first: Entry) -> bool:
    # The digest of the last covers everything before it, the signatures of earlier ones included.
    key = first.fields.get("public_key")
    return isinstance(key, str) and is_head_signed(last.seq, last.digest, last.signature, key)


def ledger_path(state_dir: Path, dataset_id: str) -> Path:
    """Where the ledger of a data set is: state_dir/ledger/NAME-DIGEST.jsonl."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", dataset_id)[:40]
    digest = hashlib.sha256(dataset_id.encode()).hexdigest()[:12]
    return state_dir / "ledger" / f"{name}-{digest}.jsonl"


def sealed_folder(state_dir: Path, dataset_id: str) -> Path:
    """Where the sealed answers of a data set are: state_dir/sealed/NAME-DIGEST/."""
    return state_dir / "sealed" / ledger_path(state_dir, dataset_id).stem
