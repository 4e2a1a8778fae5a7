"""Where the real data sets are, for the tests that run on them and are skipped without them."""

import os
from pathlib import Path

import pytest

_BESIDE_THE_REPOSITORY = Path(__file__).parents[3] / "shared" / "data"


def real_data(name: str) -> Path:
    """The folder of a data set, under $WARDROUND_DATA if that is set; skips the test without it."""
    folder = Path(os.environ.get("WARDROUND_DATA") or _BESIDE_THE_REPOSITORY) / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder} (or $WARDROUND_DATA); data are not part of the repository")
    return folder


def bytes_under(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its path from there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
