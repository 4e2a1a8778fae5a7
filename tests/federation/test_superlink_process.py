"""The SuperLink as a child: watched, restarted, ended, alone, and with the roster's nodes only."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import RunError
from server.superlink.control import control_of
from server.superlink.folder import Coordinator
from server.superlink.process import SuperLink, check_host, supervise
from simulations.marked_processes import free_port
from tests.federation.deployment import until
from tests.unit.provision_cases import ConsortiumFolder

pytestmark = pytest.mark.flower

ROOT = Path(__file__).parents[2]


@pytest.fixture
def consortium(tmp_path: Path) -> ConsortiumFolder:
    made = ConsortiumFolder(tmp_path, "alpha", "beta")
    made.content["coordinator"]["superlink_port"] = free_port()
    made.save()
    made.provision()
    return made


@contextmanager
def supervised(consortium: ConsortiumFolder) -> Iterator[tuple[SuperLink, list[int | None]]]:
    """A SuperLink that is watched closely, and its process each time that it was ready."""
    superlink = SuperLink(Coordinator.open(consortium.out))
    stop = threading.Event()
    pids: list[int | None] = []
    with ThreadPoolExecutor(max_workers=1) as pool:
        ended = pool.submit(
            supervise,
            superlink,
            stop=stop,
            on_ready=lambda: pids.append(superlink.pid),
            first_delay_s=0.1,
            wedged_after_s=2.0,
        )
        try:
            until(lambda: pids or ended.done(), timeout_s=60)
            yield superlink, pids
        finally:
            stop.set()
            ended.result(60)


def is_alive(pid: int | None) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def up(consortium: ConsortiumFolder, *options: str) -> "subprocess.Popen[str]":
    """`wardround server up`, of a process of its own."""
    code = "from simulations.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "server", "up", str(consortium.out), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def superlinks(consortium: ConsortiumFolder) -> list[int]:
    """The processes that have this consortium's database in their command line."""
    marker = str(consortium.out.resolve() / "superlink" / "superlink.db").encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if is_alive(pid)]


def test_one_that_dies_or_hangs_is_started_again_with_its_database(
    consortium: ConsortiumFolder,
) -> None:
    with supervised(consortium) as (superlink, pids):
        coordinator = Coordinator.open(consortium.out)
        with control_of(superlink.address, ca=coordinator.ca) as control:
            sites = control.register(coordinator.roster())
        assert sorted(sites.values()) == ["alpha", "beta"]
        os.kill(pids[0] or 0, signal.SIGKILL)
        until(lambda: len(pids) == 2, timeout_s=60)
        os.kill(pids[1] or 0, signal.SIGSTOP)
        until(lambda: len(pids) == 3, timeout_s=60)
        assert not is_alive(pids[1])
        with control_of(superlink.address, ca=coordinator.ca) as control:
            assert control.register(coordinator.roster()) == sites
    assert not any(is_alive(pid) for pid in pids)
    assert superlinks(consortium) == []


@pytest.mark.threat("K-1")
def test_the_rosters_nodes_and_no_others_are_registered(consortium: ConsortiumFolder) -> None:
    with supervised(consortium) as (superlink, _):
        ca = consortium.out / "ca.pem"
        with control_of(superlink.address, ca=ca) as control:
            before = control.register(Coordinator.open(consortium.out).roster())
            consortium.remove("alpha")
            consortium.send_keys("beta")
            consortium.add("gamma")
            consortium.provision(replace=["beta"])
            after = control.register(Coordinator.open(consortium.out).roster())
            assert sorted(after.values()) == ["beta", "gamma"]
            # New keys are a new node.
            assert not before.keys() & after.keys()
            nodes, _ = control.nodes()
            assert {n.node_id for n in nodes} == set(after)
            assert all(not n.is_online and n.silent_s == float("inf") for n in nodes)
            keys = {site.node_key_pem() for site in Coordinator.open(consortium.out).roster().sites}
            assert {n.public_key for n in nodes} == keys


@pytest.mark.threat("K-1")
def test_a_key_that_was_taken_off_the_list_needs_a_new_one(consortium: ConsortiumFolder) -> None:
    both = Coordinator.open(consortium.out).roster()
    consortium.remove("alpha")
    consortium.provision()
    one = Coordinator.open(consortium.out).roster()
    with (
        supervised(consortium) as (superlink, _),
        control_of(superlink.address, ca=consortium.out / "ca.pem") as control,
    ):
        control.register(both)
        control.register(one)
        with pytest.raises(RunError, match=r"node key of 'alpha'.*--rotate.*--replace alpha"):
            control.register(both)


def test_nothing_is_left_where_the_parent_is_killed(consortium: ConsortiumFolder) -> None:
    process = up(consortium)
    try:
        assert process.stdout is not None
        assert "ready at 127.0.0.1:" in process.stdout.readline()
        (pid,) = superlinks(consortium)
    finally:
        process.kill()
        process.communicate()
    until(lambda: not is_alive(pid))


def test_it_ends_cleanly_and_is_the_only_one_of_its_folder(consortium: ConsortiumFolder) -> None:
    process = up(consortium)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        second = up(consortium)
        _, text = second.communicate(timeout=60)
        assert (second.returncode, text.count("\n")) == (1, 1)
        assert "Expected one server for this folder" in text
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert superlinks(consortium) == []


def test_a_port_that_is_taken_is_said_in_one_sentence(consortium: ConsortiumFolder) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", consortium.content["coordinator"]["superlink_port"]))
        listener.listen()
        process = up(consortium)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Expected to listen at 127.0.0.1, port" in text
    assert "Traceback" not in text


@pytest.mark.threat("N-2")
def test_only_loopback_is_listened_at_unless_the_network_is_trusted() -> None:
    for host in ("127.0.0.1", "::1"):
        check_host(host, without_proxy=False)
    for host in ("0.0.0.0", "192.0.2.7", "::"):  # noqa: S104  # refused
        with pytest.raises(RunError, match="--without-proxy"):
            check_host(host, without_proxy=False)
        check_host(host, without_proxy=True)
    with pytest.raises(RunError, match="an address of this machine"):
        check_host("fl.example.org", without_proxy=True)
