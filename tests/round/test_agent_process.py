"""A real site process on a Unix socket: started, asked, ended, killed, started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from client.agent_address import default_address
from client.agent_client import SiteConnection, connect
from client.config import load_site_config
from common.messages import TaskKind
from common.study import Study
from simulations.cohort import SiteEffects, write_cohort
from tests.unit.agent_cases import WAIT_S, accept, ask, private_of, until
from tests.unit.builders import task_of

ROOT = Path(__file__).parents[2]
COMMAND = "import sys, pathlib, client.agent; client.agent.serve_command(pathlib.Path(sys.argv[1]))"
Start = Callable[[], "Process"]


class Process:
    """A site process of its own, and a connection to it."""

    def __init__(self, folder: Path) -> None:
        state = load_site_config(folder).state_dir
        self.socket = state / "socket" / "site.sock"
        self.site: SiteConnection = connect(default_address(state))
        # Threads are set by the environment: every process here shares two cores.
        self._popen = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(folder)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._popen.pid

    def wait_until_ready(self) -> str:
        """The line that it prints."""
        assert self._popen.stdout is not None
        return self._popen.stdout.readline()

    def end(self, number: int) -> tuple[int, str]:
        """Sends a signal; the exit code and the log."""
        self._popen.send_signal(number)
        _, log = self._popen.communicate(timeout=WAIT_S)
        return self._popen.returncode, log

    def ended(self) -> tuple[int, str]:
        """The exit code and the log of a process that ends by itself."""
        _, log = self._popen.communicate(timeout=WAIT_S)
        return self._popen.returncode, log

    def close(self) -> None:
        self.site.close()
        if self._popen.poll() is None:
            self.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def private(study: Study) -> Study:
    return private_of(study)


@pytest.fixture
def start(tmp_path: Path, private: Study) -> Iterator[Start]:
    """Starts the site process of a hospital that has accepted the private study."""
    write_cohort(private, [SiteEffects(name="ada", num_patients=80)], tmp_path / "sites", seed=0)
    folder = accept(tmp_path / "sites" / "ada", private, cohort_size=60)
    started: list[Process] = []

    def new() -> Process:
        started.append(Process(folder))
        return started[-1]

    yield new
    for process in started:
        process.close()


def internet_sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets of IPv4 and IPv6."""
    held = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            held.add(str(path.readlink()))
    return {
        line.split()[9]
        for table in ("tcp", "tcp6", "udp", "udp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        if f"socket:[{line.split()[9]}]" in held
    }


def test_a_private_round_survives_a_clean_restart_and_sigkill(start: Start, private: Study) -> None:
    """One test, because each start costs the seconds in which torch is loaded."""
    first = start()
    until(first.socket.exists)
    assert first.wait_until_ready().endswith(f"is ready at unix:{first.socket}\n")
    assert first.site.is_serving()
    assert ask(first.site, task_of(private, TaskKind.ENROL), "ada").status == "ok"
    update = ask(first.site, task_of(private), "ada")
    assert update.status == "ok"
    assert internet_sockets(first.pid) == set()
    code, log = first.end(signal.SIGTERM)
    assert code == 0, log
    assert not first.socket.exists()

    second = start()
    assert second.wait_until_ready()
    again = ask(second.site, task_of(private, nonce="again"), "ada")
    assert (again.status, again.nonce) == ("ok", "again")
    assert again.arrays == update.arrays  # sealed: noise is never drawn twice for a round
    code, log = start().ended()  # a rival
    assert code != 0
    assert "one site has one site process" in log
    assert second.site.is_serving()
    second.end(signal.SIGKILL)
    assert second.socket.exists()

    third = start()
    assert third.wait_until_ready()
    until(second.site.is_serving)  # the connection of before finds the new process
    assert ask(second.site, task_of(private, nonce="third"), "ada").arrays == update.arrays
    assert ask(second.site, task_of(private, round=1, nonce="fourth"), "ada").status == "ok"
    code, log = third.end(signal.SIGINT)
    assert code == 0, log
