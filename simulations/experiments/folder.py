"""The folder of an experiment: one experiment for ever, and one command at a time."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.code_version import code_fingerprint
from common.errors import RunError
from common.files import write_atomically
from common.private_files import nobody_else
from common.run_folder import site_folders
from common.study import Study

_IDENTITY = "experiment.json"
HOSPITALS = "hospitals"


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
        - Simulated hospitals are whole, or made anew.

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
            shutil.rmtree(out / HOSPITALS, ignore_errors=True)
            simulate_hospitals()
        hospitals = sites or out / HOSPITALS
        whole = {**identity, "data": _stamp_of(hospitals), "code": code_fingerprint()}
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


def _stamp_of(sites: Path) -> str:
    """A digest of names, sizes and times of the hospitals' files, and of nothing in them."""
    digest = hashlib.sha256()
    for folder in site_folders(sites):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            status = path.stat()
            name = path.relative_to(sites).as_posix()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
