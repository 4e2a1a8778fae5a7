"""The sealed answers of a data set: files that are written once, and sent as they are."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from client.ledger.books import Seal
from common.files import write_atomically


class SealedAnswers:
    """The files of sealed answers in one folder.

    Guarantees:
        - A file is whole or absent, and its owner alone can read it.
        - Bytes that are not those that were sealed are not given out.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder
        self._durable = durable

    def put(self, name: str, payload: bytes) -> str:
        """Writes `payload` under `name`, and returns its digest."""
        write_atomically(self._folder / name, payload, durable=self._durable, mode=0o600)
        return hashlib.sha256(payload).hexdigest()

    def get(self, seal: Seal) -> bytes | None:
        """What was sealed; None if the file is not there as it was."""
        try:
            payload = (self._folder / seal.file).read_bytes()
        except FileNotFoundError:
            return None
        return payload if hashlib.sha256(payload).hexdigest() == seal.digest else None

    def remove(self, names: Iterable[str]) -> None:
        """Removes these files, as far as they are there."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def is_changed(self, seal: Seal) -> bool:
        """Whether the file is there and holds other bytes than were sealed."""
        return (self._folder / seal.file).is_file() and self.get(seal) is None

    def beyond(self, known: Iterable[str]) -> list[str]:
        """The names of sealed answers in the folder that are not `known`."""
        return sorted({path.name for path in self._folder.glob("*.sealed")} - set(known))
