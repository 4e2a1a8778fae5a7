"""Where a site process listens: a Unix socket, or loopback. Nothing that another machine can reach.

Must not import torch or flwr: connectors import it.
"""

import fcntl
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import SiteConfigError

# `sun_path` of Linux holds 108 bytes, the last of them zero.
_MAX_PATH_BYTES = 107
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, kw_only=True)
class Address:
    """An address of this machine alone.

    Attributes:
        target: as gRPC writes it: "unix:/absolute/path" or "127.0.0.1:PORT".
        path: of the socket; None on loopback.
    """

    target: str
    path: Path | None = None

    @property
    def host(self) -> str:
        """The part before the port."""
        return self.target.rpartition(":")[0]


def default_address(state_dir: Path) -> str:
    """The address of a site whose `site.toml` names this `state_dir`.

    The folder is the socket's own: nobody but its owner may enter it.
    """
    return f"unix:{state_dir / 'socket' / 'site.sock'}"


def parse_address(text: str) -> Address:
    """The address that `text` names.

    >>> parse_address("127.0.0.1:9092").target
    '127.0.0.1:9092'

    Guarantees:
        - What is neither a Unix socket nor a loopback address is refused.

    Raises:
        SiteConfigError: it is neither, or the path is relative, too long, or has % ? #.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        num_bytes = len(os.fsencode(path))
        # gRPC reads a path as part of a URI: %20 would be another path.
        is_plain = path.is_absolute() and not set("%?#\0") & set(str(path))
        if not is_plain or num_bytes > _MAX_PATH_BYTES:
            raise SiteConfigError(
                f"Expected an absolute path for the socket, of at most {_MAX_PATH_BYTES} bytes "
                f"and without % ? #, found {num_bytes} bytes ({str(path)!r}). Name another: "
                "--address unix:/PATH."
            )
        return Address(target=f"unix:{path}", path=path)
    match = _HOST_PORT.fullmatch(text)
    if (
        match is not None
        and _is_loopback(match["v6"] or match["v4"])
        and int(match["port"]) < 2**16
    ):
        return Address(target=text)
    raise SiteConfigError(
        f"Expected unix:/PATH or a loopback address such as 127.0.0.1:9092, found {text!r}. "
        "A site process listens on its own machine alone."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def claimed(address: Address) -> Iterator[None]:
    """Holds the address for this process: nobody else takes its socket, and none is left behind.

    Guarantees:
        - The socket's folder is its owner's alone (0700), made so or refused.
        - A socket in whose place somebody listens is left as it is.
        - A socket that a killed process left is removed.
        - The socket is removed at the end.

    Raises:
        SiteConfigError: another process listens there, the folder is open to others, or what is at
            the path is no socket.
    """
    if address.path is None:
        yield
        return
    path = address.path
    _require_own_folder(path.parent)
    # A lock and not the socket itself decides who owns the path: the kernel gives it back when a
    # process is killed, and gRPC would unlink a socket that another process has just bound.
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _occupied(path) from None
        _remove_stale(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _require_own_folder(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SiteConfigError(
            f"Expected a folder for the socket that is this user's alone, found mode "
            f"{stat.S_IMODE(found.st_mode):04o} ({folder}). Say chmod 700, or name another folder."
        )


def _remove_stale(path: Path) -> None:
    """Removes a socket on which nobody listens."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SiteConfigError(
            f"Expected no file or a socket at {path}, found something else. Name another path."
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:  # somebody's, but too busy to accept
            raise _occupied(path) from None
    raise _occupied(path)


def _occupied(path: Path) -> SiteConfigError:
    return SiteConfigError(
        f"Expected nobody at {path}, found a process that listens there. Stop it first: one site "
        "has one site process."
    )
