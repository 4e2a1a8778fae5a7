"""Frozen processes, clocks that are off, and one key used twice."""

import datetime
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore import date
from flwr.superlink.grid import HttpGrid

from client import node_auth, node_faults, node_fleet, node_loop
from client.node_faults import NotRecognised
from client.node_fleet import Fleet
from server.grid import wait_for_nodes
from tests.federation.deployment import Link, until
from tests.federation.fake_site import FakeSite
from tests.federation.hospital import Hospital, pass_time
from tests.federation.nodes import ROOT, ask, content, in_process, in_thread, new_key, only_node

pytestmark = pytest.mark.flower

IS_FULL = os.environ.get("WARDROUND_HYPOTHESIS") == "full"
# The SuperLink counts a node as gone after twenty seconds without a heartbeat.
FROZEN_S = 40 if IS_FULL else 3


# Frozen.


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_connector_that_was_frozen_is_back_under_its_number(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    with in_process(link, site, tmp_path / "a", new_key(tmp_path / "node.pem")) as process:
        hospital = Hospital(grid=grid, site=site, node=only_node(grid))
        site.gate.clear()
        replies = hospital.send(timeout_s=FROZEN_S + 60)
        until(lambda: site.asked)
        with frozen(process.pid):
            site.gate.set()
            pass_time(FROZEN_S)
        (reply,) = replies
        # Who is silent for so long is given up in this round, and is there in the next.
        assert reply.has_error() is IS_FULL or reply.content == content()
        hospital.seconds_until_back()
        hospital.check_whole()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


_SITE = """
import signal, threading
from tests.federation.fake_site import FakeSite
site = FakeSite().start()
print(site.port, flush=True)
threading.Event().wait()
"""


def test_a_site_process_that_was_frozen_answers_once_it_goes_on(
    link: Link, grid: HttpGrid, tmp_path: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", _SITE], cwd=ROOT, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            site = FakeSite(port=int(child.stdout.readline()))  # its address alone
            with in_thread(link, site, tmp_path / "a"):
                node = only_node(grid)
                with frozen(child.pid):
                    replies = Hospital(grid=grid, site=site, node=node).send(timeout_s=120)
                    session = tmp_path / "a" / "session.json"
                    until(lambda: '"in_hand": "' in session.read_text())
                    pass_time(FROZEN_S)
                    assert list(grid.get_node_ids()) == [node]  # its heartbeat goes on
                (reply,) = replies
                assert reply.content == content()
        finally:
            child.kill()


def test_a_superlink_that_was_frozen_finds_its_sites_again(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not IS_FULL:  # the line is given up while the SuperLink is frozen, as after fifteen seconds
        monkeypatch.setattr(node_fleet, "_IO_TIMEOUT_S", 1.0)
        monkeypatch.setattr(node_loop, "_LONGEST_DELAY_S", 1.0)
    with in_thread(link, site, tmp_path / "a"):
        hospital = Hospital(grid=grid, site=site, node=only_node(grid))
        assert link.process is not None
        replies = []
        with frozen(link.process.pid):
            # Sent into the silence: the SuperLink then gets it together with all that the
            # connector has asked for and given up.
            asking = threading.Thread(target=lambda: replies.extend(hospital.send(timeout_s=120)))
            asking.start()
            pass_time(FROZEN_S)
        asking.join(120)
        # An answer, or an error where the message went to a line that nobody listened to any more.
        assert len(replies) == 1
        hospital.seconds_until_back()
        hospital.check_whole()


# Clocks.


@dataclass
class Offset:
    """How far this hospital's clock is ahead."""

    seconds: float

    def delta(self) -> datetime.timedelta:
        return datetime.timedelta(seconds=self.seconds)


@contextmanager
def clock_off_by(seconds: float) -> Iterator[Offset]:
    """This hospital's clock, in all that a connector tells and judges by it."""
    off = Offset(seconds)

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Clock":
            return super().now(tz) + off.delta()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_auth, "now", lambda: date.now() + off.delta())
        patch.setattr(node_faults, "datetime", Clock)
        yield off


def joined(link: Link) -> int:
    fleet = Fleet(superlink=link.address, tls=None, key=ec.generate_private_key(ec.SECP384R1()))
    try:
        fleet.join(None)
        fleet.leave(for_good=True)
        return fleet.node_id
    finally:
        fleet.close()


@pytest.mark.parametrize("off_s", [-3600, -400, 60, 3600])
def test_a_clock_that_the_superlink_does_not_take_is_named_with_its_error(
    link: Link, off_s: int
) -> None:
    with clock_off_by(off_s), pytest.raises(NotRecognised) as refused:
        joined(link)
    text = str(refused.value)
    told_s = int(text.partition("this clock is ")[2].partition(" s off")[0])
    assert abs(told_s - off_s) <= 10


@pytest.mark.parametrize("off_s", [-250, 0, 2])
def test_a_clock_within_what_the_superlink_takes_joins(link: Link, off_s: int) -> None:
    with clock_off_by(off_s):
        assert joined(link)


def test_the_log_says_at_the_start_that_a_clock_is_off_and_the_site_joins_once_it_is_right(
    link: Link,
    grid: HttpGrid,
    site: FakeSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(node_loop, "_LONGEST_DELAY_S", 1.0)
    with clock_off_by(3600) as off, in_thread(link, site, tmp_path / "a"):
        until(lambda: "this clock is +36" in caplog.text)
        assert list(grid.get_node_ids()) == []
        off.seconds = 0
        assert ask(grid, only_node(grid)).has_content()


# One key, twice.


def test_a_second_connector_on_the_same_folder_ends_with_a_sentence(
    link: Link, grid: HttpGrid, site: FakeSite, tmp_path: Path
) -> None:
    key = new_key(tmp_path / "node.pem")
    with in_process(link, site, tmp_path / "a", key) as first:
        node = only_node(grid)
        with in_process(link, site, tmp_path / "a", key) as second:
            assert second.wait(120) != 0
        assert "One site has one connector" in (tmp_path / "a" / "log").read_text()
        assert ask(grid, node).has_content()
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0


@pytest.mark.parametrize("is_copy", [False, True])
def test_of_two_connectors_with_one_key_the_second_joins_when_the_first_has_gone(
    link: Link,
    grid: HttpGrid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_copy: bool,
) -> None:
    """On another machine; `is_copy`: with a copy of all that the first one remembers."""
    monkeypatch.setattr(node_loop, "_LONGEST_DELAY_S", 1.0)
    key = ec.generate_private_key(ec.SECP384R1())
    one, other = FakeSite().start(), FakeSite().start()
    with in_thread(link, one, tmp_path / "one", lasting_key=key):
        node = only_node(grid)
        until((tmp_path / "one" / "session.json").exists)
        if is_copy:
            shutil.copytree(tmp_path / "one", tmp_path / "other")
        with in_thread(link, other, tmp_path / "other", lasting_key=key):
            until(lambda: "PUBLIC_KEY_ALREADY_IN_USE" in caplog.text)
            first = Hospital(grid=grid, site=one, node=node)
            for _ in range(3):
                first.seconds_until_back()
            assert other.asked == []
            one.stop()  # its connector leaves
            answered = Hospital(grid=grid, site=other, node=node)
            answered.seconds_until_back()
            assert other.asked
            assert wait_for_nodes(grid, 1, timeout_s=30) == [node]
    other.stop()
