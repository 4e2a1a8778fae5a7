"""What a connector remembers when it is killed: its number, and the message that it has in hand.

A SuperLink hands out a message once. Who has pulled it and dies would leave the round waiting; the
next connector of this site finds it here, asks the site again (which answers from its sealed
replies) and sends the reply. A large message's content, the model, is not stored here: the
SuperLink keeps it until the reply is there. What came in one piece it does not.
"""

import base64
import binascii
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from client.node_objects import Pulled
from common.errors import MessageError, SiteConfigError
from common.files import write_atomically
from common.private_files import nobody_else

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What was in the file.

    Attributes:
        lives: how many connectors have had the message in hand.
        is_of_here: whether this machine wrote it in this place, since it was started. A copy may
            be used while the one who wrote it lives.
        has_left: whether the last one took its leave of the SuperLink.
    """

    node_id: int | None = None
    in_hand: Pulled | None = None
    lives: int = 0
    is_of_here: bool = False
    has_left: bool = False


class Session:
    """The file of one connector with one SuperLink under one key.

    Guarantees:
        - What is remembered for another SuperLink or another key is not used.
        - A damaged file is an empty one.
        - A copy of the file, on another machine or in another folder, is told from the original.
        - The file holds no content of a message, but of one that came in one piece.
    """

    def __init__(self, path: Path, *, superlink: str, key_digest: str) -> None:
        self._path = path
        self._owner = {"superlink": superlink, "key": key_digest}

    def load(self) -> Remembered:
        """What was remembered; nothing if there is no file, or it is of another node."""
        try:
            held = json.loads(self._path.read_bytes())
            if {name: held[name] for name in self._owner} != self._owner:
                return Remembered()
            stored = held["in_hand"]
            return Remembered(
                node_id=int(held["node_id"]),
                in_hand=None if stored is None else Pulled.from_bytes(base64.b64decode(stored)),
                lives=int(held["lives"]),
                is_of_here=held["place"] == self._place(),
                has_left=bool(held["has_left"]),
            )
        except (OSError, ValueError, LookupError, TypeError, binascii.Error, MessageError):
            return Remembered()

    def save(
        self,
        *,
        node_id: int,
        in_hand: Pulled | None = None,
        lives: int = 1,
        has_left: bool = False,
    ) -> None:
        """Remembers this, and nothing of before."""
        stored = None if in_hand is None else base64.b64encode(in_hand.to_bytes()).decode()
        held = {
            **self._owner,
            "place": self._place(),
            "node_id": node_id,
            "in_hand": stored,
            "lives": lives,
            "has_left": has_left,
        }
        # Not durable: it is for a killed process. After a power cut the SuperLink says who is who.
        write_atomically(self._path, json.dumps(held).encode(), durable=False, mode=0o600)

    def _place(self) -> str:
        """The start of this machine and the folder on its disk: not the same for any copy."""
        folder = self._path.parent.stat()
        return f"{_BOOT_ID.read_text().strip()} {folder.st_dev} {folder.st_ino}"


def only_one(folder: Path) -> AbstractContextManager[None]:
    """Holds `folder` for this connector.

    Raises (when entered):
        SiteConfigError: another connector holds it.
    """
    taken = SiteConfigError(
        f"Expected no other connector with its files in {folder}, found one that runs. One site "
        "has one connector: stop the other first."
    )
    return nobody_else(folder / "connector.lock", taken)
