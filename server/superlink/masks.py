"""The masks under which models are sent, so that nobody can name their pieces beforehand.

Flower names an object by its digest and keeps the parts that it was first announced with. A
hospital that knows a model before it is sent (from its public start, or from before the run was
killed) could announce its pieces with other parts, and the SuperLink would take the coordinator's
no more, for anybody.
"""

import secrets
from collections.abc import Sequence

from common.parcels import MASK_BYTES


class Masks:
    """One mask for each exchange, so that its messages share one model.

    Guarantees:
        - Under one mask a node gets one message: what it has learnt from that is of no use for
          another exchange.
        - Messages with the same arrays under the same mask hold one copy of them.
    """

    def __init__(self) -> None:
        self._mask = b""
        self._served: set[int] = set()
        self._before: list[bytes] = []

    def renew(self) -> None:
        """Makes the next mask another one, whoever gets it."""
        self._mask = b""

    def shared(self, masked: Sequence[bytes]) -> list[bytes]:
        """The masked arrays of a message: where they are equal, those of the message before.

        The messages of an exchange are kept until it is over: with the same mask they are one
        model, not one for each hospital.
        """
        before = [*self._before, *masked][: len(masked)]
        pairs = zip(masked, before, strict=True)
        self._before = [old if old == new else new for new, old in pairs]
        return self._before

    def mask_for(self, node_id: int) -> bytes:
        """The mask of the next message to a node."""
        if not self._mask or node_id in self._served:
            self._mask, self._served = secrets.token_bytes(MASK_BYTES), set()
        self._served.add(node_id)
        return self._mask
