"""Broken variants of the ledger and of what a private reply tells; see `tests.unit.mutants`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from client import charging, work
from client.charging import Ledgered
from client.ledger.ledger import Ledger
from common.messages import Reply, Task
from common.privacy.accounting import epsilon_of
from common.wire import records_from_bytes, records_to_bytes, reply_from_records, reply_to_records
from tests.unit import ledger_probes as probes
from tests.unit.mutant import Mutant, Patch


def _reset_each_round(patch: Patch) -> None:
    def charges(ledger: Ledger, run_id: str | None = None) -> tuple[Any, ...]:
        reservations = ledger._books.reservations
        return reservations[-1].charges if reservations else ()

    patch.setattr(Ledger, "charges", charges)


def _last_run_only(patch: Patch) -> None:
    def would_exceed(ledger: Ledger, more: Any, *, epsilon: float, delta: float) -> bool:
        return bool(epsilon_of(tuple(more), delta) > epsilon)

    patch.setattr(Ledger, "would_exceed", would_exceed)


def _no_limit_of_a_run(patch: Patch) -> None:
    patch.setattr(Ledgered, "_check_run", lambda *_: None)


def _refund_on_failure(patch: Patch) -> None:
    real = Ledgered.answer

    def answer(self: Ledgered, task: Task, prepared: Any, work: Callable[[], Reply]) -> Reply:
        try:
            return real(self, task, prepared, work)
        except Exception:
            self._ledger._books.reservations.pop()
            raise

    patch.setattr(Ledgered, "answer", answer)


def _ledger_after_release(patch: Patch) -> None:
    real = Ledgered.answer

    def answer(self: Ledgered, task: Task, prepared: Any, work: Callable[[], Reply]) -> Reply:
        done = work()
        return real(self, task, prepared, lambda: done)

    patch.setattr(Ledgered, "answer", answer)


def _trained_again(patch: Patch) -> None:
    """A repeated task is not charged, because it was; but it is worked on."""
    real = Ledgered.answer

    def answer(self: Ledgered, task: Task, prepared: Any, work: Callable[[], Reply]) -> Reply:
        request = charging._request(task, prepared)
        if self._ledger.sealed(request) is None:
            return real(self, task, prepared, work)
        return reply_from_records(records_from_bytes(records_to_bytes(reply_to_records(work()))))

    patch.setattr(Ledgered, "answer", answer)


def _evaluates_every_round(patch: Patch) -> None:
    real = work.PrivateWork.train

    def train(self: work.PrivateWork, reply: Reply, personal: Any) -> Reply:
        metrics = self.evaluate(reply, personal).metrics
        return replace(real(self, reply, personal), metrics=metrics)

    patch.setattr(work.PrivateWork, "train", train)


def _exact_counts(patch: Patch) -> None:
    real = work.PrivateWork.train

    def train(self: work.PrivateWork, reply: Reply, personal: Any) -> Reply:
        exact = dict.fromkeys(self.prepared.counts, len(self.prepared.train))
        return replace(real(self, reply, personal), counts=exact)

    patch.setattr(work.PrivateWork, "train", train)


LEDGER_MUTANTS: tuple[Mutant, ...] = tuple(
    Mutant(name=name, put_in=put_in, noticed_by=probe)
    for name, put_in, probe in (
        ("evaluation every round", _evaluates_every_round, probes.training_tells_no_statistic),
        ("exact counts", _exact_counts, probes.training_tells_no_statistic),
        ("accountant reset per round", _reset_each_round, probes.a_run_is_charged_whole),
        ("only the last run counts", _last_run_only, probes.all_runs_share_the_budget),
        ("more than planned", _no_limit_of_a_run, probes.one_evaluation_a_run),
        ("refund on failure", _refund_on_failure, probes.what_fails_stays_spent),
        ("ledger after release", _ledger_after_release, probes.it_is_charged_before_it_is_done),
        ("sealed answer made anew", _trained_again, probes.a_repeated_task_is_not_done_again),
    )
)
