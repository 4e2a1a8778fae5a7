"""Memory that a task or a round has left behind goes back to the machine.

Models are held in cycles of objects, which Python finds when it comes to it, and glibc keeps what
was freed. Its setting `MALLOC_TRIM_THRESHOLD_` would give it back at once, and is meant for
programs that only pass bytes on: a training step of a small convolutional network takes half as
long again with it.
"""

import ctypes
import gc
from contextlib import suppress
from typing import Final

# Of glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 1 << 20


def give_back_memory() -> None:
    """Gives unused memory back, where the C library can (`malloc_trim` of glibc)."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back_at_once() -> None:
    """From now on what is large goes back as soon as it is freed (`mallopt` of glibc).

    For a program that passes models on, where its environment cannot say so.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def keep_for_good() -> None:
    """From now on Python's collector looks only at what is made later.

    For a program that lives long, once, when all is loaded: to look at the objects of torch or
    flwr takes longer than at those of any task.
    """
    gc.collect()
    gc.freeze()
