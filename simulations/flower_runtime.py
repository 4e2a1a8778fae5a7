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
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import tomli_w

import common
from common.errors import RunError
from common.files import write_atomically
from common.run_folder import site_folders
from common.study import Study
from common.study_file import study_to_toml
from simulations.flower_superlink import SuperLink, superlink

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
    with superlink(folder) as link:
        run_id = _stream(link, num_sites, echo)
        status, details = _status(link, run_id)
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


def _stream(link: SuperLink, num_sites: int, echo: Callable[[str], None]) -> int:
    """Submits the run and follows its log to the end; returns Flower's id of the run."""
    folder = link.folder
    command = ["flwr", "run", str(folder / "app"), "own", "--stream"]
    command += ["--run-config", str(folder / "run.toml"), "--federation-config"]
    command += [f"num-supernodes={num_sites} client-resources-num-cpus=1"]
    run_id, last = None, ""
    with (
        link.started(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
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


def _status(link: SuperLink, run_id: int) -> tuple[str, str]:
    """The status of a run, and what Flower says of it: `flwr run` ends with 0 in any case."""
    command = ["flwr", "list", "own", "--run-id", str(run_id), "--format", "json"]
    with link.started(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        output = process.communicate()[0]
    try:
        run = json.loads(output)["runs"][0]
        return str(run["status"]), str(run["status-details"])
    except (ValueError, LookupError, TypeError):
        return "an unknown status", f"`flwr list` ended with {process.returncode}."
