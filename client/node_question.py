"""How a connector asks the site process: with patience while it restarts, and living meanwhile."""

import threading
import time
from collections.abc import Callable

from client.agent_client import SiteConnection
from common.errors import SiteProcessError

_TURN_S = 0.5
_AGAIN_S = 0.25
_WORKING_S = 1.0
_MAX_BREAKS = 2


def answer_of(
    site: SiteConnection,
    asked: bytes,
    kind: str,
    *,
    patience_s: float,
    stop: threading.Event,
    on_turn: Callable[[], None],
) -> bytes | None:
    """The site's answer, asked for again while it restarts; None where `stop` comes first.

    Args:
        patience_s: how long the site may be away.
        on_turn: called about twice a second.

    Raises:
        SiteProcessError: patience is at its end, or the site does not take this.
    """
    last_seen, num_breaks = time.monotonic(), 0
    while True:
        question = _Question(site, asked, kind)
        question.start()
        while not question.done.wait(_TURN_S):
            on_turn()
            if stop.is_set():
                return None
        if question.fault is None:
            return question.answer
        # A site that broke at its work is given time to come back, but not for ever the same
        # message, of which it may have died.
        if question.seconds > _WORKING_S and num_breaks < _MAX_BREAKS:
            last_seen, num_breaks = time.monotonic(), num_breaks + 1
        waited_s = time.monotonic() - last_seen
        if not question.fault.may_retry or waited_s > patience_s:
            raise question.fault
        on_turn()
        if stop.wait(_AGAIN_S):
            return None


class _Question(threading.Thread):
    """One question to the site, in a thread of its own: the connector goes on living meanwhile."""

    def __init__(self, site: SiteConnection, asked: bytes, kind: str) -> None:
        super().__init__(name="site", daemon=True)
        self._site, self._asked, self._kind = site, asked, kind
        self.done = threading.Event()
        self.answer: bytes | None = None
        self.fault: SiteProcessError | None = SiteProcessError(
            "Expected an answer, found a fault of the connector.", may_retry=False
        )
        self.seconds = 0.0

    def run(self) -> None:
        """Asks."""
        started = time.monotonic()
        try:
            self.answer = self._site.answer(self._asked, self._kind)
            self.fault = None
        except SiteProcessError as fault:
            self.fault = fault
        finally:
            self.seconds = time.monotonic() - started
            self.done.set()
