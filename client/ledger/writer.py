"""One entry after the other, at the end of the file alone."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from client.ledger.books import Books
from client.ledger.entries import FIRST, Chain, Entry, Kind
from client.ledger.file import LedgerFile
from common.receipts import Countersigned
from common.signing import SigningKey


class Writer:
    """Appends entries to the chain, and to the books once they are on disk."""

    def __init__(
        self,
        file: LedgerFile,
        entries: Sequence[Entry],
        books: Books,
        *,
        key: SigningKey,
        clock: Callable[[], datetime],
        at: Callable[[str], None],
    ) -> None:
        self._file = file
        self.books = books
        self._entries = list(entries)
        self._clock = clock
        self.key = key
        self.at = at

    def write(self, kind: Kind, fields: Mapping[str, Any]) -> None:
        """Appends an entry. Raises SiteConfigError and OSError as `LedgerFile.append`."""
        entry = Entry.make(
            seq=len(self._entries),
            at=self._clock().astimezone(UTC).isoformat(timespec="microseconds"),
            kind=kind,
            fields=fields,
            previous=self._entries[-1].link if self._entries else FIRST,
            key=self.key,
        )
        self.at(f"before {kind}")
        self._file.append(entry.to_line(), on_written=lambda: self.at(f"wrote {kind}"))
        self._entries.append(entry)
        self.books.add(entry)
        self.at(f"after {kind}")

    def begin(self, chain: Chain, identity: Mapping[str, Any]) -> None:
        """Writes the first entry of a new ledger, and the repair of one with a torn end.

        The torn bytes stay until an entry stands in their place.
        """
        self._file.give_up(len(chain.torn))
        if not chain.entries:
            self.write(Kind.OPENED, identity)
        if chain.torn:
            dropped = hashlib.sha256(chain.torn).hexdigest()
            fields = {"dropped_bytes": len(chain.torn), "dropped_sha256": dropped}
            self.write(Kind.REPAIRED, fields)

    @property
    def durable(self) -> bool:
        """Whether what is written must be on disk."""
        return self._file.durable

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @property
    def last(self) -> Entry:
        """The last entry."""
        return self._entries[-1]

    def holds(self, head: Countersigned) -> bool:
        """Whether the chain has this head."""
        return head.seq < len(self._entries) and self._entries[head.seq].digest == head.digest
