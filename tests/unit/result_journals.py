"""Events of a journal, written by hand, and what results must make of them."""

from collections.abc import Mapping
from typing import Any

from common.metrics.evaluation import PERSONAL, statistics_of, to_flat
from common.metrics.statistics import EvaluationSums, Metrics
from common.study import Study
from server.journal import Event
from tests.unit.builders import HASH, study_of

STUDY = study_of()
COUNTS = {"patients": 90, "labs": 90, "vitals": 10, "lifestyle": 0, "event": 80}

Sums = Mapping[str, EvaluationSums]


def metrics_of(*parts: Sums, study: Study = STUDY) -> dict[str, Metrics]:
    """The metrics of each outcome of all these patients together."""
    return {
        name: statistics.metrics_of(sum((part[name] for part in parts), statistics.zero()))
        for name, statistics in statistics_of(study).items()
    }


def event_of(event: str, minute: int = 0, **fields: Any) -> Event:
    """An event of the journal, so many minutes after noon."""
    return {"at": f"2026-03-01T12:{minute:02}:00+00:00", "event": event, **fields}


def start_of(
    event: str = "run_started", minute: int = 0, round_number: int = 0, study: Study = STUDY
) -> Event:
    """The beginning of a run of two rounds, or its resumption."""
    return event_of(
        event,
        minute,
        run_id="abc",
        study=study.model_dump(mode="json"),
        study_hash=HASH,
        seed=0,
        num_rounds=2,
        round=round_number,
        engine="in-process",
        release="0.1.0",
        code="c0de",
    )


def enrolled(site: str) -> list[Event]:
    """The enrolment of a site."""
    return [
        event_of("reply", round=0, kind="query", site=site, counts=COUNTS, metrics={}, bytes_up=10),
        event_of("enrolled", site=site, counts=COUNTS),
    ]


def reply_of(
    round_number: int,
    site: str,
    sums: Sums | None,
    kind: str = "train",
    seconds: tuple[float, float] = (1.0, 0.25),
    own: Sums | None = None,
) -> Event:
    """A reply with statistics of the shared model and of the site's own."""
    flat = to_flat(sums or {}) | to_flat(own or {}, model=PERSONAL)
    metrics = {name: list(values) for name, values in flat.items()}
    metrics |= {"seconds_training": [seconds[0]], "seconds_evaluation": [seconds[1]]}
    return event_of(
        "reply",
        round=round_number,
        kind=kind,
        site=site,
        counts=COUNTS,
        metrics=metrics,
        bytes_up=100,
    )


def asked(round_number: int) -> Event:
    """The tasks of a round."""
    return event_of("asked", round=round_number, kind="train", nonces={}, bytes_down=1000)


def aggregated(round_number: int, *sites: str) -> list[Event]:
    """The end of a round."""
    return [
        event_of("aggregated", round=round_number, sites=list(sites), update_norm=1.0, seconds=0.5),
        event_of("checkpoint", round=round_number, seconds=0.125),
        event_of("round_finished", round=round_number, seconds=2.0),
    ]
