"""The line between a hospital and its coordinator fails in every way that lines have.

A few seconds each, with shorter patience of the connector; a partition of 5 s with the product's
own, and of 10, 60, 90 and 300 s under `WARDROUND_HYPOTHESIS=full`.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.superlink.grid import HttpGrid

from client import node_fleet, node_loop
from common.study_file import study_from_toml
from server.app import Run
from server.grid import wait_for_nodes
from server.superlink.run import run_study
from tests.campaigns import IS_FULL, Campaign
from tests.federation.blackhole import Blackhole, Way, blackhole
from tests.federation.consortium import connected, journal, make_consortium, served
from tests.federation.deployment import Link, until
from tests.federation.hospital import Hospital, Trainer, pass_time, reply_to
from tests.federation.nodes import in_thread, only_node
from tests.round.tiny import TINY_STUDY

pytestmark = pytest.mark.flower

LONG_S = (10, 60, 90, 300) if IS_FULL else (5,)
# The SuperLink counts a node as gone after twice the interval that its heartbeats announce.
GONE_AFTER_S = 2 * node_fleet.HEARTBEAT_INTERVAL_S
LARGE = 3_000_000  # float32: more than two of Flower's pieces
# An answer that carries no message is smaller.
A_MESSAGE_BYTES = 400


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connector that gives a silent line up after one second instead of fifteen."""
    monkeypatch.setattr(node_fleet, "_IO_TIMEOUT_S", 1.0)
    monkeypatch.setattr(node_loop, "_LONGEST_DELAY_S", 1.0)


@dataclass(kw_only=True)
class Distant(Hospital):
    """A hospital whose line to the SuperLink goes through the proxy."""

    proxy: Blackhole


@pytest.fixture
def hospital(link: Link, grid: HttpGrid, tmp_path: Path) -> Iterator[Distant]:
    site = Trainer().start()
    with blackhole(link.port) as proxy:
        beyond = replace(link, port=proxy.port, process=None)
        with in_thread(beyond, site, tmp_path / "node"):
            yield Distant(grid=grid, proxy=proxy, site=site, node=only_node(grid))
            proxy.heal()
    site.stop()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", [Way.HOLD, Way.SWALLOW, Way.RESET])
def test_a_site_is_back_after_a_partition_under_the_same_number(
    hospital: Distant, way: Way
) -> None:
    hospital.proxy.both(way)
    pass_time(2)
    hospital.proxy.heal()
    hospital.seconds_until_back()
    hospital.check_whole()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_line_that_is_deaf_in_one_direction_is_given_up(
    hospital: Distant, direction: str
) -> None:
    getattr(hospital.proxy, direction).way = Way.SWALLOW
    pass_time(2)
    hospital.proxy.heal()
    hospital.seconds_until_back()
    hospital.check_whole()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", [Way.HOLD, Way.SWALLOW, Way.RESET])
def test_a_reply_that_became_ready_during_a_partition_is_sent_once_it_is_over(
    hospital: Distant, way: Way
) -> None:
    hospital.site.gate.clear()
    replies = hospital.send()
    until(lambda: hospital.site.asked)
    hospital.proxy.both(way)
    hospital.site.gate.set()
    pass_time(2)
    hospital.proxy.heal()
    assert hospital.reply(replies).content == reply_to(10)
    assert len(hospital.site.asked) == hospital.num_sent
    hospital.check_whole()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", [Way.HOLD, Way.SWALLOW, Way.RESET])
def test_a_line_that_breaks_in_the_middle_of_a_large_message_costs_nothing(
    hospital: Distant, way: Way
) -> None:
    hospital.proxy.down.trap_after(2_000_000, way)
    replies = hospital.send(LARGE)
    assert hospital.proxy.down.tripped.wait(30)
    pass_time(2)
    hospital.proxy.heal()
    assert hospital.reply(replies, LARGE).content == reply_to(LARGE)
    assert len(hospital.site.asked) == hospital.num_sent
    hospital.check_whole()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", [Way.HOLD, Way.SWALLOW, Way.RESET])
def test_a_line_that_breaks_in_the_middle_of_a_large_reply_costs_nothing(
    hospital: Distant, way: Way
) -> None:
    hospital.proxy.up.trap_after(2_000_000, way)
    replies = hospital.send(LARGE)
    got: list[Message] = []
    # The coordinator asks for the reply all the while, as it does in a round.
    asking = threading.Thread(target=lambda: got.extend(replies))
    asking.start()
    assert hospital.proxy.up.tripped.wait(30)
    pass_time(2)
    hospital.proxy.heal()
    asking.join(60)
    assert [reply.content for reply in got] == [reply_to(LARGE)]
    assert hospital.site.asked == ["train"]
    hospital.check_whole()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", [Way.SWALLOW, Way.RESET])
def test_a_message_that_was_lost_on_its_way_ends_as_an_error_and_not_at_the_deadline(
    hospital: Distant, way: Way
) -> None:
    # The SuperLink has handed it out, once and for all, and nobody has it.
    hospital.proxy.down.trap(lambda piece: len(piece) > A_MESSAGE_BYTES, way)
    replies = hospital.send(timeout_s=120)
    got: list[Message] = []
    asking = threading.Thread(target=lambda: got.extend(replies))
    asking.start()
    assert hospital.proxy.down.tripped.wait(30)
    pass_time(2)
    hospital.proxy.heal()
    asking.join(60)
    assert [reply.has_error() for reply in got] == [True]
    assert hospital.site.asked == []
    hospital.seconds_until_back()
    hospital.check_whole()


def test_a_slow_line_is_used_as_it_is(hospital: Distant) -> None:
    hospital.proxy.up.bytes_per_s = hospital.proxy.down.bytes_per_s = 1_000_000
    (reply,) = hospital.send(LARGE // 12)
    assert reply.content == reply_to(LARGE // 12)
    hospital.check_whole()


@pytest.mark.parametrize("seconds", LONG_S, ids=lambda seconds: f"{seconds} s")
def test_sites_are_back_within_a_minute_of_the_end_of_a_long_partition(
    link: Link, grid: HttpGrid, tmp_path: Path, seconds: int, campaign: Campaign
) -> None:
    """Two hospitals: one has nothing to do, the other's reply becomes ready meanwhile."""
    campaign.tries(2, "hospitals cut off")
    # Nodes of the tests before, of which the SuperLink may not have heard that they have left.
    until(lambda: not list(grid.get_node_ids()), timeout_s=60)
    idle, busy = Trainer().start(), Trainer().start()
    with blackhole(link.port) as proxy, ExitStack() as nodes:
        beyond = replace(link, port=proxy.port, process=None)
        hospitals = []
        for site in (idle, busy):
            nodes.enter_context(in_thread(beyond, site, tmp_path / str(site.port)))
            known = {hospital.node for hospital in hospitals}
            (node,) = set(wait_for_nodes(grid, 1 + len(known), timeout_s=30)) - known
            hospitals.append(Hospital(grid=grid, site=site, node=node))
        busy.gate.clear()
        replies = hospitals[1].send(timeout_s=seconds + 120)
        got: list[Message] = []
        asking = threading.Thread(target=lambda: got.extend(replies))
        asking.start()
        until(lambda: busy.asked)
        proxy.both(Way.HOLD)
        busy.gate.set()
        pass_time(seconds)
        proxy.heal()
        backs = [hospital.seconds_until_back() for hospital in hospitals]
        campaign.found({"idle_s": backs[0], "reply_ready_s": backs[1]})
        asking.join(60)
        # A round does not wait for a node that is gone; the reply of one that is not is sent.
        assert [reply.has_error() for reply in got] == [seconds > GONE_AFTER_S]
        for hospital in hospitals:
            hospital.check_whole()
        assert len(list(grid.get_node_ids())) == 2
        assert busy.asked.count("train") <= hospitals[1].num_sent
    for site in (idle, busy):
        site.stop()


def test_a_message_that_was_lost_on_its_way_is_sent_again_within_the_round(tmp_path: Path) -> None:
    study = study_from_toml(TINY_STUDY)
    consortium = make_consortium(tmp_path, study, "alpha", "beta")
    run = Run(study=study, folder=tmp_path / "run", engine="superlink")
    with served(consortium), blackhole(consortium.port) as proxy:

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "round_finished" and event["round"] == 1:
                proxy.down.trap(lambda piece: len(piece) > A_MESSAGE_BYTES, Way.RESET)
                healing.start()

        def heal() -> None:
            proxy.down.tripped.wait(60)
            proxy.heal()

        healing = threading.Thread(target=heal)
        beyond = replace(consortium, port=proxy.port)
        with connected(consortium, "beta"), connected(beyond, "alpha"):
            run_study(run, consortium.coordinator, listeners=[listen])
        healing.join()
        assert proxy.down.tripped.is_set()
    assert journal(run.folder, "absent") == []
    assert journal(run.folder, "run_finished")
