"""The connector's heartbeat, beside its loop."""

import logging
import threading
import time

from client.node_faults import NotRecognised, Rejected, Unreachable
from client.node_fleet import Fleet

logger = logging.getLogger(__name__)

# The coordinator counts a site as silent after 12 s without a heartbeat; Flower a node as gone
# after twice the interval that `Fleet.beat` announces.
_BEAT_S = 4.0
_STALL_S = 60.0


class Beating(threading.Thread):
    """The heartbeat, in a thread of its own: a site trains for hours, a piece uploads for minutes.

    A beat that is lost is sent again on a new connection; the loop is told when the SuperLink does
    not know the node any more, or none has come through for too long.
    """

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._fleet = fleet
        self._end = threading.Event()
        self._last = time.monotonic()
        self._fault: Exception | None = None

    def run(self) -> None:
        """Beats until it is ended."""
        while not self._end.wait(_BEAT_S):
            try:
                self._fleet.beat()
                self._last = time.monotonic()
            except Unreachable as fault:
                logger.debug("a heartbeat is lost: %s", fault)
            except (NotRecognised, Rejected) as fault:
                self._fault = fault
                return

    def check(self) -> None:
        """Raises what the loop has to know."""
        if self._fault is not None:
            raise self._fault
        if time.monotonic() - self._last > _STALL_S:
            raise Unreachable(f"no heartbeat for {_STALL_S:.0f} s")

    def end(self) -> None:
        """Stops; a beat that is on its way ends by its own timeout."""
        self._end.set()
