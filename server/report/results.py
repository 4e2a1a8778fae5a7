"""From the journal of a run to `results.json`; the schema is in docs/results.md."""

from collections.abc import Collection, Iterable
from typing import Any

from common.errors import RunError
from common.metrics.evaluation import PERSONAL, SECONDS, from_flat, statistics_of
from common.metrics.statistics import Metrics
from common.models.patient_model import SHARED
from common.outcomes import ClassOutcome
from common.privacy.sections import PatientPrivacy, SitePrivacy
from common.study import Study
from common.tail_average import averaged_rounds
from server.journal import Event
from server.report.attributions import attributions_of
from server.report.rounds import answers_of, unfinished_round, whole_rounds
from server.report.subgroups import subgroups_of

SCHEMA = 3
# Written by an audit, after the run and maybe on another day: no part of what the run took.
AUDITED = "privacy_audited"


def results_of(
    journal: Iterable[Event], *, rounds: Collection[int] | None = None
) -> dict[str, Any]:
    """The results of a run, whole or unfinished. A round asked again counts as last answered.

    Guarantees:
        - No figure is of a round that some hospitals have answered and others may yet.
        - No figure is of a model that was given up when the run went on from before it.

    Args:
        rounds: to be told of; without them, those that are whole.

    Raises:
        RunError: the journal has no beginning of a run.
    """
    events = list(journal)
    audits = [e for e in events if e["event"] == AUDITED]
    events = [e for e in events if e["event"] != AUDITED]
    by_kind = _by_kind(events)
    if "run_started" not in by_kind:
        raise RunError("Expected a journal that begins with run_started, found none. Run it anew.")
    whole = whole_rounds(events)
    rounds = whole if rounds is None else rounds
    answers = [e for e in answers_of(events) if e["round"] in rounds]
    told = _statistics(answers)
    starts = by_kind["run_started"] + by_kind.get("run_resumed", [])
    run = starts[-1]
    study = Study.model_validate(run["study"])
    enrolled = {e["site"]: e["counts"] for e in by_kind.get("enrolled", [])}
    status = _status(events)
    return {
        "schema": SCHEMA,
        "run_id": run["run_id"],
        "status": status,
        "study": study.name,
        "study_hash": run["study_hash"],
        "seed": run["seed"],
        "strategy": study.strategy.name,
        "outcomes": {name: outcome.kind for name, outcome in study.outcomes.items()},
        "units": _units(study),
        "engine": run["engine"],
        "release": run["release"],
        "code": run["code"],
        "started_at": starts[0]["at"],
        "ended_at": events[-1]["at"],
        "num_rounds": run["num_rounds"],
        "num_aggregated": len({e["round"] for e in by_kind.get("aggregated", [])}),
        "averaged_rounds": averaged_rounds(study) if status == "finished" else 0,
        "resumed_at_rounds": [e["round"] for e in by_kind.get("run_resumed", [])],
        "sites": {site: _site(counts, study) for site, counts in enrolled.items()},
        "privacy": _privacy(by_kind, study),
        "audit": {k: v for k, v in audits[-1].items() if k != "event"} if audits else None,
        "transferred": _transferred(by_kind),
        "rounds": _rounds(answers, by_kind, study),
        "unfinished_round": unfinished_round(events, whole=whole),
        "subgroups": subgroups_of(told, study),
        "attributions": attributions_of(told, study),
        "absent": [
            {key: e[key] for key in ("round", "site", "reason")} for e in by_kind.get("absent", [])
        ],
        "long_updates": _long_updates(by_kind),
        "bytes": _bytes(by_kind),
        "seconds": _seconds(by_kind),
    }


def _by_kind(events: Iterable[Event]) -> dict[str, list[Event]]:
    by_kind: dict[str, list[Event]] = {}
    for event in events:
        by_kind.setdefault(event["event"], []).append(event)
    return by_kind


def _status(events: Iterable[Event]) -> str:
    """How the run stands, by the last of its turns: started, resumed, finished or failed."""
    turns = [e["event"] for e in events if e["event"].startswith("run_")]
    return {"run_finished": "finished", "run_failed": "failed"}.get(turns[-1], "unfinished")


def _units(study: Study) -> dict[str, str]:
    """The unit of each outcome that has one; a class has none."""
    return {
        name: outcome.unit
        for name, outcome in study.outcomes.items()
        if not isinstance(outcome, ClassOutcome)
    }


def _site(counts: dict[str, int], study: Study) -> dict[str, Any]:
    """How many training patients a site has; of a private study only what it has at all."""
    if not isinstance(study.privacy, PatientPrivacy):
        return {"training_patients": counts}
    names = (*study.granularities, *study.outcomes)
    return {"training_patients": None, "offers": [name for name in names if counts.get(name)]}


def _privacy(by_kind: dict[str, list[Event]], study: Study) -> dict[str, Any]:
    """What was promised to whom, and what the run has cost of it so far."""
    privacy = study.privacy
    if isinstance(privacy, PatientPrivacy):
        # Receipts tell what the run has cost once the last evaluation is paid for.
        costs: dict[str, dict[str, float | None]] = {
            event["site"]: {"epsilon": None, "delta": None} for event in by_kind.get("enrolled", [])
        }
        for event in by_kind.get("reply", []):
            receipt = event.get("receipt") or {}
            if receipt.get("epsilon") is not None:
                costs[event["site"]] = {key: receipt.get(key) for key in ("epsilon", "delta")}
        return {
            "mode": "patient",
            "adjacency": "add or remove one patient",
            "unit": "patient",
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "moments": study.normalisation.method == "federated",
            "sites": costs,
        }
    if isinstance(privacy, SitePrivacy):
        rounds = sorted(by_kind.get("site_privacy", []), key=lambda event: event["round"])
        last = rounds[-1] if rounds else {}
        return {
            "mode": "site",
            "adjacency": "add or remove one site",
            "unit": "site",
            "epsilon": last.get("epsilon"),
            "delta": privacy.delta,
            "noise_multiplier": last.get("noise_multiplier"),
        }
    return {"mode": "none"}


def _transferred(by_kind: dict[str, list[Event]]) -> list[dict[str, Any]]:
    """What the run took from other models, and what it left and why."""
    return [
        {
            "taken": [_owner(name) for name in event["taken"]],
            "left": {_owner(name): reason for name, reason in event["left"].items()},
        }
        for event in by_kind.get("transferred", [])
    ]


def _owner(name: str) -> str:
    """Whom a block belongs to, as people call it: what all patients share is the fusion."""
    return "fusion" if name == SHARED else name


def _statistics(answers: Iterable[Event]) -> dict[int, dict[str, Any]]:
    """What sites sent, by round and site, as last answered."""
    found: dict[int, dict[str, Any]] = {}
    for event in answers:
        found.setdefault(event["round"], {})[event["site"]] = event["metrics"]
    return found


def _rounds(
    answers: Iterable[Event], by_kind: dict[str, list[Event]], study: Study
) -> list[dict[str, Any]]:
    replies: dict[int, dict[str, Event]] = {}
    for event in answers:
        replies.setdefault(event["round"], {})[event["site"]] = event
    oracles = {e["round"]: _by_outcome(e["metrics"], study) for e in by_kind.get("oracle", [])}
    sites_of = {e["round"]: e["sites"] for e in by_kind.get("aggregated", [])}
    return [
        {
            "round": number,
            "aggregated_from": sites_of.get(number, []),
            **_evaluated(replies[number], study, model=""),
            "personal": _personal(replies[number], study),
            "oracle": oracles.get(number),
        }
        for number in sorted(replies)
    ]


def _evaluated(replies: dict[str, Event], study: Study, *, model: str) -> dict[str, Any]:
    """Metrics by outcome: pooled, and of each site; a site that sent no statistics has None."""
    statistics = statistics_of(study)
    totals = {name: s.zero() for name, s in statistics.items()}
    sites: dict[str, Any] = {}
    for site, event in sorted(replies.items()):
        try:
            sums = from_flat(study, event["metrics"], model=model)
        except ValueError:
            sums = {}
        for name, evaluated in sums.items():
            totals[name] = totals[name] + evaluated
        metrics = {name: statistics[name].metrics_of(s) for name, s in sums.items()}
        sites[site] = metrics or None
    pooled = {name: s.metrics_of(totals[name]) for name, s in statistics.items()}
    return {"pooled": pooled, "sites": sites}


def _personal(replies: dict[str, Event], study: Study) -> dict[str, Any] | None:
    """The same of the hospitals' own models; None in a round in which no site evaluated its own."""
    evaluated = _evaluated(replies, study, model=PERSONAL)
    return evaluated if any(evaluated["sites"].values()) else None


def _by_outcome(flat: dict[str, float], study: Study) -> dict[str, Metrics]:
    """The oracle's metrics, which the journal holds as OUTCOME.METRIC, without undefined ones."""
    return {
        outcome: {name: flat.get(f"{outcome}.{name}") for name in statistics.metric_names}
        for outcome, statistics in statistics_of(study).items()
    }


def _long_updates(by_kind: dict[str, list[Event]]) -> list[dict[str, Any]]:
    """The sites whose updates were much longer than those of the others, by round."""
    rounds = {e["round"]: e.get("long_updates", {}) for e in by_kind.get("aggregated", [])}
    return [
        {"round": number, "site": site, "times_median": times}
        for number, sites in sorted(rounds.items())
        for site, times in sites.items()
    ]


def _bytes(by_kind: dict[str, list[Event]]) -> dict[str, int]:
    return {
        "down": sum(e["bytes_down"] for e in by_kind.get("asked", [])),
        "up": sum(e["bytes_up"] for e in by_kind.get("reply", [])),
    }


def _seconds(by_kind: dict[str, list[Event]]) -> dict[str, float]:
    """Seconds by phase over the whole run; `site_…` are summed over sites."""
    rounds = sum(e["seconds"] for e in by_kind.get("round_finished", []))
    replies = by_kind.get("reply", [])
    sites = {
        f"site_{name.removeprefix('seconds_')}": sum(
            e["metrics"].get(name, [0.0])[0] for e in replies
        )
        for name in SECONDS
    }
    return {
        "rounds": rounds,
        "aggregation": sum(e["seconds"] for e in by_kind.get("aggregated", [])),
        "checkpoints": sum(e["seconds"] for e in by_kind.get("checkpoint", [])),
        **sites,
    }
