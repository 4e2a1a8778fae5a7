"""A fingerprint of the code that both sides run.

Flower's simulation runtime puts the folder it was first started in before the app bundle on each
worker's path, so clients of another checkout can run silently. Every task carries this fingerprint,
and a site whose own differs refuses it.
"""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("client", "common")


@cache
def code_fingerprint() -> str:
    """SHA-256, in 16 hex digits, over the Python files of `client` and `common`."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def release() -> str:
    """The installed version of Wardround, or "source" where it is not installed."""
    try:
        return version("wardround")
    except PackageNotFoundError:
        return "source"
