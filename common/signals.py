"""Signals, handled in another way for a while."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Handler = Callable[..., Any] | int


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
