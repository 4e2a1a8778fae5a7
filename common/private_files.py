"""Private keys in files: made once, never written over, for their owner alone.

Must never print, log or quote a file's content.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import WardroundError
from common.files import sync_folder


def create_private(path: Path, content: bytes, error: type[WardroundError]) -> None:
    """Puts `content` at `path`, where there must be no file yet, and waits for the disk.

    Guarantees:
        - The file is whole or absent, and is never written over.
        - Nobody but its owner can read it, whatever the umask.

    Raises:
        WardroundError: of the class `error`; there is a file already, and it is left as it is.
    """
    make_private_folder(path.parent)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link never takes the place of a file that is there.
        path.hardlink_to(partial)
    except FileExistsError:
        raise error(
            f"Expected no key at {path}, found one. A key is never written over: use it, or move "
            "it away yourself."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_private(path: Path, error: type[WardroundError]) -> bytes:
    """The content of the private file at `path`.

    Raises:
        WardroundError: of the class `error`; there is none, or group or others may use it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except FileNotFoundError:
        raise error(
            f"Expected a readable key at {path}, found none. A hospital's keys are made by "
            "`wardround site keys SITE_DIR`, a coordinator's by `wardround provision`; where there "
            "was one before, restore it from a backup."
        ) from None
    except OSError as fault:
        raise error(
            f"Expected a readable key at {path}, found {type(fault).__name__}. Let the user who "
            "runs this read it."
        ) from None
    if mode & 0o077:
        raise error(
            f"Expected a key that its owner alone can use, found mode {mode:04o} ({path}). If "
            f"nobody else has read it: chmod 600 {path}."
        )
    return content


def make_private_folder(folder: Path) -> None:
    """Makes `folder`, where it is missing, for its owner alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, after waiting for the process that has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def nobody_else(path: Path, taken: WardroundError) -> Iterator[None]:
    """Holds the lock file `path`; the kernel lets go of it when this process ends, however it does.

    Raises:
        `taken`, at once, where another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        yield
    finally:
        os.close(descriptor)
