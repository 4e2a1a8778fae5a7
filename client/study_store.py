"""The files of accepted studies: state_dir/studies/HASH.toml, and whether they are what they were.

A study that somebody sent is read here as well, whatever its file holds.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from common.errors import StudyError
from common.files import sync_folder, write_atomically
from common.study import Study
from common.study_file import study_from_toml, study_to_toml

_LARGEST_FILE_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A study's file, read once.

    Attributes:
        study: None if the file is not what was accepted.
        fault: why; "" if it is.
    """

    study: Study | None
    fault: str


def study_path(state_dir: Path, study_hash: str) -> Path:
    """Where a site keeps an accepted study."""
    return state_dir / "studies" / f"{study_hash}.toml"


def withdrawn_path(state_dir: Path, study_hash: str) -> Path:
    """Where a site keeps a study that it has withdrawn from."""
    return state_dir / "studies" / f"{study_hash}.toml.withdrawn"


def read_kept(path: Path, study_hash: str, file_sha256: str | None) -> Kept:
    """The study at `path`, if it has this hash and, where it is known, the file this digest."""
    try:
        content = path.read_bytes()
        study = study_from_toml(content.decode())
    except FileNotFoundError:
        return Kept(study=None, fault="no file")
    except (OSError, ValueError, StudyError, RecursionError) as fault:
        return Kept(study=None, fault=f"an unreadable file ({type(fault).__name__})")
    if study.hash != study_hash:
        found = "another study under its name, or one of another version of Wardround"
        return Kept(study=None, fault=found)
    if file_sha256 not in (None, hashlib.sha256(content).hexdigest()):
        return Kept(study=None, fault="a changed file")
    return Kept(study=study, fault="")


def keep(state_dir: Path, study: Study) -> str:
    """Writes the study, whole or not at all; returns the SHA-256 of its file.

    Raises:
        OSError: it could not be written.
        StudyError: the study does not read back as it is.
    """
    text = study_to_toml(study)
    if study_from_toml(text) != study:
        raise StudyError("Expected a study that reads back as it was written, found another.")
    write_atomically(study_path(state_dir, study.hash), text.encode(), durable=True)
    return hashlib.sha256(text.encode()).hexdigest()


def set_aside(state_dir: Path, study_hash: str) -> None:
    """Renames a study's file, so that no site starts with it; nothing if there is none."""
    path = study_path(state_dir, study_hash)
    if path.exists():
        path.replace(withdrawn_path(state_dir, study_hash))
        sync_folder(path.parent)


def read_proposal(path: Path) -> Study:
    """The study of a file that somebody sent. Raises `StudyError`, whatever the file is."""
    if not path.is_file():
        raise StudyError(f"Expected a study file at {path}, found none. Check the path.")
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
        if len(content) > _LARGEST_FILE_BYTES:
            raise StudyError(
                f"Expected a study file of at most {_LARGEST_FILE_BYTES} bytes, found a larger one "
                f"({path}). Ask whoever sent it."
            )
        return study_from_toml(content.decode(), where=str(path))
    except (OSError, ValueError, RecursionError) as fault:
        raise StudyError(
            f"Expected a study in TOML at {path}, found {type(fault).__name__}. Ask whoever "
            "sent it."
        ) from None
