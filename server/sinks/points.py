"""What sinks are told of a run: settings, and numbers by round. A pure function of its journal.

Only what the report has is told: metrics, counts of hospitals, seconds, epsilon; never a counter,
histogram or array of a reply.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from common.errors import RunError
from common.study import Study
from server.journal import Event
from server.report.columns import columns_of
from server.watch.course import Course

_SETTINGS = (
    "study",
    "study_hash",
    "seed",
    "strategy",
    "engine",
    "release",
    "code",
    "num_rounds",
)
# Names of numbers, and the fields of events that hold them; of a list, its length.
_OF_ROUNDS = {
    "aggregated": {"round/sites": "sites", "round/update_norm": "update_norm"},
    "round_finished": {"round/seconds": "seconds"},
    "site_privacy": {"privacy/epsilon": "epsilon"},
}
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STARTS = ("run_started", "run_resumed")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of a run.

    Attributes:
        name: OUTCOME/METRIC for all patients pooled, with /SITE for those of one hospital; or
            round/…, privacy/….
        step: the round of the model that it is about.
        exchange: the exchange of messages in which it became known.
        at: when, in milliseconds since 1970.
    """

    name: str
    step: int
    exchange: int
    value: float
    at: int


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a sink is told.

    Attributes:
        status: "finished", "failed" or "unfinished".
        settings: names and values, by name.
        points: in the order in which they became known: what comes later is added at the end.
    """

    run_id: str
    study: str
    status: str
    started_at: int
    ended_at: int
    settings: Mapping[str, str]
    points: tuple[Point, ...]


def told_of(course: Course) -> Told:
    """What to tell of a run so far: all exchanges that are over.

    Raises:
        RunError: the journal has no beginning of a run, or an id that is no plain word.
    """
    results = course.results()
    if _RUN_ID.fullmatch(str(results["run_id"])) is None:
        raise RunError(
            "Expected a run id of letters, digits, - and _ in the journal, found another: it would "
            "name a folder or a query. Tell the journal of a run of this version."
        )
    done = {e["round"] - 1 for e in course.events if e["event"] == "round_finished"}
    if results["status"] == "finished":
        done.add(results["num_rounds"])
    times = _times(course.events)
    points = [*_metrics(results, times), *_rounds(course.events), *_privacy(results, times)]
    # A round that was aggregated again after a crash counts as it was done last.
    newest = {(p.name, p.step): p for p in points if p.exchange in done}
    return Told(
        run_id=results["run_id"],
        study=results["study"],
        status=results["status"],
        started_at=_milliseconds(results["started_at"]),
        ended_at=_milliseconds(results["ended_at"]),
        settings=_settings(course, results),
        points=tuple(sorted(newest.values(), key=lambda p: (p.exchange, p.name))),
    )


def _milliseconds(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1000)


def _times(events: list[Event]) -> dict[int, int]:
    """When the last reply of each exchange came."""
    return {
        e["round"]: _milliseconds(e["at"])
        for e in events
        if e["event"] == "reply" and e["kind"] != "query"
    }


def _metrics(results: dict[str, Any], times: dict[int, int]) -> Iterator[Point]:
    for entry in results["rounds"]:
        number = entry["round"]
        owners = {"": entry["pooled"], "oracle": entry["oracle"] or {}, **entry["sites"]}
        for owner, by_outcome in owners.items():
            for outcome, metrics in (by_outcome or {}).items():
                names = dict.fromkeys((*columns_of(results["outcomes"][outcome]), "loss"))
                for metric in names:
                    value = metrics.get(metric)
                    if value is None:
                        continue
                    yield Point(
                        name="/".join(part for part in (outcome, metric, owner) if part),
                        step=number,
                        exchange=number,
                        value=float(value),
                        at=times.get(number, 0),
                    )


def _rounds(events: list[Event]) -> Iterator[Point]:
    for event in events:
        for name, field in _OF_ROUNDS.get(event["event"], {}).items():
            value, number = event[field], event["round"]
            yield Point(
                name=name,
                step=number,
                exchange=number - 1,
                value=float(len(value) if isinstance(value, list) else value),
                at=_milliseconds(event["at"]),
            )


def _privacy(results: dict[str, Any], times: dict[int, int]) -> Iterator[Point]:
    """What each hospital says that the run has cost, by its own ledger."""
    for site, cost in results["privacy"].get("sites", {}).items():
        if cost["epsilon"] is not None:
            number = results["num_rounds"]
            yield Point(
                name=f"privacy/epsilon/{site}",
                step=number,
                exchange=number,
                value=float(cost["epsilon"]),
                at=times.get(number, 0),
            )


def _settings(course: Course, results: dict[str, Any]) -> dict[str, str]:
    """The run's own, and those of the study that people vary."""
    started = next(e for e in reversed(course.events) if e["event"] in _STARTS)
    study = Study.model_validate(started["study"])
    sections = {name: getattr(study, name) for name in ("training", "strategy", "privacy", "model")}
    plain = {
        f"{name}.{key}": value
        for name, section in sections.items()
        for key, value in section.model_dump(mode="json").items()
        if isinstance(value, str | int | float)
    }
    own = {name: results[name] for name in _SETTINGS} | {"num_sites": len(results["sites"])}
    return {name: str(value) for name, value in sorted((own | plain).items())}
