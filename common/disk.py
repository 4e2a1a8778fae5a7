"""How much may still be written: asked before work whose result would not fit on the disk."""

import os
from pathlib import Path

# Beside what is asked for: lines of journals, logs and ledgers, and what others write meanwhile.
MARGIN_BYTES = 16 * 2**20


def free_bytes(folder: Path) -> int:
    """What the owner of this process may still write below `folder`, which need not be there yet.

    Raises:
        OSError: the file system does not say.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    disk = os.statvfs(there)
    return disk.f_bavail * disk.f_frsize
