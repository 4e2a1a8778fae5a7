"""Everything that can be killed is killed at random, in the middle of runs on a real SuperLink.

Two kills of each kind; 50 under `WARDROUND_HYPOTHESIS=full`. All hospitals are asked for in every
round, so that a run which has lost nothing ends with the very model of an uninterrupted one.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from client.agent_address import default_address
from client.config import load_site_config
from client.ledger.books import Books
from client.ledger.entries import ledger_path, read_chain, sealed_folder
from client.ledger.verification import readable_books, verify
from client.site import Site
from common.study import Study
from common.study_file import override, study_from_toml, study_to_toml, with_patient_privacy
from common.wire import Reply, Task
from server.app import Run
from server.superlink.run import run_study
from simulations.cohort import SiteEffects, write_cohort
from simulations.simulate import Simulation, simulate
from tests.federation.consortium import (
    ROOT,
    ConsortiumOnDisk,
    connected,
    connector_process,
    journal,
    kill,
    make_consortium,
    served,
    site_process,
)
from tests.federation.deployment import until
from tests.round.tiny import TINY_STUDY
from tests.unit.agent_cases import accept
from tests.unit.builders import task_of
from tests.unit.consortium import signed

pytestmark = pytest.mark.flower

IS_FULL = os.environ.get("WARDROUND_HYPOTHESIS") == "full"
NUM_KILLS = 50 if IS_FULL else 2
# A kill comes so long after a round's tasks were sent, at random: before, in and after the work.
SPREAD_S = 0.4
LIFE_S = 120.0


@pytest.fixture(scope="module")
def study() -> Study:
    """One round for each kill, and one more; no round without all hospitals."""
    return override(
        study_from_toml(TINY_STUDY),
        training__rounds=NUM_KILLS + 1,
        strategy__min_sites=2,
        strategy__max_attempts=20,
        strategy__round_timeout_s=LIFE_S,
    )


@pytest.fixture
def consortium(study: Study, tmp_path: Path) -> ConsortiumOnDisk:
    return make_consortium(tmp_path, study, "alpha", "beta")


def uninterrupted(consortium: ConsortiumOnDisk) -> bytes:
    """The model of the same study over the same hospitals, in one process."""
    out = consortium.folder / "in-process"
    simulate(Simulation(study=consortium.study, sites=consortium.folder / "sites", out=out))
    return (out / "model.safetensors").read_bytes()


class Killer:
    """Listens to a run, and kills once in every round but the last."""

    def __init__(self, strike: Callable[[], None], *, seed: str) -> None:
        self._strike = strike
        self._random = random.Random(seed)
        self._timers: dict[int, threading.Timer] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        number = event.get("round", -1)
        is_new = event["event"] == "asked" and event["kind"] == "train"
        if is_new and number not in self._timers and len(self._timers) < NUM_KILLS:
            timer = threading.Timer(self._random.uniform(0, SPREAD_S), self._strike)
            self._timers[number] = timer
            timer.start()

    def check(self) -> None:
        """Every kill has happened."""
        for timer in self._timers.values():
            timer.join()
        assert len(self._timers) == NUM_KILLS


Start = Callable[[], AbstractContextManager[subprocess.Popen[bytes]]]


@contextmanager
def restarted(start: Start) -> Iterator[Callable[[], None]]:
    """A process that is started again whenever it has died; what it gives kills the process."""
    ended = threading.Event()
    with ExitStack() as lives:
        living = [lives.enter_context(start())]

        def watch() -> None:
            while not ended.is_set():
                living[-1].wait()
                if not ended.is_set():
                    living.append(lives.enter_context(start()))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield lambda: living[-1].kill()
        finally:
            ended.set()
            living[-1].kill()
            thread.join()


def check(run: Run, consortium: ConsortiumOnDisk) -> None:
    """The run has ended with the model of an uninterrupted one, every round committed once."""
    assert (run.folder / "model.safetensors").read_bytes() == uninterrupted(consortium)
    committed = [event["round"] for event in journal(run.folder, "round_finished")]
    assert committed == list(range(1, NUM_KILLS + 2))
    for name, folder in consortium.sites.items():
        check_ledger(folder, name)


def check_ledger(site_dir: Path, name: str) -> Books:
    config = load_site_config(site_dir)
    content = ledger_path(config.state_dir, config.dataset_id).read_bytes()
    books, _ = readable_books(read_chain(content))
    faults = verify(config.state_dir, dataset_id=config.dataset_id)
    assert faults == (), name
    assert books.charges(), name
    return books


def test_a_killed_superlink_costs_no_round(consortium: ConsortiumOnDisk, tmp_path: Path) -> None:
    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    with served(consortium) as superlink, connected(consortium):

        def strike() -> None:
            with suppress(AssertionError, ProcessLookupError):  # it is dead already
                kill(superlink)

        killer = Killer(strike, seed="superlink")
        run_study(run, consortium.coordinator, listeners=[killer])
        killer.check()
    check(run, consortium)


def test_a_killed_connector_costs_no_round(consortium: ConsortiumOnDisk, tmp_path: Path) -> None:
    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    with (
        served(consortium),
        connected(consortium, "beta"),
        site_process(consortium, "alpha") as address,
        restarted(lambda: connector_process(consortium, "alpha", address)) as strike,
    ):
        killer = Killer(strike, seed="connector")
        run_study(run, consortium.coordinator, listeners=[killer])
        killer.check()
    check(run, consortium)


_SERVE = "import sys, pathlib, client.agent; client.agent.serve_command(pathlib.Path(sys.argv[1]))"


@contextmanager
def site_alone(consortium: ConsortiumOnDisk, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """The site process of a hospital as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(consortium.sites[name])],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_site_process_costs_no_round(consortium: ConsortiumOnDisk, tmp_path: Path) -> None:
    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    address = default_address(load_site_config(consortium.sites["alpha"]).state_dir)
    with (
        served(consortium),
        connected(consortium, "beta"),
        restarted(lambda: site_alone(consortium, "alpha")) as strike,
        connector_process(consortium, "alpha", address),
    ):
        killer = Killer(strike, seed="site")
        run_study(run, consortium.coordinator, listeners=[killer])
        killer.check()
    check(run, consortium)


def test_a_killed_coordinator_goes_on_where_it_was(
    consortium: ConsortiumOnDisk, tmp_path: Path
) -> None:
    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    file = tmp_path / "study.toml"
    file.write_text(study_to_toml(consortium.study), encoding="utf-8")
    words = ["server", "run", str(file), "--dir", str(consortium.coordinator)]
    source = random.Random("coordinator")
    codes: list[int] = []
    with served(consortium), connected(consortium):
        while not codes or codes[-1] == -signal.SIGKILL:
            kill_after_s = source.uniform(0, SPREAD_S / 4) if len(codes) < NUM_KILLS else None
            before = newest(run)
            codes.append(life_of_coordinator([*words, "--out", str(run.folder)], run, kill_after_s))
            assert newest(run) >= before
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert len(codes) > NUM_KILLS / 2
    assert (run.folder / "model.safetensors").read_bytes() == uninterrupted(consortium)
    resumed = [event["round"] for event in journal(run.folder, "run_resumed")]
    assert resumed == sorted(resumed)


def life_of_coordinator(words: list[str], run: Run, kill_after_s: float | None) -> int:
    """The exit code of `wardround server run`, killed after it has committed a round, and a bit."""
    program = "from simulations.cli import main; main()"
    before = newest(run)
    resume = [] if before < 0 else ["--resume"]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words, *resume], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    with child:
        if kill_after_s is not None:
            until(lambda: newest(run) > before or child.poll() is not None, timeout_s=LIFE_S)
            with suppress(subprocess.TimeoutExpired):
                child.wait(kill_after_s)
            child.kill()
        return child.wait(LIFE_S)


def newest(run: Run) -> int:
    """The newest round that is committed; -1 for none."""
    names = (run.folder / "checkpoints").glob("round-*.json")
    return max((int(path.stem.removeprefix("round-")) for path in names), default=-1)


# A private hospital, without a network: killed at random, and asked again.


@pytest.fixture
def private_site(tmp_path: Path) -> tuple[Path, Study]:
    """A hospital that has accepted a private study with a round for each kill, and some more."""
    public = override(study_from_toml(TINY_STUDY), training__rounds=2 * NUM_KILLS + 2)
    study = with_patient_privacy(public, epsilon=4.0, delta=1e-4)
    write_cohort(study, [SiteEffects(name="alpha", num_patients=80)], tmp_path / "sites", seed=0)
    folder = accept(tmp_path / "sites" / "alpha", study, cohort_size=60)
    return folder, study


def _live(site_dir: Path, tasks: Connection) -> None:
    """One life of a site process: the door, behind a pipe."""
    site = Site.open(site_dir)
    while True:
        tasks.send(site.answer(tasks.recv()))


def ask(site_dir: Path, task: Task, *, kill_after_s: float | None) -> Reply | None:
    """The reply of a new life of the site; None where it was killed first."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_live, args=(site_dir, there), daemon=True)
    process.start()
    there.close()
    try:
        here.send(task)
        if kill_after_s is None or here.poll(kill_after_s):
            reply: Reply = here.recv()
            return reply
        return None
    finally:
        process.kill()
        process.join()
        here.close()


def test_a_private_hospital_that_is_killed_at_random_is_never_under_counted(
    private_site: tuple[Path, Study],
) -> None:
    site_dir, study = private_site
    source = random.Random("private")
    started = time.monotonic()
    assert ask(site_dir, task_of_round(study, 0), kill_after_s=None) is not None
    whole_s = time.monotonic() - started
    received: dict[int, Reply] = {}
    num_killed = 0
    for number in range(1, NUM_KILLS + 1):
        while num_killed < number:
            after_s = source.uniform(0, whole_s)
            reply = ask(site_dir, task_of_round(study, number), kill_after_s=after_s)
            num_killed += reply is None
            if reply is not None:
                assert reply.status == "ok"
                assert received.setdefault(number, reply).arrays == reply.arrays
                break
        check_counts(site_dir, received)
    for number, reply in received.items():
        # Under another nonce: with the old one, all but the last would be replays.
        anew = signed(task_of(study, round=number, nonce=f"again-{number}"))
        again = ask(site_dir, anew, kill_after_s=None)
        assert again is not None
        assert again.arrays == reply.arrays


def task_of_round(study: Study, number: int) -> Task:
    return signed(task_of(study, round=number, nonce=f"{number:032x}"))


def check_counts(site_dir: Path, received: dict[int, Reply]) -> None:
    books = check_ledger(site_dir, site_dir.name)
    reserved = {reservation.request.round for reservation in books.reservations}
    assert set(received) <= reserved
    config = load_site_config(site_dir)
    num_sealed = len(list(sealed_folder(config.state_dir, config.dataset_id).glob("*.sealed")))
    assert num_sealed <= len(books.reservations)
