"""The life of a connector, at the seam behind which the SuperLink is."""

import threading
from pathlib import Path

import pytest

from client.node_loop import Node
from client.node_session import Session


class Ready:
    """A site process that is there."""

    def is_serving(self, *, timeout_s: float) -> bool:
        return True


class Link:
    """A SuperLink that has no message, and ends the connector's life when asked for one.

    Attributes:
        told: what the connector has asked of it, in order.
    """

    def __init__(self, node_id: int, stop: threading.Event) -> None:
        self.node_id = node_id
        self.told: list[str] = []
        self._stop = stop

    def join(self, node_id: int | None) -> None:
        self.told.append("join")

    def pull(self) -> None:
        self.told.append("pull")
        self._stop.set()

    def beat(self) -> None:
        """It lives."""

    def leave(self, *, for_good: bool) -> None:
        self.told.append("leave")

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("number", "asked"),
    [
        # It may have lost a message: away for a moment, so that nobody waits for its reply.
        (5, ["join", "pull", "leave", "join", "leave"]),
        # Under a new number there is none that it could have lost.
        (6, ["join", "pull", "leave"]),
    ],
)
def test_a_killed_connector_gives_up_what_it_may_have_lost_unless_its_number_is_new(
    tmp_path: Path, number: int, asked: list[str]
) -> None:
    session = Session(tmp_path / "session.json", superlink="here", key_digest="key")
    session.save(node_id=5)
    stop = threading.Event()
    link = Link(number, stop)
    node = Node(
        site=Ready(),  # type: ignore[arg-type]
        new_fleet=lambda _: link,  # type: ignore[arg-type, return-value]
        session=session,
        heartbeat_file=tmp_path / "heartbeat",
        stop=stop,
    )
    node.run()
    assert link.told == asked
