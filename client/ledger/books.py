"""What the entries of a ledger add up to: a pure function of them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from client.ledger.entries import Entry, Kind, Request
from common.privacy.events import Charge, Unprotected, charge_from_json, charge_to_json
from common.receipts import Countersigned

Key = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Charges that count as spent from here on, whatever becomes of the task.

    Attributes:
        fingerprint: of the data files, 64 hex digits.
        source_kind: of the noise, "secure" or "seeded".
    """

    entry: Entry
    request: Request
    charges: tuple[Charge, ...]
    fingerprint: str
    source_kind: str

    @property
    def is_unprotected(self) -> bool:
        """Whether something was reserved that no mechanism protects."""
        return any(isinstance(charge.event, Unprotected) for charge in self.charges)


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What was sealed for a request: the only answer that may ever be sent for it.

    Attributes:
        file: the name of its file in the folder of sealed answers.
        digest: SHA-256 of the file.
    """

    entry: Entry
    request: Request
    file: str
    digest: str


class Books:
    """The entries of one ledger, by what they tell.

    Attributes:
        cohort_size: the public number of training patients; None before somebody has decided it.
        seals: by run, kind and round.
        num_sent: how often the sealed answer of a run, kind and round was given out.
        acknowledged: what came back countersigned, oldest first.
        refusals: requests and codes, oldest first.
        answered: what runs without privacy were answered for, each request once, by `question_of`.
        data_changes: entries that tell of other data than before.
        repairs: entries that tell of a torn end.
    """

    def __init__(self) -> None:
        self.cohort_size: int | None = None
        self.reservations: list[Reservation] = []
        self.seals: dict[Key, Seal] = {}
        self.num_sent: Counter[Key] = Counter()
        self.acknowledged: list[Countersigned] = []
        self.refusals: list[tuple[Entry, Request, str]] = []
        self.answered: dict[Key, dict[Request, Entry]] = {}
        self.data_changes: list[Entry] = []
        self.repairs: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Books one more entry.

        Raises:
            ValueError: it is no entry of this version, or tells of something that cannot follow.
        """
        fields = entry.fields
        try:
            match Kind(entry.kind):
                case Kind.RESERVED:
                    self.reservations.append(_reservation(entry))
                case Kind.SEALED:
                    self._add_seal(entry)
                case Kind.SENT:
                    key = Request(**fields["request"]).key
                    if key not in self.seals:
                        raise ValueError("something was sent that was not sealed")
                    self.num_sent[key] += 1
                case Kind.ACKNOWLEDGED:
                    self.acknowledged.append(Countersigned(**fields["head"]))
                case Kind.REFUSED:
                    self.refusals.append((entry, Request(**fields["request"]), fields["code"]))
                case Kind.ANSWERED:
                    request = Request(**fields["request"])
                    self.answered.setdefault(question_of(request), {})[request] = entry
                case Kind.DATA_CHANGED:
                    self.data_changes.append(entry)
                case Kind.REPAIRED:
                    self.repairs.append(entry)
                case Kind.OPENED | Kind.COHORT_DECIDED:
                    if self.cohort_size is not None:
                        raise ValueError("the cohort is decided once")
                    self.cohort_size = fields["cohort_size"]
        except (KeyError, TypeError, AttributeError) as fault:
            raise ValueError(
                f"its fields are not those of its kind ({type(fault).__name__})"
            ) from None

    def charges(self, run_id: str | None = None) -> tuple[Charge, ...]:
        """All reserved charges, or those of one run: what was reserved is spent."""
        return tuple(
            charge
            for reservation in self.reservations
            if run_id in (None, reservation.request.run_id)
            for charge in reservation.charges
        )

    def unprotected_runs(self) -> frozenset[str]:
        """The runs that something was reserved for which no mechanism protects."""
        return frozenset(r.request.run_id for r in self.reservations if r.is_unprotected)

    def answers(self) -> list[tuple[Entry, Request]]:
        """What runs without privacy were answered for, each request once."""
        return [(entry, asked) for told in self.answered.values() for asked, entry in told.items()]

    def open_reservation(self, request: Request) -> Reservation | None:
        """The last reservation for exactly this request, if nothing is sealed for its round."""
        if request.key in self.seals:
            return None
        for reservation in reversed(self.reservations):
            if reservation.request.key == request.key:
                return reservation if reservation.request == request else None
        return None

    def unsealed(self) -> tuple[Reservation, ...]:
        """Reservations under which nothing was ever sealed."""
        sealed = {seal.file for seal in self.seals.values()}
        return tuple(r for r in self.reservations if file_of(r.entry) not in sealed)

    def over_counts(self) -> tuple[Reservation, ...]:
        """Reservations that count as spent although nothing was released under them.

        What is unprotected may be released without a seal: it is never an over-count.
        """
        return tuple(r for r in self.unsealed() if not r.is_unprotected)

    def _add_seal(self, entry: Entry) -> None:
        request = Request(**entry.fields["request"])
        reservation = self.open_reservation(request)
        if reservation is None:
            raise ValueError("something was sealed that was not reserved")
        file, digest = entry.fields["file"], entry.fields["digest"]
        if file != file_of(reservation.entry) or not isinstance(digest, str):
            raise ValueError("something was sealed in the place of something else")
        self.seals[request.key] = Seal(entry=entry, request=request, file=file, digest=digest)


def question_of(request: Request) -> Key:
    """What is answered for a few models alone, where no mechanism protects anybody.

    An evaluation is of a run's last model, whatever round it names.
    """
    is_evaluation = request.kind == "evaluate"
    return (request.run_id, request.kind, 0 if is_evaluation else request.round)


def file_of(reservation: Entry) -> str:
    """The name of the file of what is sealed under a reservation."""
    return f"{reservation.seq:08d}-{reservation.digest[:16]}.sealed"


def reserved_fields(
    request: Request, charges: Iterable[Charge], fingerprint: str, source_kind: str
) -> dict[str, Any]:
    """The fields of an entry of the kind "reserved"."""
    return {
        "request": request.to_json(),
        "charges": [charge_to_json(charge) for charge in charges],
        "fingerprint": fingerprint,
        "source_kind": source_kind,
    }


def _reservation(entry: Entry) -> Reservation:
    fields: Mapping[str, Any] = entry.fields
    return Reservation(
        entry=entry,
        request=Request(**fields["request"]),
        charges=tuple(charge_from_json(charge) for charge in fields["charges"]),
        fingerprint=fields["fingerprint"],
        source_kind=fields["source_kind"],
    )
