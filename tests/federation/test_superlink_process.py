"""The SuperLink as a child: watched, restarted, ended, alone, and with the roster's nodes only."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import RunError
from common.small_program import from_json, to_json
from server.superlink.control import control_of
from server.superlink.folder import Coordinator
from server.superlink.keep import register
from server.superlink.process import Server, SuperLink, check_host, supervise
from server.superlink.up import server_of
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
    superlink = SuperLink(server_of(Coordinator.open(consortium.out)))
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
    return processes_with(consortium.out.resolve() / "superlink" / "superlink.db")


def processes_with(word: Path) -> list[int]:
    """The processes that have this word in their command line."""
    marker = str(word).encode()
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


class Waits(threading.Event):
    """Is never set, and remembers how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None and timeout >= 1:
            self.seconds.append(timeout)
            return False
        return super().wait(timeout)


def test_pauses_double_to_half_a_minute_and_one_that_never_answers_is_given_up(
    consortium: ConsortiumFolder,
) -> None:
    server = server_of(Coordinator.open(consortium.out))
    stop, ready = Waits(), list[int]()
    with pytest.raises(RunError, match=r"did not in 8 starts.*superlink\.log"):
        supervise(
            SuperLink(replace(server, command=("/bin/false",))),
            stop=stop,
            on_ready=lambda: ready.append(1),
            most_failed_starts=8,
        )
    assert stop.seconds == [1, 2, 4, 8, 16, 30, 30]
    assert ready == []


def test_what_lives_as_long_as_a_superlink_loads_nothing_large() -> None:
    code = "import server.superlink.keep, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    large = {"torch", "flwr", "numpy", "pydantic", "cryptography", "typer", "httpx", "grpc"}
    assert large.isdisjoint(loaded)


def test_what_is_handed_to_the_small_program_is_what_was_found(
    consortium: ConsortiumFolder,
) -> None:
    server = server_of(Coordinator.open(consortium.out))
    assert from_json(Server, to_json(server)) == server


def test_a_server_goes_on_where_nodes_cannot_be_registered_or_not_in_time(
    consortium: ConsortiumFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = server_of(Coordinator.open(consortium.out))
    register(server, stop=threading.Event(), within_s=0.0)
    assert "not registered within 0 s" in caplog.text
    assert processes_with(consortium.out.resolve()) == []
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    register(server, stop=threading.Event())
    assert "not registered (No such file or directory)" in caplog.text


def test_the_rosters_nodes_are_registered_once_the_server_is_up(
    consortium: ConsortiumFolder,
) -> None:
    coordinator = Coordinator.open(consortium.out)
    process = up(consortium)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("SuperLink of north ready at 127.0.0.1:")
        with control_of(coordinator.address, ca=coordinator.ca) as control:
            until(lambda: len(control.nodes()[0]) == 2, timeout_s=60)
            keys = {node.public_key for node in control.nodes()[0]}
        assert keys == {site.node_key_pem() for site in coordinator.roster().sites}
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_roster_that_cannot_be_used_is_told_of_and_the_server_stays_up(
    consortium: ConsortiumFolder,
) -> None:
    (consortium.out / "roster.json").unlink()
    process = up(consortium)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Expected the roster at ")
        (pid,) = superlinks(consortium)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert not is_alive(pid)


def test_one_that_is_told_to_end_as_soon_as_it_is_ready_leaves_nothing(
    consortium: ConsortiumFolder,
) -> None:
    process = up(consortium)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        # Its nodes are being registered now, or are about to be.
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, text) == (0, "")
    assert processes_with(consortium.out.resolve()) == superlinks(consortium) == []


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
