"""Which hospitals are silent: nothing was heard of their node for a while.

A connector beats every 4 s. Flower itself counts a node as gone 20 s after its last heartbeat; the
time of that heartbeat is known here, so a dead one is found after 12 s and at most one more look.
All times are the SuperLink's own: no two clocks are compared.
"""

import time
from collections.abc import Callable, Collection
from datetime import datetime

from common.errors import RunError
from server.superlink.control import SILENT_AFTER_S, Seen

_LOOK_EVERY_S = 2.0


class ListedPresence:
    """Presence by the SuperLink's list of nodes, looked at every 2 s at the most.

    Guarantees:
        - A node is silent from 12 s after its last heartbeat, and at once when it has left; one
          that announces fewer heartbeats (a stock SuperNode: every 30 s) as many times later.
        - After a time in which the SuperLink could not be heard either, all nodes are given 12 s
          to be heard of again, however short it was.

    Args:
        nodes: asks the SuperLink; raises `RunError` where it does not answer.
    """

    def __init__(
        self,
        nodes: Callable[[], tuple[tuple[Seen, ...], datetime]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes = nodes
        self._clock = clock
        self._looked_at: float | None = None
        self._watching_since: float | None = None
        self._awake: frozenset[int] | None = None

    def silent(self, node_ids: Collection[int]) -> frozenset[int]:
        """Those of `node_ids` that are silent; none where that cannot be told."""
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= _LOOK_EVERY_S:
            self._look(now)
        return frozenset() if self._awake is None else frozenset(node_ids) - self._awake

    def start_again(self) -> None:
        """Gives all nodes 12 s to be heard of: the SuperLink was away, and is back."""
        self._looked_at = self._watching_since = self._awake = None

    def _look(self, now: float) -> None:
        # Unwatched for longer than three looks, the SuperLink may have been away.
        is_gap = self._looked_at is None or now - self._looked_at > 3 * _LOOK_EVERY_S
        self._looked_at = now
        self._awake = None
        try:
            nodes, _ = self._nodes()
        except RunError:
            self._watching_since = None
            return
        if self._watching_since is None or is_gap:
            self._watching_since = now
        if now - self._watching_since >= SILENT_AFTER_S:
            self._awake = frozenset(n.node_id for n in nodes if not n.is_silent)
