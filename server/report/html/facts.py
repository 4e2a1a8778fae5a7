"""What the page tells beyond `results.json`: messages, transfers and merged statistics of the end.

A pure function of the journal, as the results are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from common.metrics.evaluation import from_flat
from common.metrics.statistics import EvaluationSums
from common.study import Study
from server.journal import Event

QUERY = "query"


@dataclass(frozen=True, kw_only=True)
class MessageKind:
    """All replies of one kind: how many, how long, and the names of what they held.

    Attributes:
        counts, statistics: names, in the order in which they first appeared.
        has_receipts: whether replies carried the signed head of a ledger.
    """

    kind: str
    num_replies: int
    num_bytes: int
    counts: tuple[str, ...]
    statistics: tuple[str, ...]
    has_receipts: bool


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """One exchange: bytes to the hospitals and back, and the seconds until it was aggregated.

    Attributes:
        round: the model that was sent, by its number of aggregations.
        seconds: None for the last evaluation, which nothing follows.
    """

    round: int
    bytes_down: int
    bytes_up: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the journal tells beside the results.

    Attributes:
        totals: the merged statistics of each outcome in the last round that sites evaluated.
        bytes_by_site: what each site sent in all.
    """

    study: Study
    totals: dict[str, EvaluationSums]
    messages: Sequence[MessageKind]
    rounds: Sequence[RoundCost]
    bytes_by_site: dict[str, tuple[int, int]]


def facts_of(events: Sequence[Event]) -> Facts:
    """The facts of a journal that `results_of` has accepted."""
    started = [e for e in events if e["event"] in ("run_started", "run_resumed")]
    study = Study.model_validate(started[-1]["study"])
    replies = [e for e in events if e["event"] == "reply"]
    by_site: dict[str, list[Event]] = {}
    for event in replies:
        by_site.setdefault(event["site"], []).append(event)
    return Facts(
        study=study,
        totals=_totals(replies, study),
        messages=[_kind(kind, replies) for kind in dict.fromkeys(e["kind"] for e in replies)],
        rounds=_rounds(events, replies),
        bytes_by_site={
            site: (len(sent), sum(e["bytes_up"] for e in sent))
            for site, sent in sorted(by_site.items())
        },
    )


def _totals(replies: Iterable[Event], study: Study) -> dict[str, EvaluationSums]:
    newest = {(e["round"], e["site"]): e for e in replies if e["kind"] != QUERY}
    last = max((number for number, _ in newest), default=None)
    totals: dict[str, EvaluationSums] = {}
    for (number, _), event in sorted(newest.items()):
        if number != last:
            continue
        try:
            sums = from_flat(study, event["metrics"])
        except ValueError:
            # As the results: a site whose statistics are malformed has sent none.
            continue
        for name, evaluated in sums.items():
            totals[name] = totals[name] + evaluated if name in totals else evaluated
    return totals


def _kind(kind: str, replies: Iterable[Event]) -> MessageKind:
    sent = [e for e in replies if e["kind"] == kind]
    return MessageKind(
        kind=kind,
        num_replies=len(sent),
        num_bytes=sum(e["bytes_up"] for e in sent),
        counts=tuple(dict.fromkeys(name for e in sent for name in e["counts"])),
        statistics=tuple(dict.fromkeys(name for e in sent for name in e["metrics"])),
        has_receipts=any(e.get("receipt") for e in sent),
    )


def _rounds(events: Sequence[Event], replies: Sequence[Event]) -> list[RoundCost]:
    down = _sums([e for e in events if e["event"] == "asked" and e["kind"] != QUERY], "bytes_down")
    up = _sums([e for e in replies if e["kind"] != QUERY], "bytes_up")
    # A round that is finished is numbered by the model that came out of it.
    seconds = {e["round"] - 1: e["seconds"] for e in events if e["event"] == "round_finished"}
    return [
        RoundCost(
            round=number,
            bytes_down=down.get(number, 0),
            bytes_up=up.get(number, 0),
            seconds=seconds.get(number),
        )
        for number in sorted({*down, *up})
    ]


def _sums(events: Iterable[Event], field: str) -> dict[int, int]:
    sums: dict[int, Any] = {}
    for event in events:
        sums[event["round"]] = sums.get(event["round"], 0) + event[field]
    return sums
