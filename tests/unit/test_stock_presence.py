"""A stock SuperNode announces a heartbeat every 30 s: it is not silent after 12 s without one."""

from datetime import UTC, datetime

import pytest

from server.superlink.control import Seen
from server.superlink.presence import ListedPresence


@pytest.mark.parametrize(
    ("interval_s", "heard_s_ago", "is_silent"),
    [(10.0, 11.9, False), (10.0, 12.1, True), (30.0, 35.9, False), (30.0, 36.1, True)],
)
def test_a_node_is_silent_by_the_heartbeats_that_it_has_announced(
    interval_s: float, heard_s_ago: float, *, is_silent: bool
) -> None:
    now_s = 0.0
    node = Seen(
        node_id=1, public_key=b"", is_online=True, silent_s=heard_s_ago, interval_s=interval_s
    )
    presence = ListedPresence(lambda: ((node,), datetime.now(UTC)), clock=lambda: now_s)
    for now_s in range(14):  # noqa: B007  # the clock
        silent = presence.silent([1])
    assert silent == ({1} if is_silent else set())
