"""How many patients are in memory at a time: as many as there is room for.

Where a GPU has no room, what did not fit is done again with half as many patients at a time, down
to one. The physical batch is a matter of this machine alone: it must never change which patients a
step has, nor how often it counts them.
"""

import gc
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PhysicalBatch:
    """The largest number of patients in memory at a time; it shrinks where memory runs out.

    Guarantees:
        - Work that ran out of memory is done again from the random state in which it began.
        - What the failed attempt held is free before the next.
        - Its log holds no number of patients: in private training, that is theirs.

    Args:
        size: to begin with, 1 or more.
        device: that has the memory.

    Attributes:
        size: now.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self._device = device

    def fitting(self, num_patients: int, work: Callable[[int], T]) -> T:
        """What `work` returns of the largest number of patients at a time that there is room for.

        Args:
            num_patients: that `work` has to do with.
            work: of the size; it may be called several times, and must begin anew each time.

        Raises:
            OutOfMemoryError: of torch; there is no room for one patient.
        """
        state = _random_state(self._device)
        while True:
            try:
                return work(self.size)
            except torch.OutOfMemoryError:
                if min(self.size, num_patients) <= 1:
                    raise
            # Not within `except`: the exception holds the frames, and they the tensors.
            self.size = min(self.size, num_patients) // 2
            logger.warning("out of memory: half as many patients at a time from here on")
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            _set_random_state(state, self._device)

    def pieces(self, num_patients: int, work: Callable[[slice], T]) -> Iterator[T]:
        """What `work` returns of consecutive patients, of as many at a time as there is room for.

        Every patient is in one piece, and in one alone. Raises as `fitting`.
        """
        start = 0

        def piece(size: int) -> T:
            return work(slice(start, start + size))

        while start < num_patients:
            yield self.fitting(num_patients - start, piece)
            start += self.size


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    on_device = torch.cuda.default_generators[device.index] if device.type == "cuda" else None
    own = None if on_device is None else on_device.get_state()
    return torch.default_generator.get_state(), own


def _set_random_state(
    state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device
) -> None:
    torch.default_generator.set_state(state[0])
    if state[1] is not None:
        torch.cuda.default_generators[device.index].set_state(state[1])
