"""The hospitals' receipts: heads of their ledgers, countersigned and sent back with each task."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import MessageError, RunError
from common.files import write_atomically
from common.receipts import Countersigned, Receipt
from common.signing import SigningKey, countersign, is_countersigned
from server.journal import Event


def _nobody(site: str) -> None:
    """No site's key is known."""


class Receipts:
    """The newest countersigned head of every site's ledger.

    Guarantees:
        - A site is known by its key in the roster; where there is none, by the key of its first
          receipt; and by no other.
        - A receipt of a ledger that has lost entries is not accepted.
        - With a folder: what was countersigned in one run is on disk before the reply that brought
          it is used, and is the least that the site's ledger must hold in every later run.

    Args:
        key: of the coordinator; None for a run in which nobody has a ledger.
        folder: of the coordinator's, for all its runs; None keeps nothing beyond this one.
        signing_key_of: the key of a site in the roster, None for one that is not in it.

    Raises:
        RunError: what the folder holds is damaged, or is signed by other keys.
    """

    def __init__(
        self,
        key: SigningKey | None,
        *,
        folder: Path | None = None,
        signing_key_of: Callable[[str], str | None] = _nobody,
    ) -> None:
        self._key = key
        self._folder = folder
        self._signing_key_of = signing_key_of
        self._site_keys: dict[str, str] = {}
        self._last: dict[str, Countersigned] = {}
        if folder is not None and key is not None:
            for path in sorted(folder.glob("*.json")):
                self._take_kept(path, key)

    @property
    def are_kept(self) -> bool:
        """Whether there is a key to countersign with."""
        return self._key is not None

    def resume(self, journal: Iterable[Event]) -> None:
        """Takes up the receipts of the journal of a run that goes on."""
        for event in journal:
            told = event.get("receipt")
            if event["event"] != "reply" or not isinstance(told, Mapping) or not self.are_kept:
                continue
            receipt, last = Receipt(**told), self._last.get(event["site"])
            # Another run may have been told of a later head since.
            if last is None or receipt.seq > last.seq:
                self.accept(event["site"], receipt)

    def accept(self, site: str, receipt: Receipt | None) -> None:
        """Countersigns the head of a receipt.

        Raises:
            MessageError: there is none, it is signed by another key than the site's or by none, or
                the ledger is behind what was countersigned.
            OSError: the head could not be kept.
        """
        if receipt is None or self._key is None:
            raise MessageError("Expected a receipt of the site's ledger, found none.")
        key = self._signing_key_of(site) or self._site_keys.get(site, receipt.key)
        last = self._last.get(site)
        head = countersign(receipt, self._key, site_key=key, last=last)
        if self._folder is not None and head != last:
            content = json.dumps({"site_key": key, "head": asdict(head)}, indent=1)
            write_atomically(self._folder / f"{site}.json", content.encode(), durable=True)
        # Only now: a false receipt must not keep the site itself out.
        self._last[site] = head
        self._site_keys[site] = key

    def last(self, site: str) -> Countersigned | None:
        """The newest head that both sides have signed; None for a site without one."""
        return self._last.get(site)

    def _take_kept(self, path: Path, key: SigningKey) -> None:
        """Takes up the head that an earlier run has left."""
        site = path.stem
        try:
            kept: dict[str, Any] = json.loads(path.read_bytes())
            head, site_key = Countersigned(**kept["head"]), str(kept["site_key"])
            is_ours = head.key == key.public_key and is_countersigned(head, site_key=site_key)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            is_ours = False
        if not is_ours:
            raise RunError(
                f"Expected the newest head of the ledger of '{site}', signed by it and by this "
                f"coordinator, found other content ({path}). Restore it from a backup: without it, "
                "a ledger that was set back would not be noticed."
            )
        if self._signing_key_of(site) not in (None, site_key):
            raise RunError(
                f"Expected the ledger of '{site}' under the key by which it was last seen, found "
                f"another key in the roster ({path}). A ledger under a new key has forgotten what "
                "was spent: ask the hospital, and if it has to be so, move that file away."
            )
        self._last[site], self._site_keys[site] = head, site_key
