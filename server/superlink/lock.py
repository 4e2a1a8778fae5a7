"""What there may be only one of in a coordinator's folder. Loads little."""

from contextlib import AbstractContextManager
from pathlib import Path

from common.errors import RunError
from common.private_files import nobody_else


def alone(path: Path, what: str) -> AbstractContextManager[None]:
    """Holds the lock file `path`. Raises `RunError`, when entered, if another process has it.

    Args:
        what: what there may be only one of, for the text of the error.
    """
    taken = RunError(
        f"Expected one {what} for this folder, found another that is running ({path}). Wait until "
        "it has ended, or end it."
    )
    return nobody_else(path, taken)
