"""Starts a program that the kernel ends with the one that started it, even by SIGKILL (Linux).

Run by its path, in an interpreter of its own and before anything else of ours: what a process does
between fork and exec must not meet another's threads. Imports the standard library alone.

    python tether.py PARENT_PID PROGRAM ARGUMENT...
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tied(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` tied to the thread that starts it.

    The kernel kills it when that thread ends, however it does: start it from one that lives as long
    as the program should, such as the main thread.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    """Becomes the program, tied to the thread that started it; ends where that is gone already.

    The signal is SIGKILL: a process that hangs would outlive any other, and all that these
    processes keep is written so that it survives a kill.
    """
    parent, program = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(
            f"expected to be tied to process {parent}, found {os.strerror(ctypes.get_errno())}"
        )
    # It may have ended before the call.
    if os.getppid() == parent:
        os.execv(program[0], program)  # noqa: S606  # no shell is what is meant


if __name__ == "__main__":
    main()
