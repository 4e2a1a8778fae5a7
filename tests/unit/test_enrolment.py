"""The roster: sites by name, and the first node under a name keeps it."""

import numpy as np
import pytest

from common.arrays import Arrays
from common.messages import Reply, TaskKind
from server.enrolment import Roster


def _reply(site: str, moments: Arrays | None = None) -> Reply:
    return Reply(
        kind=TaskKind.ENROL,
        run_id="r",
        round=0,
        nonce="n",
        site=site,
        arrays=moments,
        counts={"patients": 12},
    )


def _moments(value: float) -> Arrays:
    return Arrays.pack({"labs.sum": np.array([value])}, dtype=np.float64)


def test_a_new_roster_is_empty() -> None:
    assert len(Roster()) == 0
    assert Roster().by_node() == {}
    assert Roster().moments() == []


def test_enrolling_makes_another_roster() -> None:
    first = Roster().with_site(4, _reply("north"))
    second = first.with_site(2, _reply("east"))
    assert (len(first), len(second)) == (1, 2)
    enrolled = second.sites["north"]
    assert (enrolled.site, enrolled.node_id, enrolled.counts) == ("north", 4, {"patients": 12})


def test_the_first_node_under_a_name_keeps_it() -> None:
    roster = Roster().with_site(4, _reply("north"))
    with pytest.raises(ValueError, match="another node has enrolled under this name"):
        roster.with_site(5, _reply("north"))
    assert roster.sites["north"].node_id == 4


def test_nodes_and_moments_are_in_the_order_of_site_names() -> None:
    roster = (
        Roster()
        .with_site(1, _reply("west", _moments(3.0)))
        .with_site(9, _reply("east", _moments(1.0)))
        .with_site(5, _reply("north"))
        .with_site(3, _reply("south", _moments(2.0)))
    )
    assert list(roster.by_node()) == [9, 5, 3, 1]
    assert [moments.flat[0] for moments in roster.moments()] == [1.0, 2.0, 3.0]
