"""Where a site process listens: a Unix socket, or loopback. Nothing that another machine can reach.

Must not import torch or flwr: connectors import it.
"""

import grp
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
from common.private_files import nobody_else

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
def claimed(address: Address, *, group: str | None = None) -> Iterator[None]:
    """Holds the address for this process: nobody else takes its socket, and none is left behind.

    Guarantees:
        - The socket's folder is its owner's alone (0700), or its owner's and the group's, who may
          pass through it and change nothing (0710); made so or refused.
        - A socket in whose place somebody listens is left as it is.
        - A socket that a killed process left is removed.
        - The socket is removed at the end.

    Args:
        group: of the operating system, whose members may reach the socket as well.

    Raises:
        SiteConfigError: another process listens there, the folder is open to others, what is at
            the path is no socket, or this user cannot give files to the group.
    """
    if address.path is None:
        if group is not None:
            raise SiteConfigError(
                "Expected a Unix socket for --socket-group, found loopback, which every user of "
                "this machine can reach. Name --address unix:/PATH, or no group."
            )
        yield
        return
    path = address.path
    _require_own_folder(path.parent, _group_id(group))
    # A lock and not the socket itself decides who owns the path: the kernel gives it back when a
    # process is killed, and gRPC would unlink a socket that another process has just bound.
    with nobody_else(path.with_name(f"{path.name}.lock"), _occupied(path)):
        _remove_stale(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def share_socket(path: Path, *, group: str | None) -> None:
    """Lets the owner (0600), and with a `group` its members (0660), use a socket just made.

    Raises:
        SiteConfigError: there is no such group, or this user cannot give files to it.
    """
    gid = _group_id(group)
    if gid is not None:
        _give(path, gid)
    path.chmod(0o600 if gid is None else 0o660)


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SiteConfigError(
            f"Expected a group of this machine (--socket-group), found none called {group!r}. "
            "Make it (groupadd), with the connector's user in it."
        ) from None


def _give(path: Path, gid: int) -> None:
    try:
        os.chown(path, -1, gid)
    except PermissionError:
        raise SiteConfigError(
            f"Expected a group that this user belongs to (--socket-group), found group {gid}, "
            f"which {path} cannot be given to. Add this user to the group, too."
        ) from None


def _require_own_folder(folder: Path, gid: int | None) -> None:
    with suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    found = folder.stat()
    # With a group, its members may be let in; nobody else, and nobody may put another socket there.
    forbidden = 0o077 if gid is None else 0o027
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & forbidden:
        raise SiteConfigError(
            f"Expected a folder for the socket that is this user's alone, found mode "
            f"{stat.S_IMODE(found.st_mode):04o} ({folder}). Say chmod 700, or name another folder."
        )
    if gid is not None:
        _give(folder, gid)
        folder.chmod(0o710)


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
