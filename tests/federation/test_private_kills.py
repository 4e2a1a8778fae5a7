"""A private hospital is killed at random, without a network, and asked again.

Two kills; 50 under `WARDROUND_HYPOTHESIS=full`.
"""

import multiprocessing
import random
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from client.config import load_site_config
from client.ledger.entries import sealed_folder
from client.site import Site
from common.messages import Reply, Task
from common.study import Study
from common.study_file import override, study_from_toml, with_patient_privacy
from simulations.cohort import SiteEffects, write_cohort
from tests.campaigns import IS_FULL, Campaign
from tests.federation.kills import books_of, check_ledger
from tests.round.tiny import TINY_STUDY
from tests.unit.agent_cases import accept
from tests.unit.builders import task_of
from tests.unit.consortium import signed

NUM_KILLS = 50 if IS_FULL else 2


@pytest.fixture
def private_site(tmp_path: Path) -> tuple[Path, Study]:
    """A hospital that has accepted a private study with more rounds than will be asked for."""
    public = override(study_from_toml(TINY_STUDY), training__rounds=10 * NUM_KILLS)
    study = with_patient_privacy(public, epsilon=4.0, delta=1e-4)
    write_cohort(study, [SiteEffects(name="alpha", num_patients=80)], tmp_path / "sites", seed=0)
    folder = accept(tmp_path / "sites" / "alpha", study, cohort_size=60)
    return folder, study


def _live(site_dir: Path, tasks: Connection) -> None:
    """One life of a site process: the door, behind a pipe, which says when it is open."""
    site = Site.open(site_dir)
    tasks.send(None)
    while True:
        tasks.send(site.answer(tasks.recv()))


@dataclass(kw_only=True)
class Stage:
    """What a life goes through: it opens, or it works.

    Attributes:
        took_s: the last time that it was not killed.
        kill_after_s: from its beginning; None for not in this life.
    """

    took_s: float = 0.0
    kill_after_s: float | None = None

    def is_survived(self, answers: Connection) -> bool:
        """Whether the life has answered before it was to be killed."""
        started = time.monotonic()
        if self.kill_after_s is not None and not answers.poll(self.kill_after_s):
            return False
        answers.poll(None)
        self.took_s = time.monotonic() - started
        return True


def ask(site_dir: Path, task: Task, opening: Stage, working: Stage) -> Reply | None:
    """The reply of a new life of the site; None where it was killed first."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_live, args=(site_dir, there), daemon=True)
    process.start()
    there.close()
    try:
        if not opening.is_survived(here):
            return None
        here.recv()
        here.send(task)
        if not working.is_survived(here):
            return None
        reply: Reply = here.recv()
        return reply
    finally:
        process.kill()
        process.join()
        here.close()


def draw(source: random.Random, opening: Stage, working: Stage) -> None:
    """When the next life is killed: one in five while it opens, the others in or after the work."""
    opening.kill_after_s = working.kill_after_s = None
    if source.random() < 0.2:
        opening.kill_after_s = source.uniform(0, opening.took_s)
    else:
        working.kill_after_s = source.uniform(0, 1.25 * working.took_s)


def test_a_private_hospital_that_is_killed_at_random_is_never_under_counted(
    private_site: tuple[Path, Study], campaign: Campaign
) -> None:
    campaign.tries(NUM_KILLS, "kills in a private round")
    site_dir, study = private_site
    source = random.Random("private")
    received: dict[int, Reply] = {}
    opening, working = Stage(), Stage()
    num_killed = 0
    while num_killed < NUM_KILLS:
        # The first round is never killed: it tells how long one takes.
        if received:
            draw(source, opening, working)
        reply = ask(site_dir, task_of_round(study, len(received)), opening, working)
        num_killed += reply is None
        if reply is not None:
            assert reply.status == "ok"
            received[len(received)] = reply
        check_counts(site_dir, received)
    books = books_of(site_dir)
    campaign.found(
        {
            "killed": num_killed,
            "answered": len(received),
            "reserved": len(books.reservations),
            "of these for nothing": len(books.over_counts()),
        }
    )
    for number, reply in received.items():
        # Under another nonce: with the old one, all but the last would be replays.
        anew = signed(task_of(study, round=number, nonce=f"again-{number}"))
        again = ask(site_dir, anew, Stage(), Stage())
        assert again is not None
        assert again.arrays == reply.arrays


def task_of_round(study: Study, number: int) -> Task:
    return signed(task_of(study, round=number, nonce=f"{number:032x}"))


def check_counts(site_dir: Path, received: dict[int, Reply]) -> None:
    books = check_ledger(site_dir)
    reserved = {reservation.request.round for reservation in books.reservations}
    assert set(received) <= reserved
    config = load_site_config(site_dir)
    num_sealed = len(list(sealed_folder(config.state_dir, config.dataset_id).glob("*.sealed")))
    assert num_sealed <= len(books.reservations)
