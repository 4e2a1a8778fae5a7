"""Everything that can be killed is killed at random, in the middle of runs on a real SuperLink.

Two kills of each kind, one of the coordinator's run; 50 under `WARDROUND_HYPOTHESIS=full`. All
hospitals are asked for in every round, so that a run which has lost nothing ends with the very
model of an uninterrupted one. Of the whole as hospitals run it: `test_kills_end_to_end.py`.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from client.agent_address import default_address
from client.config import load_site_config
from common.study import Study
from common.study_file import override, study_from_toml, study_to_toml
from server.app import Run
from server.superlink.run import run_study
from tests.campaigns import IS_FULL, Campaign
from tests.federation.consortium import (
    ROOT,
    ConsortiumOnDisk,
    connected,
    connector_process,
    kill,
    make_consortium,
    served,
    site_process,
)
from tests.federation.deployment import until
from tests.federation.kills import check_model, check_run, come_of, newest
from tests.round.tiny import TINY_STUDY

pytestmark = pytest.mark.flower

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

    def kills(self) -> int:
        """How many there were, once the last one has happened."""
        for timer in self._timers.values():
            timer.join()
        return len(self._timers)


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
            yield lambda: strike(living)
        finally:
            ended.set()
            living[-1].kill()
            thread.join()


def strike(lives: list[subprocess.Popen[bytes]]) -> None:
    """Kills the present one, or, where it is dead already, the next."""
    until(lambda: lives[-1].poll() is None, timeout_s=LIFE_S)
    lives[-1].kill()


def conclude(campaign: Campaign, run: Run, consortium: ConsortiumOnDisk, num_kills: int) -> None:
    """Tells what has come of it, and checks that nothing was lost."""
    campaign.found({"killed": num_kills, **come_of(run.folder)})
    assert num_kills == NUM_KILLS
    check_run(run.folder, consortium)


def test_a_killed_superlink_costs_no_round(
    consortium: ConsortiumOnDisk, tmp_path: Path, campaign: Campaign
) -> None:
    campaign.tries(NUM_KILLS, "kills of the SuperLink")
    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    with served(consortium) as superlink, connected(consortium):

        def strike() -> None:
            until(lambda: superlink.pid is not None, timeout_s=LIFE_S)
            kill(superlink)

        killer = Killer(strike, seed="superlink")
        run_study(run, consortium.coordinator, listeners=[killer])
        num_kills = killer.kills()
    conclude(campaign, run, consortium, num_kills)


def test_a_killed_connector_costs_no_round(
    consortium: ConsortiumOnDisk, tmp_path: Path, campaign: Campaign
) -> None:
    campaign.tries(NUM_KILLS, "kills of a connector")
    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    with (
        served(consortium),
        connected(consortium, "beta"),
        site_process(consortium, "alpha") as address,
        restarted(lambda: connector_process(consortium, "alpha", address)) as strike,
    ):
        killer = Killer(strike, seed="connector")
        run_study(run, consortium.coordinator, listeners=[killer])
        num_kills = killer.kills()
    conclude(campaign, run, consortium, num_kills)


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


def test_a_killed_site_process_costs_no_round(
    consortium: ConsortiumOnDisk, tmp_path: Path, campaign: Campaign
) -> None:
    campaign.tries(NUM_KILLS, "kills of a site process")
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
        num_kills = killer.kills()
    conclude(campaign, run, consortium, num_kills)


def test_a_killed_coordinator_goes_on_where_it_was(
    study: Study, tmp_path: Path, campaign: Campaign
) -> None:
    num_all = NUM_KILLS if IS_FULL else 1
    campaign.tries(num_all, "kills of the coordinator's run")
    # Between two looks at it, a run may commit more than one round.
    longer = override(study, training__rounds=2 * num_all + 1)
    consortium = make_consortium(tmp_path, longer, "alpha", "beta")
    run = Run(study=longer, folder=tmp_path / "run", engine="superlink")
    file = tmp_path / "study.toml"
    file.write_text(study_to_toml(longer), encoding="utf-8")
    words = ["server", "run", str(file), "--dir", str(consortium.coordinator)]
    source = random.Random("coordinator")
    codes: list[int] = []
    with served(consortium), connected(consortium):
        while not codes or codes[-1] == -signal.SIGKILL:
            kill_after_s = source.uniform(0, SPREAD_S / 4) if len(codes) < num_all else None
            before = newest(run.folder)
            codes.append(life_of_coordinator([*words, "--out", str(run.folder)], run, kill_after_s))
            assert newest(run.folder) >= before
    num_kills = codes.count(-signal.SIGKILL)
    campaign.found({"killed": num_kills, **come_of(run.folder)})
    assert codes == [-signal.SIGKILL] * num_all + [0]
    check_model(run.folder, consortium)


def life_of_coordinator(words: list[str], run: Run, kill_after_s: float | None) -> int:
    """The exit code of `wardround server run`, killed after it has committed a round, and a bit."""
    program = "from simulations.cli import main; main()"
    before = newest(run.folder)
    resume = [] if before < 0 else ["--resume"]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words, *resume], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    with child:
        if kill_after_s is not None:
            until(lambda: newest(run.folder) > before or child.poll() is not None, timeout_s=LIFE_S)
            with suppress(subprocess.TimeoutExpired):
                child.wait(kill_after_s)
            child.kill()
        return child.wait(10 * LIFE_S)
