"""Mutants of the wire, both ways: a site and a coordinator that get anything at all.

1,200 mutants of bytes and 600 of records; 200,000 and 20,000 under `WARDROUND_HYPOTHESIS=full`,
half of them each way. What still is a message after its change is tried twice: as it is, when a
signature stops it, and signed anew with the right key, as a hostile coordinator or a hostile
hospital would.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest
from flwr.app import Message, RecordDict

from client.agent_service import answer_bytes
from client.site import Site
from common import wire
from common.code_version import code_fingerprint
from common.envelope import sign_reply
from common.errors import MessageError, RefusalCode
from common.messages import OK, Reply, Task, TaskKind
from common.metrics.evaluation import declared_sizes
from common.models.patient_model import PatientModel, state_manifest
from common.study import Study
from common.study_file import override
from server.correspondence import Signed
from server.inbox import Expected, open_reply
from tests.attacks.wire_mutants import mutate_bytes, mutate_records
from tests.campaigns import IS_FULL, Campaign
from tests.unit.builders import instruction, task_of
from tests.unit.consortium import COORDINATOR, roster_of, signed
from tests.unit.provision_cases import new_keys

NUM_OF_BYTES = 100_000 if IS_FULL else 600
NUM_OF_RECORDS = 10_000 if IS_FULL else 300
# A site takes a limited number of tasks in a run.
TASKS_PER_RUN = 100
pytestmark = pytest.mark.threat("S1-4")


@pytest.fixture(scope="module")
def plain(tiny_study: Study) -> Study:
    return override(tiny_study, normalisation__method="public_range")


@pytest.fixture
def site(
    open_real: Callable[..., Site], plain: Study, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    # The disk is waited for in the tests of the books; here it would take an hour.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    logging.disable(logging.CRITICAL)
    yield open_real(plain, allow_without_privacy=True)
    logging.disable(logging.NOTSET)


def honest_tasks(study: Study, run_id: str = "run") -> list[Task]:
    return [
        signed(task_of(study, kind, round=number, run_id=run_id, nonce=f"n{number}"))
        for number, kind in enumerate(TaskKind)
    ]


class SiteTarget:
    """The site's side of the wire, and what may come out of it."""

    def __init__(self, site: Site, study: Study) -> None:
        self._site, self._study = site, study
        self._manifest = state_manifest(PatientModel(study))
        self.told: Counter[str] = Counter()

    def try_bytes(self, data: bytes, kind: TaskKind, honest: Task) -> None:
        """What bytes say is worked on only if it is the very task that was signed."""
        task = self._ask(data, kind)
        assert task is None or task == honest

    def try_signed(self, data: bytes, number: int) -> None:
        """What a hostile coordinator signs is worked on only if it is within what was accepted."""
        try:
            task = wire.task_from_records(wire.records_from_bytes(data))
        except MessageError:
            return
        named = replace(task, run_id=f"run{number // TASKS_PER_RUN}", nonce=f"m{number}")
        resigned = signed(named)
        task = self._ask(wire.records_to_bytes(wire.task_to_records(resigned)), named.kind)
        if task is not None:
            assert task.study_hash == self._study.hash
            assert task.code == code_fingerprint()
            assert 0 <= task.round <= self._study.training.rounds
            self._check_arrays(task)

    def _check_arrays(self, task: Task) -> None:
        if task.kind is TaskKind.ENROL:
            assert task.arrays is None
            return
        assert task.arrays is not None
        assert task.arrays.manifest == self._manifest
        assert task.arrays.flat.dtype.name == "float32"
        assert task.arrays.is_finite()

    def _ask(self, data: bytes, kind: TaskKind) -> Task | None:
        """The task, if it was worked on; what comes out is always a reply."""
        reply = wire.reply_from_records(
            wire.records_from_bytes(answer_bytes(self._site, data, kind))
        )
        self.told[reply.status] += 1
        if reply.status != OK:
            assert reply.status in set(RefusalCode) - {RefusalCode.INTERNAL_ERROR}
            assert (reply.arrays, reply.counts, reply.metrics) == (None, {}, {})
            return None
        return wire.task_from_records(wire.records_from_bytes(data))


@pytest.mark.threat("S1-4", "C-3")
def test_no_mutant_of_a_tasks_bytes_crashes_a_site_or_is_worked_on(
    site: Site, plain: Study, campaign: Campaign
) -> None:
    campaign.tries(NUM_OF_BYTES, "mutants of bytes", seed=1)
    random = Random(1)
    target = SiteTarget(site, plain)
    tasks = honest_tasks(plain)
    messages = [wire.records_to_bytes(wire.task_to_records(task)) for task in tasks]
    for number in range(NUM_OF_BYTES):
        which = random.randrange(len(tasks))
        mutant = mutate_bytes(messages[which], random, messages)
        target.try_bytes(mutant, tasks[which].kind, tasks[which])
        target.try_signed(mutant, number)
    campaign.found(target.told)
    assert {"message_malformed", "task_not_signed"} <= set(target.told), target.told


@pytest.mark.threat("S1-1", "S1-2", "S1-4")
def test_no_task_of_another_form_is_worked_on_even_if_the_coordinator_has_signed_it(
    site: Site, plain: Study, campaign: Campaign
) -> None:
    campaign.tries(NUM_OF_RECORDS, "mutants of records", seed=2)
    random = Random(2)
    target = SiteTarget(site, plain)
    records = [wire.task_to_records(task) for task in honest_tasks(plain)]
    for number in range(NUM_OF_RECORDS):
        which = random.randrange(len(records))
        mutant = wire.records_to_bytes(mutate_records(records[which], random))
        kind = list(TaskKind)[which]
        target.try_bytes(mutant, kind, honest_tasks(plain)[which])
        target.try_signed(mutant, number)
    campaign.found(target.told)
    assert {"message_malformed", "arrays_mismatch", "study_not_accepted", OK} <= set(target.told), (
        target.told
    )


class CoordinatorTarget:
    """The coordinator's side: three honest replies to its tasks, and what it makes of others."""

    def __init__(self, study: Study, replies: list[Reply], tasks: list[Task]) -> None:
        keys, self._key = new_keys("alpha")
        self._study = study
        self._signed = Signed(
            key=COORDINATOR, roster=roster_of(keys), sites_by_node=lambda: {1: "alpha"}
        )
        self.replies = [sign_reply(reply, self._key) for reply in replies]
        self.told: Counter[str] = Counter()
        self._expected = [
            Expected(
                task=task,
                study=study,
                site="alpha",
                manifest=None if reply.arrays is None else reply.arrays.manifest,
                dtype="float32",
                counts=replies[0].counts if task.kind is TaskKind.TRAIN else None,
            )
            for task, reply in zip(tasks, replies, strict=True)
        ]

    def try_bytes(self, data: bytes, which: int) -> None:
        """What bytes say is believed only if it is the very reply that was signed."""
        try:
            records = wire.records_from_bytes(data)
        except MessageError:
            self.told["no records"] += 1
            return
        reply = self._open(records, which)
        assert reply is None or reply == self.replies[which]
        self._try_signed(records, which)

    def _try_signed(self, records: RecordDict, which: int) -> None:
        """What a hostile site signs is believed only if it is of the form that was asked for."""
        try:
            resigned = sign_reply(wire.reply_from_records(records), self._key)
        except MessageError:
            return
        reply = self._open(wire.reply_to_records(resigned), which)
        if reply is not None:
            self._check(reply, self._expected[which])

    def _check(self, reply: Reply, expected: Expected) -> None:
        task, plan = expected.task, self._study.strategy
        said = (reply.kind, reply.run_id, reply.round, reply.nonce, reply.site)
        assert said == (task.kind, task.run_id, task.round, task.nonce, "alpha")
        assert (None if reply.arrays is None else reply.arrays.manifest) == expected.manifest
        if reply.arrays is not None:
            assert reply.arrays.flat.dtype.name == "float32"
            assert reply.arrays.is_finite()
            assert reply.arrays.norm <= plan.max_update_norm
        assert all(0 <= n <= plan.max_patients_per_site for n in reply.counts.values())
        sizes = declared_sizes(self._study)
        assert all(sizes[name] == len(values) for name, values in reply.metrics.items())
        assert all(0 <= v <= 1e15 for values in reply.metrics.values() for v in values)

    def _open(self, records: RecordDict, which: int) -> Reply | None:
        kind = self._expected[which].task.kind
        message = Message(records, reply_to=instruction(1, kind.value))
        reply, reason = open_reply(message, self._expected[which], self._signed)
        self.told[reason or OK] += 1
        assert (reply is None) == bool(reason)
        return reply


@pytest.fixture
def coordinator(site: Site, plain: Study) -> CoordinatorTarget:
    tasks = honest_tasks(plain, run_id="honest")
    replies = [replace(site.answer(task), receipt=None) for task in tasks]
    assert {reply.status for reply in replies} == {OK}
    return CoordinatorTarget(plain, replies, tasks)


@pytest.mark.threat("C-1", "C-3")
def test_no_mutant_of_a_replys_bytes_crashes_the_coordinator_or_is_believed(
    coordinator: CoordinatorTarget, campaign: Campaign
) -> None:
    campaign.tries(NUM_OF_BYTES, "mutants of bytes", seed=3)
    random = Random(3)
    messages = [wire.records_to_bytes(wire.reply_to_records(r)) for r in coordinator.replies]
    for _ in range(NUM_OF_BYTES):
        which = random.randrange(len(messages))
        coordinator.try_bytes(mutate_bytes(messages[which], random, messages), which)
    campaign.found(coordinator.told)
    assert {"malformed", "rejected: not signed by the site"} <= set(coordinator.told)


@pytest.mark.threat("C-1", "C-2", "S0-2")
def test_no_reply_of_another_form_is_believed_even_if_the_site_has_signed_it(
    coordinator: CoordinatorTarget, campaign: Campaign
) -> None:
    campaign.tries(NUM_OF_RECORDS, "mutants of records", seed=4)
    random = Random(4)
    for _ in range(NUM_OF_RECORDS):
        which = random.randrange(len(coordinator.replies))
        mutant = mutate_records(wire.reply_to_records(coordinator.replies[which]), random)
        coordinator.try_bytes(wire.records_to_bytes(mutant), which)
    campaign.found(coordinator.told)
    assert {"malformed", OK} <= set(coordinator.told)
    assert any(reason.startswith("rejected: ") for reason in coordinator.told)
