"""Paying before working: no task is answered but through here.

`Ledgered` is what a real site has: a task is worked on once, after it is reserved in the ledger,
and its reply is sealed before it may leave. `TakingTurns` is the same for simulations in several
processes, and `Unledgered` is for those without privacy, which spend nobody's budget.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from math import inf

from client.disk import Room
from client.ledger.approvals import Groups, groups_of
from client.ledger.entries import Request
from client.ledger.fingerprint import on_these_data
from client.ledger.ledger import Ledger
from client.prepared import UNLIMITED, Prepared
from common.errors import Refusal, RefusalCode
from common.messages import Reply, Task, TaskKind
from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Gaussian
from common.receipts import Receipt
from common.wire import records_from_bytes, records_to_bytes, reply_from_records, reply_to_records

# Whoever asks for what is refused must not fill a hospital's disk: the audit log has them all.
_MOST_REFUSALS = 1000


class Charging(ABC):
    """What stands between a task and the work that it asks for."""

    @abstractmethod
    def answer(self, task: Task, prepared: Prepared, work: Callable[[], Reply]) -> Reply:
        """The reply to a task, by `work` or from what was sealed before. Raises `Refusal`."""

    @abstractmethod
    def sent(self, task: Task, prepared: Prepared) -> None:
        """Notes that the reply is about to leave."""

    @abstractmethod
    def refused(self, task: Task, prepared: Prepared | None, code: RefusalCode) -> None:
        """Notes that a task was refused, whose study may not be known here."""

    @abstractmethod
    def close(self) -> None:
        """Lets another process open what is kept."""


class Unledgered(Charging):
    """Nobody is charged: each task is worked on."""

    def answer(self, task: Task, prepared: Prepared, work: Callable[[], Reply]) -> Reply:
        """What `work` returns."""
        return work()

    def sent(self, task: Task, prepared: Prepared) -> None:
        """Nothing."""

    def refused(self, task: Task, prepared: Prepared | None, code: RefusalCode) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Ledgered(Charging):
    """The ledger behind the door.

    Guarantees:
        - Nothing is worked on before its charges are in the ledger, and they stay there whatever
          becomes of the work.
        - The same task again gets what was sealed for it, and costs nothing; a task that differs in
          its arrays is refused.
        - No run is charged more than its plan (rounds, spare rounds, one evaluation), and no data
          set more than the policy's budget: asked before any work.
        - A run without privacy is charged once, as what it is: no bound holds after it; and once
          more where the data change. How many such runs there may be, and how many models of a
          round, is limited.
        - Nothing is charged or worked on that has no room on the disk.

    Args:
        fingerprint: of the data's files, recorded with every event.
        source_kind: of the noise, likewise.
        room: on the disk; a simulation does without.
    """

    def __init__(
        self, ledger: Ledger, *, fingerprint: str, source_kind: str, room: Room | None = None
    ) -> None:
        self._ledger = ledger
        self._fingerprint = fingerprint
        self._source_kind = source_kind
        self._room = room
        self._refused: set[tuple[Request, RefusalCode]] = set()

    def answer(self, task: Task, prepared: Prepared, work: Callable[[], Reply]) -> Reply:
        """The reply to a task, with the signed head of the ledger.

        Raises:
            Refusal: LEDGER_BEHIND, ROUND_REPEATED, RUN_LIMIT, DISK_FULL or BUDGET_EXCEEDED, before
                any work; or what `work` raises.
        """
        if self._room is not None:
            self._room.check(task)
        if task.ledger is not None:
            self._ledger.accept(task.ledger)
            # Of the two checkpoints that a coordinator may go back to, the older one asks for this.
            self._ledger.discard_answers(task.run_id, before_round=task.round - 1)
        request = _request(task, prepared)
        if prepared.plan.mode == "none":
            self._admit_unprotected(request, prepared)
            return replace(work(), receipt=self._receipt())
        sealed = self._ledger.sealed(request)
        charges = on_these_data(prepared.plan.charges_of(task.kind), self._fingerprint)
        if sealed is None:
            self._check_run(task, charges, prepared)
            self._check_budget(task, charges, prepared)
        if not charges:
            # What costs nothing may be told as often as one likes, and needs no room on the disk.
            return replace(work(), receipt=self._receipt())
        if sealed is None:
            self._reserve(request, charges)
            sealed = records_to_bytes(reply_to_records(work()))
            self._ledger.seal(request, sealed)
        reply = reply_from_records(records_from_bytes(sealed))
        cost = self._cost(task, prepared) if task.kind is TaskKind.EVALUATE else None
        return replace(reply, nonce=task.nonce, receipt=self._receipt(cost))

    def sent(self, task: Task, prepared: Prepared) -> None:
        """Notes that the reply is about to leave."""
        if prepared.plan.mode != "none" and prepared.plan.charges_of(task.kind):
            self._ledger.sent(_request(task, prepared))

    def refused(self, task: Task, prepared: Prepared | None, code: RefusalCode) -> None:
        """Notes that a task was refused; one that is refused again, or the thousandth, is not.

        Nor one that was refused because the disk is full: a line that does not fit would end the
        ledger until the site process is started again.
        """
        if code is RefusalCode.DISK_FULL:
            return
        request = _request(task, prepared)
        if len(self._refused) < _MOST_REFUSALS and (request, code) not in self._refused:
            self._refused.add((request, code))
            self._ledger.refuse(request, code)

    def close(self) -> None:
        """Lets others open the ledger."""
        self._ledger.close()

    def _check_run(self, task: Task, charges: Sequence[Charge], prepared: Prepared) -> None:
        """A run does what its plan holds (rounds, spare rounds, one evaluation) and no more.

        Threat: S1-5. Refuses: BUDGET_EXCEEDED.
        """
        after = [*self._ledger.charges(task.run_id), *charges]
        if self._rest(prepared, after) is None:
            raise Refusal(
                RefusalCode.BUDGET_EXCEEDED,
                "Expected a run of as many rounds, spare rounds and evaluations as its plan has, "
                "found a task beyond them. Start another run.",
            )

    def _check_budget(self, task: Task, charges: Sequence[Charge], prepared: Prepared) -> None:
        """These data never cost a patient more than epsilon_budget at delta_budget, over all runs.

        Asked for the rest of the run first: what fits as a whole is computed once. A site whose
        budget has no room for the whole run does not enrol.

        Threat: S1-5, S1-1. Refuses: BUDGET_EXCEEDED.
        """
        epsilon, delta = prepared.policy.epsilon_budget, prepared.policy.delta_budget
        limit = inf if epsilon is None or epsilon >= UNLIMITED else epsilon
        rest = self._rest(prepared, self._ledger.charges(task.run_id)) or charges
        fits = not self._ledger.would_exceed(rest, epsilon=limit, delta=delta)
        if not fits and task.kind is not TaskKind.ENROL:
            fits = not self._ledger.would_exceed(charges, epsilon=limit, delta=delta)
        if not fits:
            raise Refusal(
                RefusalCode.BUDGET_EXCEEDED,
                f"Expected these data to cost at most epsilon {limit:g} at delta {delta:g} "
                "(policy.epsilon_budget), found a task that would exceed it.",
            )

    def _rest(self, prepared: Prepared, spent: Iterable[Charge]) -> tuple[Charge, ...] | None:
        """What a run may still do; None where it did more than its plan holds."""
        left = _counted(prepared.plan.whole())
        left.subtract(_counted(spent))
        if any(count < 0 for count in left.values()):
            return None
        rest = (_times(charge, count) for charge, count in left.items() if count > 0)
        split = prepared.plan.split
        return on_these_data((replace(charge, split=split) for charge in rest), self._fingerprint)

    def _reserve(self, request: Request, charges: Sequence[Charge]) -> None:
        self._ledger.reserve(
            request, charges, fingerprint=self._fingerprint, source_kind=self._source_kind
        )

    def _admit_unprotected(self, request: Request, prepared: Prepared) -> None:
        """Charges a run without privacy, at the first task that releases something.

        The id of a run is the coordinator's word: a private run may have been charged under it.
        Where the data have changed since, the same model again tells of whom they gained or lost.
        """
        # A round that was sealed is a private run's: refused here, it is not asked for again.
        self._ledger.sealed(request)
        policy = prepared.policy
        is_new = self._ledger.begin_unprotected(
            request.run_id, most=policy.max_runs_without_privacy
        )
        if is_new or self._ledger.fingerprint != self._fingerprint:
            charges = on_these_data(prepared.plan.charges_of(request.kind), self._fingerprint)
            self._reserve(request, charges)
        self._ledger.answer_unprotected(request, most=policy.max_models_per_round)

    def _cost(self, task: Task, prepared: Prepared) -> tuple[float, float] | None:
        """Epsilon and delta of the run so far; None where no bound holds."""
        delta = prepared.plan.delta
        epsilon = epsilon_of(self._ledger.charges(task.run_id), delta)
        return (epsilon, delta) if epsilon < inf else None

    def _receipt(self, cost: tuple[float, float] | None = None) -> Receipt:
        epsilon, delta = cost if cost is not None else (None, None)
        return replace(self._ledger.receipt(), epsilon=epsilon, delta=delta)


class TakingTurns(Charging):
    """Books that several processes of one simulation open in turn, each for a step at a time.

    Flower's simulation runtime gives a site's messages to any of its workers, one after the other;
    a ledger is open to one process alone.
    """

    def __init__(self, open_books: Callable[[], Charging]) -> None:
        self._open = open_books

    def answer(self, task: Task, prepared: Prepared, work: Callable[[], Reply]) -> Reply:
        """As the books do."""
        with closing(self._open()) as books:
            return books.answer(task, prepared, work)

    def sent(self, task: Task, prepared: Prepared) -> None:
        """As the books do."""
        with closing(self._open()) as books:
            books.sent(task, prepared)

    def refused(self, task: Task, prepared: Prepared | None, code: RefusalCode) -> None:
        """As the books do."""
        with closing(self._open()) as books:
            books.refused(task, prepared, code)

    def close(self) -> None:
        """Nothing: they are closed after each step."""


def _request(task: Task, prepared: Prepared | None) -> Request:
    return Request(
        run_id=task.run_id,
        kind=task.kind.value,
        round=task.round,
        study_hash=task.study_hash,
        study="" if prepared is None else prepared.study.name,
        arrays_digest="" if task.arrays is None else task.arrays.digest(),
    )


def _counted(charges: Iterable[Charge]) -> Groups:
    """How often each event happened in each part, under whatever split."""
    return groups_of(replace(charge, split="") for charge in charges)


def _times(charge: Charge, count: int) -> Charge:
    """The charge for an event that happened so often."""
    if isinstance(charge.event, Gaussian):
        return replace(charge, event=replace(charge.event, count=count))
    return charge
