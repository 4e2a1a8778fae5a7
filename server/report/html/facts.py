"""What the page tells beyond `results.json`: messages, transfers and merged statistics of the end.

A pure function of the journal, as the results are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.metrics.evaluation import from_flat
from common.metrics.statistics import EvaluationSums
from common.study import Study
from server.journal import Event
from server.report.rounds import is_answer, whole_rounds
from server.report.subgroups import group_sums_of, pooled_sums

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
        totals: the merged statistics of each outcome in the last round that is whole.
        by_site: those of each site, by site and outcome.
        groups: those of each group of patients over all sites, by its key and outcome.
        bytes_by_site: what each site sent in all.
    """

    study: Study
    totals: dict[str, EvaluationSums]
    by_site: dict[str, dict[str, EvaluationSums]]
    groups: dict[str, dict[str, EvaluationSums]]
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
    last = _last_statistics(events)
    evaluated = _evaluated(last, study)
    return Facts(
        study=study,
        totals=_totals(evaluated),
        by_site=evaluated,
        groups={key: pooled_sums(sites) for key, sites in group_sums_of(last, study).items()},
        messages=[_kind(kind, replies) for kind in dict.fromkeys(e["kind"] for e in replies)],
        rounds=_rounds(events, replies),
        bytes_by_site={
            site: (len(sent), sum(e["bytes_up"] for e in sent))
            for site, sent in sorted(by_site.items())
        },
    )


def _last_statistics(events: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """What each site sent in the last round that is whole."""
    newest = {(e["round"], e["site"]): e["metrics"] for e in events if is_answer(e)}
    last = max(whole_rounds(events), default=None)
    return {site: sent for (number, site), sent in sorted(newest.items()) if number == last}


def _evaluated(
    sent: Mapping[str, Mapping[str, Any]], study: Study
) -> dict[str, dict[str, EvaluationSums]]:
    """The statistics of each site, by outcome."""
    by_site: dict[str, dict[str, EvaluationSums]] = {}
    for site, metrics in sent.items():
        try:
            by_site[site] = from_flat(study, metrics)
        except ValueError:
            # As the results: a site whose statistics are malformed has sent none.
            continue
    return by_site


def _totals(by_site: Mapping[str, Mapping[str, EvaluationSums]]) -> dict[str, EvaluationSums]:
    totals: dict[str, EvaluationSums] = {}
    for sums in by_site.values():
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
