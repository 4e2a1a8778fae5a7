"""The view of a ledger: what was spent on a data set, on what, by whom, and whether that is true.

For the person who signs: everything is computed anew from the ledger's entries, and the chain is
checked on the way. Reads only, so that it can be asked while the site runs.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Any

from client.ledger.approvals import Accountant
from client.ledger.books import Books, Reservation
from client.ledger.entries import Chain, Entry, Request, ledger_path
from client.ledger.verification import chain_of, read_countersigned, readable_books, verify
from common.errors import SiteConfigError
from common.json_values import finite
from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Gaussian
from common.receipts import Countersigned

SecondOpinion = Callable[[Sequence[Charge], float], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Events:
    """Equal events of one run. `noise_multiplier` and `sample_rate` are None if unprotected."""

    part: str
    noise_multiplier: float | None
    sample_rate: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class RunSpending:
    """What one run of one study has asked of this data set.

    Attributes:
        rounds: for which training was reserved or, without privacy, answered.
        models: how many models it was answered for without privacy, each in its round.
        epsilon: of this run alone; infinite where something was released unprotected.
        over_counts: reservations under which nothing was released, spent all the same.
        resent: how often a sealed answer was given out again.
        refusals: by code.
        noise: the kinds of source: "secure", "seeded".
    """

    run_id: str
    study: str
    study_hash: str
    first_at: str
    last_at: str
    rounds: tuple[int, ...]
    models: int
    events: tuple[Events, ...]
    epsilon: float
    over_counts: int
    resent: int
    refusals: dict[str, int]
    noise: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LedgerView:
    """What a ledger says, all of it or one run.

    Attributes:
        spent: epsilon at `delta` of the whole history; infinite where no bound holds. With faults,
            of the entries before the first one alone: at least so much.
        budget: the policy's; None if it has none.
        no_bound_since: when something was first released unprotected.
        runs_without_privacy: how many runs released something unprotected.
        faults: what `verify` has found; nothing if the ledger is whole.
        head: number and digest of the last entry before a fault.
        num_countersigned: heads that came back countersigned.
        countersigned: the newest of them, as far as it is known.
        checked_against: the entry of the newest countersigned head that the ledger was held
            against; None if there was none, and then a cut end would not be seen.
        is_outside_head: whether that head came from outside of the state folder.
        second_opinion: epsilon of the whole history by other accountants, where asked for.
    """

    dataset_id: str
    simulation: bool
    cohort_size: int | None
    opened_at: str
    num_entries: int
    delta: float
    spent: float
    budget: float | None
    no_bound_since: str | None
    runs_without_privacy: int
    runs: tuple[RunSpending, ...]
    over_counts: int
    data_changes: tuple[str, ...]
    repairs: tuple[str, ...]
    faults: tuple[str, ...]
    head: tuple[int, str]
    num_countersigned: int
    countersigned: Countersigned | None
    checked_against: int | None
    is_outside_head: bool
    second_opinion: dict[str, float] | None

    @property
    def left(self) -> float | None:
        """The budget less what is spent, not below 0. None without a budget or a whole ledger.

        Epsilon does not add up: a run that costs this much alone costs less after another one.
        """
        if self.budget is None or self.faults:
            return None
        return max(0.0, self.budget - self.spent)

    def to_json(self) -> dict[str, Any]:
        """The view as plain values; an infinite epsilon is None."""
        table: dict[str, Any] = finite(asdict(self) | {"left": self.left})
        return table | {"whole": not self.faults}


def view_ledger(
    state_dir: Path,
    *,
    dataset_id: str,
    delta: float,
    budget: float | None = None,
    run_id: str | None = None,
    public_key: str | None = None,
    last_countersigned: Countersigned | None = None,
    accountant: Accountant = epsilon_of,
    second: SecondOpinion | None = None,
) -> LedgerView:
    """The view of a data set's ledger.

    Args:
        budget: the largest epsilon that the policy allows.
        run_id: shows this run alone; what is spent is always of the whole history.
        public_key: of the site, where it is known from elsewhere than the ledger.
        last_countersigned: the coordinator's copy, to check against.
        second: other accountants, to be told beside (`accounting.second_opinion` takes seconds).

    Raises:
        SiteConfigError: there is no ledger that has a first entry, or it knows no such run.
    """
    chain = _begun_chain(state_dir, dataset_id)
    books, _ = readable_books(chain)
    runs = _runs(books, run_id, delta=delta, accountant=accountant)
    if run_id is not None and not runs:
        raise SiteConfigError(
            f"Expected a run of this ledger, found none by the id {run_id!r}. Without --run all "
            "runs are listed."
        )
    opened, history = chain.entries[0], books.charges()
    head = last_countersigned or _newest_head(state_dir, dataset_id, books)
    return LedgerView(
        dataset_id=dataset_id,
        simulation=bool(opened.fields.get("simulation")),
        cohort_size=books.cohort_size,
        opened_at=opened.at,
        num_entries=len(chain.entries),
        delta=delta,
        spent=accountant(history, delta),
        budget=budget,
        no_bound_since=_no_bound_since(books.reservations),
        runs_without_privacy=len(books.unprotected_runs()),
        runs=runs,
        over_counts=len(books.over_counts()),
        data_changes=_times(books.data_changes),
        repairs=_times(books.repairs),
        faults=verify(
            state_dir,
            dataset_id=dataset_id,
            public_key=public_key,
            last_countersigned=last_countersigned,
            chain=chain,
        ),
        head=(chain.entries[-1].seq, chain.entries[-1].digest),
        num_countersigned=len(books.acknowledged),
        countersigned=head,
        checked_against=None if head is None else head.seq,
        is_outside_head=last_countersigned is not None,
        second_opinion=None if second is None else second(history, delta),
    )


def _begun_chain(state_dir: Path, dataset_id: str) -> Chain:
    """The ledger's entries, one at least. Raises `SiteConfigError` where there is none."""
    chain = chain_of(state_dir, dataset_id)
    if not chain.entries:
        path = ledger_path(state_dir, dataset_id)
        found = f"one without a sound entry ({chain.faults[0]})" if chain.faults else "none"
        raise SiteConfigError(
            f"Expected a ledger at {path}, found {found}. A site writes it when it first opens; "
            "a private run of `wardround simulate` has one for each site, shown by --run RUN."
        )
    return chain


def epsilon_text(epsilon: float) -> str:
    """An epsilon for people, rounded up to four digits: rounding makes no promise better.

    >>> epsilon_text(4.98612), epsilon_text(3.0), epsilon_text(math.inf)
    ('4.987', '3', 'unbounded')
    """
    if not math.isfinite(epsilon):
        return "unbounded"
    # From the shortest decimal, so that .3 stays .3 and is not rounded up for its last bit.
    rounded = Context(prec=4, rounding=ROUND_CEILING).create_decimal(repr(epsilon))
    return f"{float(rounded):g}"


def _newest_head(state_dir: Path, dataset_id: str, books: Books) -> Countersigned | None:
    try:
        kept = read_countersigned(state_dir, dataset_id)
    except SiteConfigError:
        kept = None  # `verify` tells of it
    heads = [*books.acknowledged, *([] if kept is None else [kept])]
    return max(heads, key=lambda head: head.seq, default=None)


def _runs(
    books: Books, run_id: str | None, *, delta: float, accountant: Accountant
) -> tuple[RunSpending, ...]:
    asked: dict[tuple[str, str], list[tuple[Entry, Request]]] = {}
    told = [(r.entry, r.request) for r in books.reservations]
    told += [(entry, request) for entry, request, _ in books.refusals]
    told += books.answers()
    for entry, request in sorted(told, key=lambda one: one[0].seq):
        if run_id in (None, request.run_id):
            asked.setdefault((request.run_id, request.study_hash), []).append((entry, request))
    return tuple(
        _spending(books, entries, delta=delta, accountant=accountant) for entries in asked.values()
    )


def _spending(
    books: Books,
    entries: Sequence[tuple[Entry, Request]],
    *,
    delta: float,
    accountant: Accountant,
) -> RunSpending:
    request = entries[0][1]
    who = (request.run_id, request.study_hash)
    reserved = [r for r in books.reservations if _who(r.request) == who]
    answered = [request for _, request in books.answers() if _who(request) == who]
    asked = [*answered, *(r.request for r in reserved)]
    charges = [charge for reservation in reserved for charge in reservation.charges]
    codes = Counter(code for _, refused, code in books.refusals if _who(refused) == who)
    sent = [
        count - 1 for key, count in books.num_sent.items() if _who(books.seals[key].request) == who
    ]
    return RunSpending(
        run_id=request.run_id,
        study=request.study,
        study_hash=request.study_hash,
        first_at=entries[0][0].at,
        last_at=entries[-1][0].at,
        rounds=tuple(sorted({r.round for r in asked if r.kind == "train"})),
        models=sum(r.kind != "query" for r in answered),
        events=_events(charges),
        epsilon=accountant(charges, delta),
        over_counts=sum(_who(r.request) == who for r in books.over_counts()),
        resent=sum(sent),
        refusals=dict(sorted(codes.items())),
        noise=tuple(sorted({r.source_kind for r in reserved})),
    )


def _who(request: Request) -> tuple[str, str]:
    return (request.run_id, request.study_hash)


def _events(charges: Iterable[Charge]) -> tuple[Events, ...]:
    groups: Counter[tuple[str, float | None, float | None]] = Counter()
    for charge in charges:
        event, part = charge.event, str(charge.part)
        if isinstance(event, Gaussian):
            groups[part, event.noise_multiplier, event.sample_rate] += event.count
        else:
            groups[part, None, None] += 1
    return tuple(
        Events(part=part, noise_multiplier=noise, sample_rate=rate, count=count)
        for (part, noise, rate), count in groups.items()
    )


def _no_bound_since(reservations: Iterable[Reservation]) -> str | None:
    for reservation in reservations:
        if reservation.is_unprotected:
            return reservation.entry.at
    return None


def _times(entries: Iterable[Entry]) -> tuple[str, ...]:
    return tuple(entry.at for entry in entries)
