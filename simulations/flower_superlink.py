"""Flower's SuperLink as a process of our own, which leaves nothing behind.

It listens on loopback, on a free port, and starts in an empty folder; what it and its helpers start
has ended when `superlink` is left, however it is left.
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from common.errors import RunError
from common.files import write_atomically
from common.quiet import QUIET
from simulations.marked_processes import end_marked, free_port

_START_TIMEOUT_S = 60.0
_GRACE_S = 3.0
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class SuperLink:
    """A SuperLink of our own, and how to start programs that speak to it."""

    folder: Path
    environment: Mapping[str, str]

    @contextmanager
    def started(self, command: list[str], **output: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A program of Flower's, out of reach of the terminal's Ctrl-C: it is ended here."""
        program = Path(sys.executable).with_name(command[0])
        process = subprocess.Popen(  # noqa: S603  # our own command line, no shell
            [str(program), *command[1:]],
            env=self.environment,
            cwd=self.folder / "empty",
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **output,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def superlink(folder: Path) -> Iterator[SuperLink]:
    """A SuperLink that answers; it and all that it starts have ended afterwards."""
    home = folder / "home"
    (folder / "empty").mkdir(parents=True)
    port = free_port()
    connections = {"default": "own", "own": {"address": f"127.0.0.1:{port}", "insecure": True}}
    settings = tomli_w.dumps({"superlink": connections}).encode()
    write_atomically(home / "config.toml", settings, durable=False)
    command = ["flower-superlink", "--insecure", "--simulation"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = folder / "superlink.log"
    # Ray's sockets are below this folder, and the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="wr-", ignore_cleanup_errors=True) as ray_folder:
        own = SuperLink(folder=folder, environment=_environment(home, Path(ray_folder)))
        with (
            log.open("wb") as output,
            own.started(command, stdout=output, stderr=subprocess.STDOUT) as process,
        ):
            try:
                _wait_until_healthy(process, port, log)
                yield own
            finally:
                end_marked("FLWR_HOME", str(home), grace_s=_GRACE_S)


def _environment(home: Path, ray_folder: Path) -> dict[str, str]:
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **QUIET,
        "FLWR_HOME": str(home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(ray_folder),
        # Ray would hide the GPUs from clients that reserve none, and they would train on the CPU
        # without a word; the site's own `device` decides.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # The SuperLink finds its helpers by name.
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(_POLL_S)
    found = "no answer" if process.poll() is None else f"exit code {process.returncode}"
    raise RunError(
        f"Expected Flower's SuperLink to answer within {_START_TIMEOUT_S:.0f} s, found {found}. "
        f"Its log is {log}."
    )
