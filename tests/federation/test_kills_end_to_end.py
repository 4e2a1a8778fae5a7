"""The whole as its members run it, under service managers; any process of it is killed.

One kill; 20 of each study under `WARDROUND_HYPOTHESIS=full`. Killed are the server's and the
hospitals' supervisors, the SuperLink, site processes, connectors, and the coordinator's run.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from common.study import Study
from common.study_file import override, study_from_toml, study_to_toml, with_patient_privacy
from tests.campaigns import IS_FULL, Campaign
from tests.federation.consortium import ConsortiumOnDisk, journal, make_consortium
from tests.federation.deployment import until
from tests.federation.hospital import pass_time
from tests.federation.kills import books_of, check_ledger, check_model, come_of, newest
from tests.federation.services import Service, processes_below, services
from tests.round.tiny import TINY_STUDY

pytestmark = pytest.mark.flower

NUM_KILLS = 20 if IS_FULL else 1
# A kill comes so long after a round was committed, at random: before, in and after the next one.
SPREAD_S = 1.0
LIFE_S = 300.0
# Each kind as often as any other: which hospital's is drawn.
KINDS = ("site serve", "site connect", "SuperLink", "server run", "site up", "server up")


def study_of_kills() -> Study:
    """More rounds than kills, for some are over before the next; no round without all hospitals."""
    return override(
        study_from_toml(TINY_STUDY),
        training__rounds=3 * NUM_KILLS + 1,
        strategy__min_sites=2,
        strategy__max_attempts=20,
        strategy__round_timeout_s=LIFE_S,
    )


def kinds_in_order(source: random.Random) -> Iterator[str]:
    """Kinds without end: all of them, in some order, and again."""
    while True:
        yield from source.sample(KINDS, len(KINDS))


def strike(kind: str, made: list[Service]) -> None:
    """Kills a process of a kind, once one of these services has one."""
    found: list[int] = []

    def is_there() -> bool:
        found.extend(b[kind] for b in map(processes_below, made) if kind in b)
        return bool(found)

    until(is_there, timeout_s=LIFE_S)
    with suppress(ProcessLookupError):
        os.kill(found[0], signal.SIGKILL)


def run_and_kill(
    consortium: ConsortiumOnDisk, run: Path, source: random.Random
) -> tuple[Counter[str], list[int]]:
    """Runs the consortium's study to its end, and kills something again and again meanwhile.

    Returns: how often each kind was killed, and the exit codes of the coordinator's run.
    """
    file = consortium.folder / "study.toml"
    file.write_text(study_to_toml(consortium.study), encoding="utf-8")
    killed: Counter[str] = Counter()
    kinds = kinds_in_order(source)
    with services(consortium, file, run) as made:
        coordinator = made["server run"]
        seen = -1
        while killed.total() < NUM_KILLS:
            until(lambda: newest(run) > seen or 0 in coordinator.codes, timeout_s=LIFE_S)  # noqa: B023
            if 0 in coordinator.codes:
                break
            seen = newest(run)
            pass_time(source.uniform(0, SPREAD_S))
            kind = next(kinds)
            strike(kind, source.sample(list(made.values()), len(made)))
            killed[kind] += 1
        until(lambda: 0 in coordinator.codes, timeout_s=LIFE_S)
    return killed, coordinator.codes


def check_kills(killed: Counter[str], codes: list[int]) -> None:
    """There were as many as there should be, and nothing else has ended the coordinator's run."""
    assert killed.total() == NUM_KILLS
    assert codes == [-signal.SIGKILL] * killed["server run"] + [0]


def test_kills_of_any_process_end_in_the_model_of_an_uninterrupted_run(
    tmp_path: Path, campaign: Campaign
) -> None:
    campaign.tries(NUM_KILLS, "kills of any process", seed=3)
    consortium = make_consortium(tmp_path, study_of_kills(), "ada", "bea")
    run = tmp_path / "run"
    killed, codes = run_and_kill(consortium, run, random.Random(3))
    campaign.found({**killed, **come_of(run)})
    check_kills(killed, codes)
    check_model(run, consortium)


@pytest.mark.skipif(not IS_FULL, reason="a full run; the ledger's own kills are test_ledger_kills")
def test_kills_of_any_process_leave_no_private_round_under_counted(
    tmp_path: Path, campaign: Campaign
) -> None:
    campaign.tries(NUM_KILLS, "kills of any process, private study", seed=1)
    study = with_patient_privacy(study_of_kills(), epsilon=4.0, delta=1e-4)
    policy = {"epsilon_budget": 100.0, "delta_budget": 1e-4, "cohort_size": 80}
    consortium = make_consortium(tmp_path, study, "ada", "bea", policy=policy)
    run = tmp_path / "run"
    killed, codes = run_and_kill(consortium, run, random.Random(1))
    books = {name: books_of(folder) for name, folder in consortium.sites.items()}
    paid = {
        "reserved": sum(len(book.reservations) for book in books.values()),
        "of these for nothing": sum(len(book.over_counts()) for book in books.values()),
    }
    campaign.found({**killed, **come_of(run), **paid})
    check_kills(killed, codes)
    assert newest(run) == study.training.rounds
    for name, folder in consortium.sites.items():
        reserved = {r.request.key[1:] for r in check_ledger(folder).reservations}
        assert {("train", n) for n in range(study.training.rounds)} <= reserved
        # A hospital enrols with the size that its policy states: nothing is released.
        replies = [e for e in journal(run, "reply") if e["site"] == name and e["kind"] != "query"]
        assert {(event["kind"], event["round"]) for event in replies} <= reserved
