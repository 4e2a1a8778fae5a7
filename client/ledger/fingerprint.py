"""The fingerprint of a hospital's data files: another one says that the data are others."""

import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from common.errors import DataError
from common.privacy.events import Charge
from common.signing import Purpose, SigningKey


def data_fingerprint(paths: Iterable[Path], *, key: SigningKey, is_simulation: bool = False) -> str:
    """The fingerprint of files and of all files in folders, 64 hex digits.

    Nothing is cached: each call reads every byte again, so that no change hides behind an unchanged
    size and time. A site reads its data once, when it opens; it takes the fingerprint before and
    after that, and what it trains on has that fingerprint if the two are equal.

    Guarantees:
        - Another byte, name or place of a file makes another fingerprint; the order of `paths`, the
          folder that they are in and the times of the files do not.
        - It is keyed by the site's own key: without it, nobody can try out which patients were in
          the files.
        - `is_simulation` looks at names, sizes and times alone, and never at a byte: cheap, and
          blind to a change that keeps them. A simulation has no patients to protect.

    Raises:
        DataError: a file is not there or cannot be read.
    """
    content_of = _stamp if is_simulation else _digest
    try:
        lines = [
            f"{os.fsencode(name).hex()} {content_of(file)}\n"
            for path in paths
            for name, file in _files(path)
        ]
    except OSError as fault:
        raise DataError(
            f"Expected readable data at {fault.filename}, found {type(fault).__name__}. Check the "
            "paths in site.toml and their permissions."
        ) from None
    secret = key.secret(Purpose.DATA_FINGERPRINT)
    return hmac.digest(secret, "".join(sorted(lines)).encode(), "sha256").hex()


def on_these_data(charges: Iterable[Charge], fingerprint: str) -> tuple[Charge, ...]:
    """The charges, each under its split of the data that have this fingerprint.

    Other data may hold other patients out, and then nobody is sure to be in one part alone.
    """
    return tuple(replace(c, split=f"{c.split}-{fingerprint[:16]}") for c in charges)


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """The file, or all files of the folder, with their names from the folder on."""
    if not path.is_dir():
        yield path.name, path
        return
    for folder, _, names in os.walk(path, onerror=_fail, followlinks=True):
        for name in names:
            file = Path(folder, name)
            yield file.relative_to(path.parent).as_posix(), file


def _fail(fault: OSError) -> None:
    # Without this, `os.walk` passes over a folder that it cannot read.
    raise fault


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
