"""Signals, handled in another way for a while."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

Handler = Callable[..., Any] | int


class Interruption:
    """Whether a signal has asked this process to end.

    Python raises what a handler raises wherever the main thread is just then. Within a destructor,
    or a callback of a weak reference or the garbage collector, it is printed and forgotten; code in
    C may clear it. The signal is remembered, so whatever goes on for long asks again.
    """

    def __init__(self) -> None:
        self._is_asked = False

    def handle(self, *_: object) -> NoReturn:
        """The handler: interrupts at once. Raises `KeyboardInterrupt`."""
        self._is_asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Nothing, until a signal has come. Raises `KeyboardInterrupt` from then on.

        In the main thread alone, as a signal interrupts no other.
        """
        if self._is_asked and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt


@contextmanager
def interruptible(*numbers: signal.Signals) -> Iterator[Interruption]:
    """Within the block `numbers` interrupt as Ctrl-C does, which a background job would ignore.

    Guarantees:
        - A signal whose exception Python has lost is raised by the next `check`.
    """
    interruption = Interruption()
    with handled(interruption.handle, *numbers):
        yield interruption


@contextmanager
def handled(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Within the block `numbers` are handled by `handler`, and afterwards as before.

    In the main thread alone, as Python has it. `signal.default_int_handler` makes them interrupt
    as Ctrl-C does.
    """
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
