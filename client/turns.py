"""Who may work at a site process: one caller at a time, the others in line."""

import threading
from collections import deque
from collections.abc import Callable

import grpc


class Turns:
    """Who may work: one at a time, in the order of arrival, and only so many wait.

    Guarantees:
        - Never two at once.
        - A caller who has gone away while waiting loses the turn: nothing is worked for nobody.
        - Once closed, nobody gets a turn, and those who wait are told at once.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._is_busy = False
        self._is_closed = False

    def take(self, is_wanted: Callable[[], bool]) -> grpc.StatusCode:
        """OK once it is the caller's turn, else why there will be none."""
        ticket = object()
        with self._changed:
            if len(self._line) >= self._max_waiting + (not self._is_busy):
                return grpc.StatusCode.RESOURCE_EXHAUSTED
            self._line.append(ticket)
            self._changed.wait_for(
                lambda: (
                    self._is_closed
                    or not is_wanted()
                    or (self._line[0] is ticket and not self._is_busy)
                )
            )
            self._line.remove(ticket)
            self._changed.notify_all()
            if self._is_closed:
                return grpc.StatusCode.UNAVAILABLE
            if not is_wanted():
                return grpc.StatusCode.CANCELLED
            self._is_busy = True
            return grpc.StatusCode.OK

    def give_back(self) -> None:
        """Lets the next one work."""
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()

    def look_again(self) -> None:
        """Wakes those who wait: one of them may have gone away."""
        with self._changed:
            self._changed.notify_all()

    def close(self, *, timeout_s: float) -> bool:
        """Ends all waiting; whether nobody works any more, within the timeout."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._is_busy, timeout_s)
