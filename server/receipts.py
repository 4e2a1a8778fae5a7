"""The hospitals' receipts: heads of their ledgers, countersigned and sent back with each task."""

from collections.abc import Iterable, Mapping

from common.errors import MessageError
from common.receipts import Countersigned, Receipt
from common.signing import SigningKey, countersign
from server.journal import Event


class Receipts:
    """The newest countersigned head of every site's ledger in one run.

    Guarantees:
        - A site is known by the key of its first receipt in the run, and by no other.
        - A receipt of a ledger that has lost entries is not accepted.

    Args:
        key: of the coordinator.
    """

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self._site_keys: dict[str, str] = {}
        self._last: dict[str, Countersigned] = {}

    def resume(self, journal: Iterable[Event]) -> None:
        """Takes up the receipts of the journal of a run that goes on."""
        for event in journal:
            told = event.get("receipt")
            if event["event"] == "reply" and isinstance(told, Mapping):
                self.accept(event["site"], Receipt(**told))

    def accept(self, site: str, receipt: Receipt | None) -> None:
        """Countersigns the head of a receipt.

        Raises:
            MessageError: there is none, it is signed by another key than before or by none, or the
                ledger is behind what was countersigned.
        """
        if receipt is None:
            raise MessageError("Expected a receipt of the site's ledger, found none.")
        key = self._site_keys.get(site, receipt.key)
        last = self._last.get(site)
        self._last[site] = countersign(receipt, self._key, site_key=key, last=last)
        # Only now: a false receipt must not keep the site itself out.
        self._site_keys[site] = key

    def last(self, site: str) -> Countersigned | None:
        """The newest head that both sides have signed; None for a site without one."""
        return self._last.get(site)
