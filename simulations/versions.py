"""What finished work depends on beside its study: the code that made it, and the data.

Work that lies finished in a folder is used again only where neither has changed.
"""

import hashlib
from functools import cache
from pathlib import Path

from common.run_folder import site_folders

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("client", "common", "server", "simulations")


@cache
def code_version() -> str:
    """16 hex digits over all of our Python files: a run's numbers depend on both of its sides."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def data_version(sites: Path) -> str:
    """16 hex digits over names, sizes and times of the site folders' files, and of nothing in them.

    Raises:
        RunError: there are no site folders.
    """
    digest = hashlib.sha256()
    for folder in site_folders(sites):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            status = path.stat()
            name = path.relative_to(sites).as_posix()
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
