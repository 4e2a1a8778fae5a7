"""When a process that has ended is started again, and when nobody should try any longer.

A pure rule of how long it lived and what it said at its end.
"""

import random
import re

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
# Who has lived so long was healthy: the next end is the first one again.
HEALTHY_S = 300.0
# So many ends in a row that no time will mend.
MOST_LASTING = 5

# What `wardround` prints last (`common.errors`): site.toml, keys, roster or an accepted study are
# not as they must be, and stay so until a person mends them. Data that are being written, a full
# disk or a lack of memory may mend by themselves.
_LASTING = re.compile(r"(site_config|provision|study): Expected ")
_USAGE = 2


def is_lasting(exit_code: int, last_line: str) -> bool:
    """Whether a process has ended of what time does not mend.

    >>> is_lasting(1, "site_config: Expected site.toml, found none.")
    True
    >>> is_lasting(1, "OSError: [Errno 28] No space left on device"), is_lasting(-9, "")
    (False, False)
    """
    return exit_code == _USAGE or (exit_code == 1 and _LASTING.match(last_line) is not None)


class Restarts:
    """How long to wait before one process is started again.

    Guarantees:
        - Delays double from 1 s to 60 s, each at random between a half and the whole of it, so that
          hospitals that lost one server do not return at one moment.
        - After 5 minutes of life they begin at 1 s again.
        - Only ends that no time mends, `MOST_LASTING` of them in a row, mean to give up.

    Args:
        randomness: of the delays.
    """

    def __init__(self, randomness: random.Random) -> None:
        self._random = randomness
        self._num_ends = 0
        self._num_lasting = 0

    def delay_s(self, *, lived_s: float, is_lasting: bool) -> float | None:
        """Seconds until the next start, after an end; None to give up."""
        if lived_s >= HEALTHY_S:
            self._num_ends = self._num_lasting = 0
        self._num_lasting = self._num_lasting + 1 if is_lasting else 0
        if self._num_lasting >= MOST_LASTING:
            return None
        longest: float = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._num_ends, 10))
        self._num_ends += 1
        return longest * self._random.uniform(0.5, 1.0)
