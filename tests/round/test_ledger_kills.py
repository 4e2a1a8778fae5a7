"""A hospital's process is killed anywhere in a task: nothing is under-counted, nothing is lost.

24 kills at eight points; 300 under `WARDROUND_HYPOTHESIS=full`.
"""

import hashlib
import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from client.ledger.entries import Request, ledger_path, read_chain, sealed_folder
from client.ledger.verification import readable_books, verify
from client.ledger.view import view_ledger
from common.receipts import Countersigned
from common.signing import SigningKey, countersign
from tests.campaigns import IS_FULL, Campaign
from tests.unit.ledger_cases import DATASET, open_ledger, request_of, reserve, zcdp_epsilon

NUM_KILLS = 300 if IS_FULL else 24

# Under a reservation that is written, with nothing sealed in the ledger: counted, never released.
OVER_COUNTING = (
    "wrote reserved",  # and not yet synced
    "after reserved",
    "training",
    "sealed file not in place",
    "before sealed",  # the file is in place, its entry is not written
)
POINTS = ("before reserved", *OVER_COUNTING, "after sealed", "sent")


def _site(state: Path, key: SigningKey, kill: tuple[str, int] | None, tasks: Connection) -> None:
    """One life of a site: answers tasks until it dies at the n-th time that it passes a point."""
    die_at, times_left = kill or ("", 0)

    def at(point: str) -> None:
        nonlocal times_left
        times_left -= point == die_at
        if point == die_at and times_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    replace = Path.replace

    def replace_or_die(path: Path, target: Path) -> Path:
        if target.suffix == ".sealed":
            at("sealed file not in place")
        return replace(path, target)

    Path.replace = replace_or_die  # type: ignore[method-assign,assignment]
    with open_ledger(state, key, simulation=False, durable=True, at=at) as ledger:
        while (task := tasks.recv()) is not None:
            request, head = task
            if head is not None:
                ledger.accept(head)
            payload = ledger.sealed(request)
            if payload is None:
                reserve(ledger, request)
                payload = _train(state, at)
                ledger.seal(request, payload)
            ledger.sent(request)
            tasks.send((payload, ledger.receipt()))
            at("sent")


def _train(state: Path, at: Callable[[str], None]) -> bytes:
    """An update that is another each time; a file of its own tells how often it was made."""
    with (state / "trainings").open("ab") as file:
        file.write(b".")
    at("training")
    return os.urandom(64)


@dataclass
class _Coordinator:
    """Asks for one round after the other, over all lives of the site, and remembers it all."""

    state: Path
    source: random.Random
    site_key: SigningKey = field(default_factory=SigningKey.generate)
    key: SigningKey = field(default_factory=SigningKey.generate)
    round: int = 0
    head: Countersigned | None = None
    received: dict[tuple[str, str, int], bytes] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)

    def live(self, kill: tuple[str, int] | None, *, num_rounds: int) -> None:
        """One life of the site, until it is killed, or for some rounds."""
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=_site, args=(self.state, self.site_key, kill, there))
        process.start()
        there.close()
        try:
            for _ in range(num_rounds):
                self._ask(here, request_of(self.round))
                # A repeated task is a part of life as well.
                self.round += self.source.random() < 0.8
            here.send(None)
        except (EOFError, ConnectionError):
            assert kill is not None
            self.deaths[kill[0]] += 1
        here.close()
        process.join()
        assert process.exitcode == (0 if kill is None else -signal.SIGKILL)

    def _ask(self, site: Connection, request: Request) -> None:
        site.send((request, self.head))
        payload, receipt = site.recv()
        assert self.received.setdefault(request.key, payload) == payload
        last = self.head
        site_key = self.site_key.public_key
        self.head = countersign(receipt, self.key, site_key=site_key, last=last)

    def check(self) -> None:
        """What must be true after every death."""
        faults = verify(
            self.state,
            dataset_id=DATASET,
            public_key=self.site_key.public_key,
            last_countersigned=self.head,
        )
        assert faults == ()
        content = ledger_path(self.state, DATASET).read_bytes()
        books, _ = readable_books(read_chain(content))
        reserved = Counter(reservation.request.key for reservation in books.reservations)
        # Under-count 0: whatever was trained or received was reserved.
        trainings = self.state / "trainings"
        num_trainings = trainings.stat().st_size if trainings.exists() else 0
        assert num_trainings <= reserved.total() == len(books.charges())
        assert all(reserved[key] >= 1 for key in self.received)
        # Whatever was received is sealed, as it was received; acknowledged or not.
        for key, payload in self.received.items():
            assert books.seals[key].digest == hashlib.sha256(payload).hexdigest()
            file = sealed_folder(self.state, DATASET) / books.seals[key].file
            assert file.read_bytes() == payload
        # Every over-count is told, and none but those.
        num_over = sum(self.deaths[point] for point in OVER_COUNTING)
        assert len(books.over_counts()) == num_over == reserved.total() - len(books.seals)


# Of each point as many as of any other, in some order, at the first to third time.
ORDERED = [(POINTS[n % len(POINTS)], 1 + n // len(POINTS) % 3) for n in range(NUM_KILLS)]
KILLS = random.Random(4).sample(ORDERED, NUM_KILLS)
# What is checked grows with a ledger's length, so every 25 kills are another hospital's.
HOSPITALS = [KILLS[start : start + 25] for start in range(0, NUM_KILLS, 25)]


@pytest.mark.threat("S1-5")
@pytest.mark.parametrize(
    "kills", HOSPITALS, ids=[f"hospital {number:02}" for number in range(1, 1 + len(HOSPITALS))]
)
def test_after_every_kill_nothing_is_under_counted_and_the_round_goes_through(
    tmp_path: Path, kills: list[tuple[str, int]], campaign: Campaign
) -> None:
    campaign.tries(len(kills), "kills at a point of a task", seed=4)
    source = random.Random(repr(kills))
    coordinator = _Coordinator(state=tmp_path, source=source)
    for kill in kills:
        coordinator.live(kill, num_rounds=1000)
        coordinator.check()
        if source.random() < 0.3:
            coordinator.live(None, num_rounds=1)
            coordinator.check()
    coordinator.live(None, num_rounds=3)
    view = view_ledger(tmp_path, dataset_id=DATASET, delta=1e-5, accountant=zcdp_epsilon)
    campaign.found(
        {
            "killed": coordinator.deaths.total(),
            "rounds received": len(coordinator.received),
            "charged for nothing": view.over_counts,
        }
    )
    coordinator.check()
    assert coordinator.deaths == Counter(point for point, _ in kills)
    assert view.over_counts == sum(coordinator.deaths[point] for point in OVER_COUNTING)
    assert view.faults == ()


@pytest.mark.parametrize("point", POINTS)
def test_the_request_that_was_killed_goes_through_the_next_time(tmp_path: Path, point: str) -> None:
    coordinator = _Coordinator(state=tmp_path, source=random.Random(0))
    coordinator.live((point, 1), num_rounds=1000)
    asked = coordinator.round
    coordinator.live(None, num_rounds=1)
    assert ("run-a", "train", asked) in coordinator.received
    coordinator.check()


@pytest.mark.parametrize("step", ["before", "wrote", "after"])
def test_a_kill_while_an_acknowledgement_is_written_loses_nothing(
    tmp_path: Path, step: str
) -> None:
    coordinator = _Coordinator(state=tmp_path, source=random.Random(0))
    coordinator.live((f"{step} acknowledged", 2), num_rounds=1000)
    coordinator.check()
    coordinator.live(None, num_rounds=2)
    coordinator.check()


def test_the_check_after_a_kill_finds_a_ledger_that_is_written_after_the_release(
    tmp_path: Path,
) -> None:
    # The same check must fail for a ledger that forgets what was received: here, an older copy.
    coordinator = _Coordinator(state=tmp_path, source=random.Random(0))
    coordinator.live(None, num_rounds=1)
    path: Any = ledger_path(tmp_path, DATASET)
    *older, _reserved, _sealed, _sent = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(older))
    coordinator.head = None
    for file in sealed_folder(tmp_path, DATASET).iterdir():
        file.unlink()
    with pytest.raises(AssertionError):
        coordinator.check()
