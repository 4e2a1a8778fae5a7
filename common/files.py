"""Files that are whole or absent: a reader never sees half of one."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, durable: bool, mode: int = 0o666) -> None:
    """Puts `content` at `path` in one step; `durable` also waits until the disk has it.

    Args:
        mode: who may read and write a new file, as far as the process's umask allows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the disk knows which files are in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
