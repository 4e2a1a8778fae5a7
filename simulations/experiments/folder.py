"""The folder of an experiment: one experiment for ever, and one command at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.errors import RunError
from common.files import write_atomically
from common.private_files import nobody_else
from common.study import Study
from simulations.hospitals_once import HOSPITALS, simulated_once
from simulations.versions import code_version, data_version

_IDENTITY = "experiment.json"


@contextmanager
def experiment_folder(
    out: Path,
    *,
    identity: Mapping[str, object],
    sites: Path | None,
    simulate_hospitals: Callable[[], None],
) -> Iterator[Path]:
    """Holds `out` for this experiment alone; the folder of its hospitals.

    Guarantees:
        - A folder that holds another experiment (another study, setting, data or code) is refused,
          and left as it is.
        - Simulated hospitals are whole, or made anew; others are left as they are.

    Args:
        identity: what makes this experiment what it is, as JSON.
        sites: the folder of site folders; None: `simulate_hospitals` writes them to `HOSPITALS`.

    Raises:
        RunError: it holds another experiment or something else, or another command works in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    busy = RunError(
        f"Expected nobody else at work in {out}, found another command. Wait for it, or name "
        "another folder by --out."
    )
    with nobody_else(out / ".lock", busy):
        path = out / _IDENTITY
        if not path.is_file() and (out / "journal.jsonl").exists():
            raise RunError(
                f"Expected an empty folder or this experiment in {out}, found a run. Name another "
                "folder by --out."
            )
        if sites is None and not path.is_file():
            simulated_once(out, simulate_hospitals, keeps_whole=False)
        hospitals = sites or out / HOSPITALS
        whole = {**identity, "data": data_version(hospitals), "code": code_version()}
        _keep_or_compare(path, whole)
        yield hospitals


def described(study: Study) -> str:
    """A study as an identity names it."""
    return f"{study.name} {study.hash}"


def _keep_or_compare(path: Path, identity: Mapping[str, object]) -> None:
    text = json.dumps(identity, indent=1, sort_keys=True)
    if not path.is_file():
        write_atomically(path, text.encode(), durable=False)
        return
    kept, given = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
    differing = sorted(k for k in {*kept, *given} if kept.get(k) != given.get(k))
    if differing:
        raise RunError(
            f"Expected the experiment that was begun in {path.parent}, found another "
            f"{', '.join(differing)}. Give the command as it was given first, or name another "
            "folder by --out."
        )
