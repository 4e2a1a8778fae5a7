"""Who is silent, on a clock that the test moves."""

from datetime import UTC, datetime

import pytest

from common.errors import RunError
from server.superlink.control import Seen
from server.superlink.presence import ListedPresence


class List:
    """The SuperLink's list of nodes: seconds since each was heard of; None: no answer."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.num_asked = 0
        self.heard_at: dict[int, float] | None = {}
        self.presence = ListedPresence(self.nodes, clock=lambda: self.now_s)

    def nodes(self) -> tuple[tuple[Seen, ...], datetime]:
        self.num_asked += 1
        if self.heard_at is None:
            raise RunError("away")
        seen = tuple(
            Seen(node_id=n, public_key=b"", is_online=True, silent_s=self.now_s - at)
            for n, at in self.heard_at.items()
        )
        return seen, datetime.now(UTC)

    def watch(self, until_s: float, *node_ids: int) -> float | None:
        """Looks every half second; when all of the nodes are silent, or None until `until_s`."""
        while self.now_s < until_s:
            self.now_s += 0.5
            if self.presence.silent(node_ids) >= set(node_ids):
                return self.now_s
        return None


@pytest.fixture
def listed() -> List:
    return List()


def test_a_site_is_silent_within_15_s_of_its_last_heartbeat(listed: List) -> None:
    listed.heard_at = {1: 0.0, 2: 1e9}
    listed.watch(20.0, 2)
    listed.heard_at[1] = 20.0
    found = listed.watch(60.0, 1)
    assert found is not None
    assert 12.0 <= found - 20.0 <= 15.0


def test_a_site_that_beats_is_never_silent(listed: List) -> None:
    listed.heard_at = {1: 0.0}
    for second in range(4, 100, 4):
        assert listed.watch(float(second), 1) is None
        listed.heard_at[1] = float(second)


def test_a_node_that_is_not_on_the_list_is_silent(listed: List) -> None:
    assert listed.watch(60.0, 7) is not None


def test_after_an_outage_everybody_has_12_s_to_come_back(listed: List) -> None:
    listed.heard_at = {1: 1e9}
    listed.watch(20.0, 1)
    listed.heard_at = None
    assert listed.watch(60.0, 1) is None
    listed.heard_at = {1: 20.0}
    found = listed.watch(90.0, 1)
    assert found is not None
    assert 72.0 <= found <= 75.0


def test_after_an_outage_between_two_looks_everybody_has_12_s_too(listed: List) -> None:
    listed.heard_at = {1: 1e9}
    listed.watch(20.0, 1)
    listed.heard_at = {1: 10.0}
    listed.presence.start_again()
    found = listed.watch(60.0, 1)
    assert found is not None
    assert 32.0 <= found <= 35.0


def test_a_time_in_which_nobody_looked_counts_as_an_outage(listed: List) -> None:
    listed.heard_at = {1: 1e9}
    listed.watch(20.0, 1)
    listed.now_s, listed.heard_at = 50.0, {1: 20.0}
    found = listed.watch(90.0, 1)
    assert found is not None
    assert found >= 62.0


def test_the_superlink_is_not_asked_more_often_than_every_two_seconds(listed: List) -> None:
    listed.heard_at = {1: 1e9}
    listed.watch(20.0, 1)
    assert listed.num_asked <= 11
