"""Processes that carry a mark of ours in their environment, and that all end when we say so.

A program that we start may start others in sessions of their own, and detach them. What they all
inherit is the environment; no other process can have a folder of this run in it.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

_POLL_S = 0.05


def marked_processes(name: str, value: str) -> list[int]:
    """The ids of the processes that were started with the environment variable `name`.

    Without /proc (not Linux) there are none.
    """
    mark = f"{name}={value}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def end_marked(name: str, value: str, *, grace_s: float) -> None:
    """Ends every process with this mark: SIGTERM, and SIGKILL once `grace_s` has passed.

    Guarantees:
        - None of them is there when it returns; this process itself is left alone.
    """
    started = time.monotonic()
    told: set[int] = set()
    while pids := [pid for pid in marked_processes(name, value) if pid != os.getpid()]:
        is_patient = time.monotonic() < started + grace_s
        for pid in pids:
            with suppress(ProcessLookupError):
                if not is_patient:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in told:
                    os.kill(pid, signal.SIGTERM)
                    told.add(pid)
        time.sleep(_POLL_S)


def free_port() -> int:
    """A port of loopback at which nobody listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
