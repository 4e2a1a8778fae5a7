r"""The same run under Flower's simulation runtime (SuperLink and Ray), offline, with nothing left.

The in-process engine is the default of a simulation. This one proves that the app is a Flower app
like any other (equal models, bit for bit), leads to a Ray cluster, and is measured against ours. It
must never reach for a network beyond loopback, never use a SuperLink that somebody else started,
and never leave a process behind.

By hand, without this module, the same run is (absolute paths; as many nodes as site folders):

    export FLWR_HOME=/tmp/wardround/flwr FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
    export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 RAY_USAGE_STATS_ENABLED=0
    mkdir -p /tmp/wardround/empty && cd /tmp/wardround/empty
    flwr run /path/to/checkout --stream \
      --federation-config 'num-supernodes=6 client-resources-num-cpus=1' \
      --run-config 'study="demo" sites="/abs/sites" out="/abs/run"'
    flwr list                      # `flwr run` exits with 0 even if the run failed
    pkill -f flower-superlink      # `flwr run` has started it, and nothing else ends it

The folder is empty because the SuperLink keeps the one that it was started in, and Ray puts it
before the app on each worker's path. The checkout's own folder must have no `_` and no `.` in its
name. The dependency switch keeps `flwr run` from installing CUDA by gigabytes.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

import common
from common.errors import RunError
from common.files import write_atomically
from common.run_folder import site_folders
from common.study import Study
from common.study_file import study_to_toml

_START_TIMEOUT_S = 60.0
_GRACE_S = 3.0
_POLL_S = 0.05
_COMPLETED = "finished:completed"
_RUN_STARTED = re.compile(r"Successfully started run (\d+)")


def run_on_flower(
    study: Study,
    sites: Path,
    out: Path,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    echo: Callable[[str], None] = lambda line: None,
) -> None:
    """Runs the federation under `flwr run`; `out` then holds what every engine leaves there.

    Guarantees:
        - Every process that it started has ended when it returns or raises.
        - The SuperLink listens on loopback, on a free port, and starts in an empty folder.
        - No telemetry, update check or installation.

    Flower's own files (configuration, app, logs) are in `out/flower`. A site whose device is "auto"
    sees the machine's GPUs, as it does in process.

    Args:
        sites: the folder whose sub-folders are sites; one simulated node for each.
        out: the run's folder.
        resume: go on from the newest checkpoint of `out`.
        init_from: a folder with a model, whose blocks the study starts from where they fit.
        echo: told of each line of the run's log, as it comes.

    Raises:
        RunError: there are no sites, the app cannot be found, or the run did not finish.
    """
    num_sites = len(site_folders(sites))
    app = app_folder()
    folder = out.resolve() / "flower"
    shutil.rmtree(folder, ignore_errors=True)
    copy_app(app, folder / "app")
    write_atomically(folder / "study.toml", study_to_toml(study).encode(), durable=False)
    config = {
        "study": str(folder / "study.toml"),
        "sites": str(sites.resolve()),
        "out": str(out.resolve()),
        "resume": resume,
        "init-from": str(init_from.resolve()) if init_from is not None else "",
    }
    write_atomically(folder / "run.toml", tomli_w.dumps(config).encode(), durable=False)
    with _superlink(folder) as superlink:
        run_id = _stream(superlink, num_sites, echo)
        status, details = _status(superlink, run_id)
    if status != _COMPLETED:
        raise RunError(
            f"Expected the run to end as {_COMPLETED}, found {status}: {details} "
            f"The whole log is in {folder / 'run.log'}."
        )


def app_folder() -> Path:
    """The folder that Flower's app bundle is built from.

    Raises:
        RunError: Wardround is installed without its `pyproject.toml`.
    """
    folder = Path(common.__file__).parent.parent
    if not (folder / "pyproject.toml").is_file():
        raise RunError(
            f"Expected pyproject.toml beside the package 'common', found none in {folder}. Flower "
            "builds its bundle from it: install Wardround from a checkout (pip install -e .), or "
            "simulate in process."
        )
    return folder


def copy_app(app: Path, target: Path) -> None:
    """Copies what the bundle holds, and no more, to a folder whose name `flwr build` accepts."""
    project = tomllib.loads((app / "pyproject.toml").read_text(encoding="utf-8"))
    included = [
        p for pattern in project["tool"]["flwr"]["app"]["fab-include"] for p in app.glob(pattern)
    ]
    for path in {app / "pyproject.toml", *included}:
        copy = target / path.relative_to(app)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


@dataclass(frozen=True, kw_only=True)
class _SuperLink:
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
def _superlink(folder: Path) -> Iterator[_SuperLink]:
    """A SuperLink that answers; it and all that it starts have ended afterwards."""
    home = folder / "home"
    (folder / "empty").mkdir(parents=True)
    port = _free_port()
    connections = {"default": "own", "own": {"address": f"127.0.0.1:{port}", "insecure": True}}
    settings = tomli_w.dumps({"superlink": connections}).encode()
    write_atomically(home / "config.toml", settings, durable=False)
    command = ["flower-superlink", "--insecure", "--simulation"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = folder / "superlink.log"
    # Ray's sockets are below this folder, and the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="wr-", ignore_cleanup_errors=True) as ray_folder:
        superlink = _SuperLink(folder=folder, environment=_environment(home, Path(ray_folder)))
        with (
            log.open("wb") as output,
            superlink.started(command, stdout=output, stderr=subprocess.STDOUT) as process,
        ):
            try:
                _wait_until_healthy(process, port, log)
                yield superlink
            finally:
                _end_all(home)


def _environment(home: Path, ray_folder: Path) -> dict[str, str]:
    programs = str(Path(sys.executable).parent)
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(ray_folder),
        # Ray would hide the GPUs from clients that reserve none, and they would train on the CPU
        # without a word; the site's own `device` decides.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # The SuperLink finds its helpers by name.
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
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


def _stream(superlink: _SuperLink, num_sites: int, echo: Callable[[str], None]) -> int:
    """Submits the run and follows its log to the end; returns Flower's id of the run."""
    folder = superlink.folder
    command = ["flwr", "run", str(folder / "app"), "own", "--stream"]
    command += ["--run-config", str(folder / "run.toml"), "--federation-config"]
    command += [f"num-supernodes={num_sites} client-resources-num-cpus=1"]
    run_id, last = None, ""
    with (
        superlink.started(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
        (folder / "run.log").open("w", encoding="utf-8") as log,
    ):
        for raw in process.stdout or ():
            line = raw.decode(errors="replace").rstrip()
            log.write(line + "\n")
            found = _RUN_STARTED.search(line)
            run_id = int(found[1]) if found and run_id is None else run_id
            last = line or last
            echo(line)
        exit_code = process.wait()
    if exit_code != 0 or run_id is None:
        raise RunError(
            f"Expected `flwr run` to start the run, found exit code {exit_code}: {last} "
            f"Its output is in {folder / 'run.log'}."
        )
    return run_id


def _status(superlink: _SuperLink, run_id: int) -> tuple[str, str]:
    """The status of a run, and what Flower says of it: `flwr run` ends with 0 in any case."""
    command = ["flwr", "list", "own", "--run-id", str(run_id), "--format", "json"]
    with superlink.started(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        output = process.communicate()[0]
    try:
        run = json.loads(output)["runs"][0]
        return str(run["status"]), str(run["status-details"])
    except (ValueError, LookupError, TypeError):
        return "an unknown status", f"`flwr list` ended with {process.returncode}."


def _end_all(home: Path) -> None:
    """Ends every process that was started with our FLWR_HOME, wherever its parents are.

    The SuperLink starts others in sessions of their own, and Ray detaches its servers; what they
    all inherit is the environment, and no other process can have this folder in it. (Without
    /proc, the SuperLink is ended by its caller, and Flower's helpers watch their parents.)
    """
    started = time.monotonic()
    told: set[int] = set()
    while pids := _processes(home):
        is_patient = time.monotonic() < started + _GRACE_S
        for pid in pids:
            with suppress(ProcessLookupError):
                if not is_patient:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in told:
                    os.kill(pid, signal.SIGTERM)
                    told.add(pid)
        time.sleep(_POLL_S)


def _processes(home: Path) -> list[int]:
    marker = f"FLWR_HOME={home}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
