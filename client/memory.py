"""Memory that a task has left behind goes back to the machine.

Models are held in cycles of objects, which Python finds when it comes to it, and glibc keeps what
was freed. Its setting `MALLOC_TRIM_THRESHOLD_` would give it back at once, and is
meant for programs that only pass bytes on: a training step of a small convolutional network takes
half as long again with it.
"""

import ctypes
import gc
from contextlib import suppress


def give_back_memory() -> None:
    """Gives unused memory back, where the C library can (`malloc_trim` of glibc)."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
