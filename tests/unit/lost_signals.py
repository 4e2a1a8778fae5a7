"""A signal that arrives where Python loses what its handler raises."""

import signal


class _Dying:
    """Within a destructor, an exception is printed and forgotten."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def lose_a_signal() -> None:
    """SIGTERM to this process, whose exception is lost."""
    _Dying()
