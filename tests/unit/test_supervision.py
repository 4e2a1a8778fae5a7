"""Who is kept up and when: delays, signs of life, and what a hospital's two programs are."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from client.acceptance import acceptances_path
from client.config import load_site_config
from client.supervision.keep import Hospital, only_supervisor, programs_of
from client.supervision.restarts import HEALTHY_S, MOST_LASTING, Restarts, is_lasting
from client.supervision.up import Settings, hospital_of
from client.supervision.watches import Files, Health, Heartbeat
from common.errors import SiteConfigError
from common.small_program import from_json, to_json
from tests.unit.agent_cases import until

ROOT = Path(__file__).parents[2]
LOOPBACK = Settings(superlink="127.0.0.1:1", insecure=True)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


# When it is started again.


def test_delays_double_to_a_minute_and_never_fall_together() -> None:
    restarts = Restarts(random.Random(1))
    longest = [1, 2, 4, 8, 16, 32, 60, 60]
    delays = [restarts.delay_s(lived_s=0, is_lasting=False) for _ in longest]
    assert all(d is not None and m / 2 <= d <= m for d, m in zip(delays, longest, strict=True))
    other = Restarts(random.Random(2))
    assert delays != [other.delay_s(lived_s=0, is_lasting=False) for _ in longest]


def test_after_five_minutes_of_life_delays_and_failures_begin_anew() -> None:
    restarts = Restarts(random.Random(1))
    for lived_s in (0, 0, 0, HEALTHY_S - 1):
        delay_s = restarts.delay_s(lived_s=lived_s, is_lasting=True)
    assert delay_s is not None
    assert delay_s > 1
    delay_s = restarts.delay_s(lived_s=HEALTHY_S, is_lasting=True)
    assert delay_s is not None
    assert delay_s <= 1


def test_only_ends_in_a_row_that_no_time_mends_mean_to_give_up() -> None:
    restarts = Restarts(random.Random(1))
    some = MOST_LASTING - 1
    ends = [True] * some + [False] + [True] * some
    assert all(restarts.delay_s(lived_s=0, is_lasting=end) is not None for end in ends)
    assert restarts.delay_s(lived_s=0, is_lasting=True) is None


@pytest.mark.parametrize(
    ("exit_code", "last_line", "lasts"),
    [
        (1, "site_config: Expected site.toml in hospitals/ada, found none.", True),
        (1, "provision: Expected the last accepted roster, whole.", True),
        (1, "study: Expected a study, found none.", True),
        (2, "│ No such option: --addres │", True),
        (1, "data: Expected data that stay as they are while they are read.", False),
        (1, "OSError: [Errno 28] No space left on device", False),
        (1, "2026-11-21 WARNING site_config: Expected x", False),
        (0, "site_config: Expected site.toml, found none.", False),
        (-9, "site_config: Expected site.toml, found none.", False),
        (1, "", False),
    ],
)
def test_what_no_time_mends_is_told_from_what_may_mend(
    exit_code: int, last_line: str, lasts: bool
) -> None:
    assert is_lasting(exit_code, last_line) is lasts


# Signs of life.


def test_a_heartbeat_ages_by_a_clock_that_nobody_sets(tmp_path: Path) -> None:
    path, clock = tmp_path / "heartbeat", Clock()
    path.touch()
    signs = Heartbeat(path, clock=clock)
    signs.begin()
    # Whatever the time of the file says, a change of it is a sign of life, and none is none.
    for mtime in (0, 10**10, 5):
        os.utime(path, (mtime, mtime))
        assert signs.silent_s() == 0
        clock.now += 60
        assert signs.silent_s() == 60
        clock.now += 31
        assert signs.silent_s() == 91


def test_a_heartbeat_that_was_there_before_the_process_is_none_of_its_own(tmp_path: Path) -> None:
    path, clock = tmp_path / "heartbeat", Clock()
    signs = Heartbeat(path, clock=clock)
    path.touch()
    signs.begin()
    clock.now += 100
    assert signs.silent_s() == 100
    signs.begin()
    assert signs.silent_s() == 0


def test_a_heartbeat_that_is_not_there_is_silent(tmp_path: Path) -> None:
    clock = Clock()
    signs = Heartbeat(tmp_path / "none" / "heartbeat", clock=clock)
    signs.begin()
    clock.now += 100
    assert signs.silent_s() == 100


@pytest.fixture
def not_serving() -> Iterator[str]:
    """The address of a health service of something that loads, or works and ends."""
    server = grpc.server(ThreadPoolExecutor(2))
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(10)


def test_a_site_process_that_says_it_does_not_serve_is_alive(not_serving: str) -> None:
    clock = Clock()
    signs = Health(not_serving, clock=clock, every_s=0.01)
    signs.begin()
    clock.now += 100
    try:
        until(lambda: signs.silent_s() == 0)
        clock.now += 100
        until(lambda: signs.silent_s() == 0)
    finally:
        signs.close()


def test_a_site_process_that_accepts_calls_and_answers_none_is_silent() -> None:
    clock = Clock()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        signs = Health(
            f"127.0.0.1:{listener.getsockname()[1]}", clock=clock, every_s=0.01, within_s=0.05
        )
        signs.begin()
        clock.now += 61
        called, _ = listener.accept()  # it was asked
        with called:
            until(lambda: signs.num_unanswered > 2)
            assert signs.silent_s() == 61
        signs.close()


def test_a_file_that_appears_changes_or_goes_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    files = Files([path, tmp_path / "other"])
    for change in (path.touch, lambda: path.write_text("{}"), path.unlink):
        files.begin()
        assert not files.have_changed()
        change()
        assert files.have_changed()


# A hospital.


@pytest.fixture
def folder(new_site: Callable[..., Path]) -> Path:
    return new_site()


def test_a_hospital_is_kept_up_by_one_supervisor(folder: Path) -> None:
    config = load_site_config(folder)
    with (
        only_supervisor(config.state_dir, config.name),
        pytest.raises(SiteConfigError, match="Stop that one first"),
        only_supervisor(config.state_dir, config.name),
    ):
        pass
    with only_supervisor(config.state_dir, config.name):
        pass


def test_what_is_handed_to_the_small_program_is_what_was_found(folder: Path) -> None:
    hospital = hospital_of(folder, LOOPBACK)
    assert from_json(Hospital, to_json(hospital)) == hospital


def test_what_lives_as_long_as_a_hospital_loads_nothing_large() -> None:
    code = "import client.supervision.keep, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "grpc" in loaded
    assert {"torch", "flwr", "numpy", "pydantic", "cryptography", "typer"}.isdisjoint(loaded)


def test_the_connector_ends_first_and_the_site_process_may_finish_a_task(folder: Path) -> None:
    connector, site = programs_of(hospital_of(folder, LOOPBACK))
    assert (connector.name, site.name) == ("connector", "site process")
    assert connector.command[1:3] == ("site", "connect")
    assert site.command[1:3] == ("site", "serve")
    assert connector.grace_s > 15  # docs/connector.md
    assert site.grace_s > 30 + 2  # the task's, and to send its reply
    assert (connector.silence_s, site.silence_s) == (90, 60)
    assert site.renewal is signal.SIGHUP
    for program in (connector, site):
        program.signs.close()


def test_options_reach_the_program_that_they_are_for(folder: Path, tmp_path: Path) -> None:
    ca, certificate = tmp_path / "ca.pem", tmp_path / "client.pem"
    settings = Settings(
        superlink="hub.example.org:443",
        root_certificates=ca,
        client_certificate=certificate,
        address="127.0.0.1:9999",
        gpu_memory_fraction=0.25,
    )
    connector, site = programs_of(hospital_of(folder, settings))
    assert connector.command[3:] == (
        *(str(folder), "--address", "127.0.0.1:9999", "--superlink", "hub.example.org:443"),
        *("--root-certificates", str(ca), "--client-certificate", str(certificate)),
    )
    assert site.command[3:] == (
        *(str(folder), "--address", "127.0.0.1:9999", "--gpu-memory-fraction", "0.25"),
    )
    assert "--insecure" in programs_of(hospital_of(folder, LOOPBACK))[0].command


def test_no_program_phones_home_or_installs_anything(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a coloured sentence would not be recognised
    connector, site = programs_of(hospital_of(folder, LOOPBACK))
    for program in (connector, site):
        environment = program.environment
        assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert "FORCE_COLOR" not in environment
    assert connector.environment["MALLOC_ARENA_MAX"] == "1"
    assert connector.environment["MALLOC_TRIM_THRESHOLD_"] == "131072"
    # What costs a training step its time.
    assert "MALLOC_TRIM_THRESHOLD_" not in site.environment


def test_an_acceptance_renews_the_site_process_and_a_roster_both(folder: Path) -> None:
    connector, site = programs_of(hospital_of(folder, LOOPBACK))
    state = load_site_config(folder).state_dir
    state.mkdir(parents=True, exist_ok=True)
    acceptances_path(state).write_text("{}\n")
    assert (connector.files.have_changed(), site.files.have_changed()) == (False, True)
    site.files.begin()
    (state / "roster.json").write_text("{}\n")
    assert (connector.files.have_changed(), site.files.have_changed()) == (True, True)


def test_without_an_address_or_a_consortium_nothing_is_started(folder: Path) -> None:
    with pytest.raises(SiteConfigError, match="--superlink HOST:PORT, or a hospital that has"):
        programs_of(hospital_of(folder, Settings()))
