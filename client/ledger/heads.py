"""The heads of a ledger: what a hospital signs with every reply, and what comes back countersigned.

A head that both sides have signed can never be missing from the ledger afterwards: it is how a
ledger that was cut, or set back, is noticed. Must not import torch.
"""

from dataclasses import asdict
from pathlib import Path

from client.ledger.entries import Kind
from client.ledger.writer import Writer
from common.errors import Refusal, RefusalCode
from common.files import write_atomically
from common.receipts import Countersigned, Receipt
from common.signing import canonical_json, is_countersigned


class Heads:
    """The heads of one open ledger.

    Args:
        path: where the newest countersigned head is kept, beside the ledger.
    """

    def __init__(self, writer: Writer, path: Path) -> None:
        self._writer = writer
        self._path = path

    def receipt(self) -> Receipt:
        """The signed head of the ledger: what a reply tells the coordinator."""
        last = self._writer.last
        return Receipt(
            seq=last.seq,
            digest=last.digest,
            key=self._writer.key.public_key,
            signature=last.signature,
        )

    def accept(self, head: Countersigned, *, coordinator_key: str | None) -> None:
        """Takes a countersigned head, and writes its acknowledgement; as `Ledger.accept`."""
        self._check_signed(head, coordinator_key)
        self._check_held(head)
        acknowledged = self._writer.books.acknowledged
        if head in acknowledged:
            return
        self._writer.write(Kind.ACKNOWLEDGED, {"head": asdict(head)})
        newest = max(acknowledged, key=lambda one: one.seq)
        content = canonical_json(asdict(newest))
        write_atomically(self._path, content, durable=self._writer.durable, mode=0o600)

    def _check_signed(self, head: Countersigned, coordinator_key: str | None) -> None:
        """The head of the ledger that a task brings is signed by this hospital and the coordinator.

        Threat: I-2. Refuses: MESSAGE_MALFORMED.
        """
        is_known = coordinator_key in (None, head.key)
        if not is_known or not is_countersigned(head, site_key=self._writer.key.public_key):
            raise Refusal(
                RefusalCode.MESSAGE_MALFORMED,
                "Expected a head of this ledger with both signatures, found a false one.",
            )

    def _check_held(self, head: Countersigned) -> None:
        """The ledger holds what both sides have signed: an older copy of it is not worked with.

        Threat: I-2. Refuses: LEDGER_BEHIND.
        """
        if not self._writer.holds(head):
            raise Refusal(
                RefusalCode.LEDGER_BEHIND,
                f"Expected entry {head.seq}, which both sides signed, in the ledger, found it "
                "lacking or another. This is an older copy: restore the newest one.",
            )
