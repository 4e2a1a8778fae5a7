"""The ledger of one data set: what is spent is written before it is spent, for ever.

The order of one task is *reserve → train → seal → send → acknowledge*, and a process that dies
anywhere between leaves a ledger that counts too much and never too little. It stores what happened;
what that costs is computed anew from the whole history (`common.privacy.accounting`).

It must never hold anything of a patient, and never take anything back. Must not import torch.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from client.ledger.approvals import Accountant, Approvals
from client.ledger.books import file_of, question_of, reserved_fields
from client.ledger.entries import (
    FORMAT,
    Kind,
    Request,
    ledger_path,
    read_chain,
    sealed_folder,
)
from client.ledger.file import LedgerFile
from client.ledger.heads import Heads
from client.ledger.sealed import SealedAnswers
from client.ledger.verification import countersigned_path, require_sound
from client.ledger.writer import Writer
from common.errors import Refusal, RefusalCode
from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge
from common.receipts import Countersigned, Receipt
from common.signing import SigningKey


def utc_now() -> datetime:
    """The present time, with its zone."""
    return datetime.now(UTC)


def _nowhere(point: str) -> None:
    """The hook of a ledger that nobody kills."""


class Ledger:
    """The ledger of one data set, open for the one process that may write it.

    Guarantees:
        - Nothing that was reserved is ever taken back, whatever becomes of the task.
        - Nothing can be sealed without a reservation, and nothing sent without a seal.
        - A repeated request gets the same bytes again; with other arrays it is refused.
        - Everything is on disk before the next step begins, unless it is a simulation's.
        - A ledger that was changed by anyone else, or lacks what both sides signed, does not open.
        - What the data set was opened with (size of its cohort, key, simulation) stays.
        - A change of the data is written down, and what was spent carries over.
        - A torn last line is removed, and this is written down.

    Edge cases:
        | what happened | then |
        |---|---|
        | killed between reserve and seal | the reservation stays spent; the round is paid anew |
        | killed between seal and send | the sealed bytes are sent; nothing is paid |
        | the disk is full | the error is raised, and nothing more is written until it is reopened |
        | the state folder was deleted | a new ledger, which refuses the head of the old one |

    One thread at a time. A context manager; `close` gives the lock back.
    """

    def __init__(
        self, *, writer: Writer, answers: SealedAnswers, heads: Heads, accountant: Accountant
    ) -> None:
        self._writer = writer
        self._books = writer.books
        self._answers = answers
        self._heads = heads
        self._approvals = Approvals(accountant)

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        dataset_id: str,
        cohort_size: int | None,
        simulation: bool,
        key: SigningKey,
        durable: bool = True,
        clock: Callable[[], datetime] = utc_now,
        accountant: Accountant = epsilon_of,
        at: Callable[[str], None] = _nowhere,
    ) -> Self:
        """The ledger of the data set, made if there is none, checked from its first entry on.

        Args:
            cohort_size: the public number of training patients; it stays what it was at first. None
                where nobody has decided it yet: one may do so later, once.
            durable: whether each entry is on disk before the next step; a simulation may do
                without.
            accountant: what a history costs at a delta.
            at: called at named points of the order, so that a test can stop there.

        Raises:
            SiteConfigError: another process has it open, it is not whole, or it was opened with
                another data set, cohort size, key or simulation flag.
            ValueError: it is neither durable nor of a simulation.
        """
        if not durable and not simulation:
            raise ValueError("expected a durable ledger outside of simulations")
        identity = {
            "format": FORMAT,
            "dataset_id": dataset_id,
            "simulation": simulation,
            "cohort_size": cohort_size,
            "public_key": key.public_key,
        }
        file = LedgerFile.open(ledger_path(state_dir, dataset_id), durable=durable)
        try:
            chain = read_chain(file.read())
            books = require_sound(chain, state_dir, dataset_id=dataset_id, identity=identity)
            writer = Writer(file, chain.entries, books, key=key, clock=clock, at=at)
            writer.begin(chain, identity)
            if cohort_size is not None and books.cohort_size is None:
                writer.write(Kind.COHORT_DECIDED, {"cohort_size": cohort_size})
        except BaseException:
            file.close()
            raise
        ledger = cls(
            writer=writer,
            answers=SealedAnswers(sealed_folder(state_dir, dataset_id), durable=durable),
            heads=Heads(writer, countersigned_path(state_dir, dataset_id)),
            accountant=accountant,
        )
        # What a killed process did not get to seal must never be sent.
        ledger._answers.remove(file_of(reservation.entry) for reservation in books.unsealed())
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the ledger; it can be opened again."""
        self._writer.close()

    @property
    def fingerprint(self) -> str | None:
        """Of the data that something was last reserved on; None before."""
        return self._books.reservations[-1].fingerprint if self._books.reservations else None

    def charges(self, run_id: str | None = None) -> tuple[Charge, ...]:
        """All that was ever reserved on this data set, or by one run: all of it is spent."""
        return self._books.charges(run_id)

    def would_exceed(self, more: Sequence[Charge], *, epsilon: float, delta: float) -> bool:
        """Whether the whole history and `more` cost above epsilon at delta. Asked before any work.

        Ask for a whole run at its start: its rounds are then contained in what was approved, and
        need no accountant.
        """
        together = (*self.charges(), *more)
        return not self._approvals.is_within(together, epsilon=epsilon, delta=delta)

    def sealed(self, request: Request) -> bytes | None:
        """A round is answered once: the same request gets the same bytes again, another none.

        Threat: S1-5. Refuses: ROUND_REPEATED.

        Returns:
            What was sealed; None if nothing was sealed for its round.

        Raises:
            Refusal: the round was sealed for other arrays or another study, or what was sealed is
                not there any more as it was.
        """
        seal = self._books.seals.get(request.key)
        if seal is None:
            return None
        if seal.request != request:
            raise Refusal(
                RefusalCode.ROUND_REPEATED,
                f"Expected the arrays of round {request.round} that were answered before, found "
                "others. One round is answered once.",
            )
        payload = self._answers.get(seal)
        if payload is None:
            raise Refusal(
                RefusalCode.ROUND_REPEATED,
                f"Expected the sealed answer of round {request.round} as it was written, found "
                f"none or another ({seal.file}). It is not made anew.",
            )
        return payload

    def begin_unprotected(self, run_id: str, *, most: int) -> bool:
        """These data take part in max_runs_without_privacy runs without privacy, and in no other.

        Threat: S1-5. Refuses: RUN_LIMIT.

        Returns:
            Whether the run is new: what it releases unprotected is not reserved yet.
        """
        runs = self._books.unprotected_runs()
        if run_id not in runs and len(runs) >= most:
            raise Refusal(
                RefusalCode.RUN_LIMIT,
                f"Expected at most {most} runs without privacy on these data "
                "(policy.max_runs_without_privacy), found another one.",
            )
        return run_id not in runs

    def answer_unprotected(self, request: Request, *, most: int) -> None:
        """A round without privacy is answered for max_models_per_round models, and for no other.

        So is a run's evaluation, whatever rounds are named; a model under another study is another.
        Each is written down before it is worked on; the same one again is not.

        Threat: S1-5. Refuses: ROUND_REPEATED.
        """
        answered = self._books.answered.get(question_of(request), {})
        if request in answered:
            return
        if len(answered) >= most:
            raise Refusal(
                RefusalCode.ROUND_REPEATED,
                f"Expected one of the {most} models for which round {request.round} was answered "
                "before (policy.max_models_per_round), found another.",
            )
        self._writer.write(Kind.ANSWERED, {"request": request.to_json()})

    def reserve(
        self, request: Request, charges: Sequence[Charge], *, fingerprint: str, source_kind: str
    ) -> None:
        """Counts `charges` as spent, before any work.

        Args:
            fingerprint: of the data files (`client.ledger.fingerprint`).
            source_kind: of the noise: "secure" or "seeded".

        Raises:
            ValueError: something is sealed for this round already: send that.
        """
        if request.key in self._books.seals:
            raise ValueError("expected a round that is not sealed, found one that is")
        before = self.fingerprint
        if before not in (None, fingerprint):
            changed = {"before": before, "after": fingerprint}
            self._writer.write(Kind.DATA_CHANGED, {"run_id": request.run_id, **changed})
        fields = reserved_fields(request, charges, fingerprint, source_kind)
        self._writer.write(Kind.RESERVED, fields)

    def seal(self, request: Request, payload: bytes) -> None:
        """Makes `payload` the one answer to `request`: on disk, and then in the ledger.

        Raises:
            ValueError: nothing was reserved for exactly this request, or its round is sealed.
        """
        reservation = self._books.open_reservation(request)
        if reservation is None:
            raise ValueError("expected a reservation for this request, found none that is open")
        name = file_of(reservation.entry)
        self._writer.at("before sealed file")
        digest = self._answers.put(name, payload)
        fields = {"request": request.to_json(), "file": name, "digest": digest}
        self._writer.write(Kind.SEALED, fields)

    def sent(self, request: Request) -> None:
        """Writes that the sealed bytes are given out now; called each time before they are.

        Raises:
            ValueError: nothing is sealed for this request.
        """
        seal = self._books.seals.get(request.key)
        if seal is None or seal.request != request:
            raise ValueError("expected something sealed for this request, found nothing")
        self._writer.write(Kind.SENT, {"request": request.to_json()})

    def refuse(self, request: Request, code: RefusalCode) -> None:
        """Writes that the request was refused, and with which code."""
        self._writer.write(Kind.REFUSED, {"request": request.to_json(), "code": code.value})

    def receipt(self) -> Receipt:
        """The signed head of the ledger: what a reply tells the coordinator."""
        return self._heads.receipt()

    def accept(self, head: Countersigned, *, coordinator_key: str | None = None) -> None:
        """Takes a countersigned head that a task brought back, and writes its acknowledgement.

        A head that was acknowledged before is taken again and not written again.

        Args:
            coordinator_key: the only key that may have countersigned, where it is known.

        Raises:
            Refusal: `MESSAGE_MALFORMED` if one of the signatures is wrong, `LEDGER_BEHIND` if the
                head is ours and not in this ledger: the ledger was set back or cut.
        """
        self._heads.accept(head, coordinator_key=coordinator_key)

    def discard_answers(self, run_id: str, *, before_round: int) -> None:
        """Removes the sealed updates of earlier rounds of a run, to save space; entries stay.

        Only what was acknowledged is removed, and never what was answered at the enrolment, which
        a coordinator asks for again when it goes on. Who asks for the others again is refused.
        """
        newest = max((head.seq for head in self._books.acknowledged), default=-1)
        self._answers.remove(
            seal.file
            for seal in self._books.seals.values()
            if (seal.request.run_id, seal.request.kind) == (run_id, "train")
            and seal.request.round < before_round
            and seal.entry.seq <= newest
        )
