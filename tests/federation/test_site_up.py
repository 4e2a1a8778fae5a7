"""A hospital kept up by one command: real processes, a real SuperLink, faults and an acceptance."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.superlink.grid import HttpGrid

from client import acceptance
from client.agent_address import default_address
from client.agent_client import SiteConnection, connect
from client.config import load_site_config
from client.status import status_of
from common.errors import SiteProcessError
from common.messages import TaskKind
from common.study import Study
from common.study_file import override
from common.wire import reply_from_records, task_to_records
from server.grid import exchange, wait_for_nodes
from simulations.cohort import SiteEffects, write_cohort
from tests.federation.deployment import Link, coordinator, superlink, until
from tests.unit.agent_cases import accept, private_of
from tests.unit.builders import study_of, task_of
from tests.unit.consortium import signed

WAIT_S = 120.0  # on a machine with much else to do
_STARTED = re.compile(r"the (connector|site process) is started, process (\d+)")


class Up:
    """`wardround site up`, and what it says."""

    def __init__(self, folder: Path, link: Link, log: Path) -> None:
        self._log = log
        wardround = Path(sys.executable).with_name("wardround")
        command = [wardround, "site", "up", folder, "--superlink", link.address, "--insecure"]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def pids(self, name: str) -> list[int]:
        """Of all processes of this name so far, the present one last."""
        return [int(pid) for found, pid in _STARTED.findall(self.said) if found == name]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(90)


@pytest.fixture(scope="module")
def study() -> Study:
    return private_of(study_of())


@pytest.fixture
def folder(tmp_path: Path, study: Study) -> Path:
    write_cohort(study, [SiteEffects(name="ada", num_patients=80)], tmp_path / "sites", seed=0)
    return accept(tmp_path / "sites" / "ada", study, cohort_size=60)


@contextmanager
def kept_up(folder: Path, link: Link, log: Path) -> Iterator[Up]:
    up = Up(folder, link, log)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.end(signal.SIGKILL)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    with superlink(tmp_path / "link") as found:
        yield found


def enrolled(grid: HttpGrid, study: Study, round_number: int) -> str:
    """The status of the hospital's reply to an enrolment, over the SuperLink."""
    fields = {"nonce": f"nonce{round_number}", "round": round_number}
    task = signed(task_of(study, TaskKind.ENROL, **fields), "ada")
    (node_id,) = wait_for_nodes(grid, 1, timeout_s=WAIT_S)
    (reply,) = exchange(grid, [Message(task_to_records(task), node_id, "query")], timeout_s=WAIT_S)
    assert not reply.has_error(), reply.error
    return reply_from_records(reply.content).status


def accepted_by(site: SiteConnection) -> tuple[str, ...]:
    """What the running site process works for; nothing while it is away."""
    try:
        return site.describe().accepted_studies
    except SiteProcessError:
        return ()


def is_there(pid: int) -> bool:
    """Whether a process exists, and not merely was not waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_hospital_lives_through_kills_and_an_acceptance_and_ends_when_told(
    folder: Path, link: Link, study: Study, tmp_path: Path
) -> None:
    config = load_site_config(folder)
    with (
        kept_up(folder, link, tmp_path / "up.log") as up,
        coordinator(link) as grid,
        connect(default_address(config.state_dir)) as site,
    ):
        assert enrolled(grid, study, 0) == "ok"
        until(lambda: status_of(folder).is_well, timeout_s=WAIT_S)

        # The site process is killed.
        os.kill(up.pids("site process")[-1], signal.SIGKILL)
        until(lambda: len(up.pids("site process")) == 2, timeout_s=WAIT_S)
        assert enrolled(grid, study, 0) == "ok"

        # The connector is killed.
        os.kill(up.pids("connector")[-1], signal.SIGKILL)
        until(lambda: len(up.pids("connector")) == 2, timeout_s=WAIT_S)

        # A study is accepted, which is read at a start alone.
        more = override(study, training__rounds=2)
        acceptance.accept(config, more)
        until(lambda: more.hash in accepted_by(site), timeout_s=WAIT_S)
        assert len(up.pids("site process")) == 3
        assert "files have changed" in up.said

        # A second supervisor.
        with kept_up(folder, link, tmp_path / "second.log") as second:
            assert second.process.wait(WAIT_S) == 1
            assert "Stop that one first" in second.said

        pids = [*up.pids("site process"), *up.pids("connector")]
        assert up.end() == 0
        assert not any(is_there(pid) for pid in pids)
    # The connector ended before what it stands in front of.
    assert status_of(folder, with_connector=False).site is not None
    assert not (config.state_dir / "socket" / "site.sock").exists()


def test_nothing_is_left_of_a_supervisor_that_was_killed(
    folder: Path, link: Link, tmp_path: Path
) -> None:
    with kept_up(folder, link, tmp_path / "up.log") as up:
        until(lambda: up.pids("site process") and up.pids("connector"), timeout_s=WAIT_S)
        pids = [*up.pids("site process"), *up.pids("connector")]
        up.end(signal.SIGKILL)
        until(lambda: not any(is_there(pid) for pid in pids), timeout_s=WAIT_S)
