"""One exchange with many nodes over any Flower grid: send, then take replies as they come.

Flower's own `send_and_receive` polls every three seconds; this loop polls often at first and
slower later, or when the last exchange of the same kind lets it expect replies. Replies are matched
by the message that they answer: the error reply of a dead node carries the SuperLink's id as its
source.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.5


class Presence(Protocol):
    """Who is there."""

    def silent(self, node_ids: Collection[int]) -> frozenset[int]:
        """Those of `node_ids` of which nothing has been heard for long; may be called often."""


@runtime_checkable
class Watched(Protocol):
    """A grid that knows who is there."""

    presence: Presence


class Pace:
    """How long exchanges took, by their kind: rounds are alike, and each look costs a request.

    Guarantees:
        - Nobody looks before three quarters of the time that the last exchange took are over, and
          then at every tenth of it; but no longer than half a second after the last look.
    """

    def __init__(self) -> None:
        self._took_s: dict[str, float] = {}

    def pause_s(self, kind: str, elapsed_s: float) -> float | None:
        """How long to wait before the next look; None where there was no exchange of this kind."""
        if (took_s := self._took_s.get(kind)) is None:
            return None
        wait_s = max(0.75 * took_s - elapsed_s, took_s / 10, elapsed_s / 10, _FIRST_PAUSE_S)
        return min(wait_s, _LONGEST_PAUSE_S)

    def took(self, kind: str, seconds: float) -> None:
        """Says that all replies were there after so long."""
        self._took_s[kind] = seconds


@runtime_checkable
class Paced(Protocol):
    """A grid whose looks for replies cost something."""

    pace: Pace


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    *,
    timeout_s: float,
    presence: Presence | None = None,
    is_enough: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Message]:
    """The replies to `messages`, in the order of arrival; late ones never come.

    Each reply's `metadata.reply_to_message_id` is the `metadata.message_id` of one of `messages`.

    Guarantees:
        - Once `is_enough` holds and all that are still waited for are silent, nobody is waited for
          any longer; they are answered for by an error `NODE_UNAVAILABLE`, which is also what a
          SuperLink says of them.
        - Without enough, silent nodes are waited for until the deadline.

    Args:
        timeout_s: seconds from sending until a reply counts as late.
        presence: who is silent; without it, what the grid itself knows, if it does.
        is_enough: whether the replies so far are enough; asked between replies.
    """
    if presence is None and isinstance(grid, Watched):
        presence = grid.presence
    # Sent here and not when the first reply is asked for: sending gives the messages their ids.
    waiting = {m.metadata.message_id: m for m in messages if _is_sent(grid, m)}

    def is_over() -> bool:
        nodes = {m.metadata.dst_node_id for m in waiting.values()}
        # Presence is asked in any case: it has to watch for a while before it can tell.
        is_silent = presence is not None and presence.silent(nodes) >= nodes
        return is_silent and is_enough()

    looking = _Looking(
        pace=grid.pace if isinstance(grid, Paced) else Pace(),
        kind=messages[0].metadata.message_type if messages else "",
        timeout_s=timeout_s,
        clock=clock,
        sleep=sleep,
    )
    return _replies(grid, waiting, is_over, looking)


def _is_sent(grid: Grid, message: Message) -> bool:
    """Sends one message; whether the grid took it.

    Each by itself: a node that answers before all of a message has arrived at the SuperLink (a
    hostile one can) makes the rest of that push fail, and would take the others' messages with it.
    What they have in common, the model, is still moved once.
    """
    try:
        taken = set(grid.push_messages([message]))
    except ObjectPushError:
        return False
    # Grids differ in what they return for a message that was not taken (None, or nothing), so the
    # id is read off the message, where every grid sets it.
    return message.metadata.message_id in taken


class _Looking:
    """When to look for the replies of one exchange, which begins now."""

    def __init__(
        self,
        *,
        pace: Pace,
        kind: str,
        timeout_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._pace, self._kind = pace, kind
        self._clock, self._sleep = clock, sleep
        self._started = clock()
        self._timeout_s = timeout_s
        self._next_s = _FIRST_PAUSE_S

    def left_s(self) -> float:
        """Until the deadline."""
        return self._started + self._timeout_s - self._clock()

    def wait(self, *, has_come: bool) -> None:
        """Waits before the first look, or the next one.

        Args:
            has_come: whether the last look found replies, or there was none.
        """
        pause_s = self._pace.pause_s(self._kind, self._clock() - self._started)
        if pause_s is None:
            if has_come:
                self._next_s = _FIRST_PAUSE_S
                return
            pause_s, self._next_s = self._next_s, min(2 * self._next_s, _LONGEST_PAUSE_S)
        # The deadline may have passed since somebody looked.
        self._sleep(max(min(pause_s, self.left_s()), 0.0))

    def is_done(self) -> None:
        """Says that all replies have come."""
        self._pace.took(self._kind, self._clock() - self._started)


def _replies(
    grid: Grid, waiting: dict[str, Message], is_over: Callable[[], bool], looking: _Looking
) -> Iterator[Message]:
    has_come = True
    while waiting:
        if looking.left_s() > 0:
            looking.wait(has_come=has_come)
        # Before pulling: what arrives in time is taken, however long the pause before was.
        left_s = looking.left_s()
        num_waiting = len(waiting)
        for reply in grid.pull_messages(sorted(waiting)):
            if waiting.pop(reply.metadata.reply_to_message_id, None) is not None:
                yield reply
        if not waiting:
            looking.is_done()
            return
        if left_s <= 0:
            return
        has_come = len(waiting) < num_waiting
        if not has_come and is_over():
            break
    for message in waiting.values():
        yield Message(Error(code=ErrorCode.NODE_UNAVAILABLE, reason=""), reply_to=message)


def wait_for_nodes(
    grid: Grid,
    num_nodes: int,
    *,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """The ids of all nodes, ascending, once there are `num_nodes` of them or time is up."""
    deadline = clock() + timeout_s
    while True:
        node_ids = sorted(grid.get_node_ids())
        if len(node_ids) >= num_nodes or clock() >= deadline:
            return node_ids
        sleep(_LONGEST_PAUSE_S)
