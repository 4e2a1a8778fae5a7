"""Memory that a task has left behind goes back to the machine.

glibc keeps what was freed. Its setting `MALLOC_TRIM_THRESHOLD_` would give it back at once, and is
meant for programs that only pass bytes on: a training step of a small convolutional network takes
half as long again with it.
"""

import ctypes
from contextlib import suppress


def give_back_memory() -> None:
    """Gives freed memory back, where the C library can (`malloc_trim` of glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
