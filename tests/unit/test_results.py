"""Results are a function of the journal alone: journals written by hand, and what follows."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from client.private_statistics import private_evaluation
from common.errors import RunError
from common.metrics.evaluation import PERSONAL, from_flat, statistics_of, to_flat
from common.metrics.statistics import EvaluationSums, Metrics
from common.privacy.mechanisms import NoiseSource
from common.study import Study
from server.journal import Event, Journal, read_journal
from server.report import write_report
from server.report.markdown import report_of
from server.report.results import results_of
from tests.unit.builders import (
    HASH,
    MORE_OUTCOMES,
    evaluation,
    outcomes_of,
    predictions_of,
    study_of,
)

STUDY = study_of()
NORTH, SOUTH = evaluation(30, STUDY, seed=1), evaluation(50, STUDY, seed=2)
LATER = evaluation(30, STUDY, seed=3)
COUNTS = {"patients": 90, "labs": 90, "vitals": 10, "lifestyle": 0, "event": 80}

Sums = Mapping[str, EvaluationSums]


def metrics_of(*parts: Sums, study: Study = STUDY) -> dict[str, Metrics]:
    """The metrics of each outcome of all these patients together."""
    return {
        name: statistics.metrics_of(sum((part[name] for part in parts), statistics.zero()))
        for name, statistics in statistics_of(study).items()
    }


def _event(event: str, minute: int = 0, **fields: Any) -> Event:
    return {"at": f"2026-03-01T12:{minute:02}:00+00:00", "event": event, **fields}


def _start(
    event: str = "run_started", minute: int = 0, round_number: int = 0, study: Study = STUDY
) -> Event:
    return _event(
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


def _enrolled(site: str) -> list[Event]:
    return [
        _event("reply", round=0, kind="query", site=site, counts=COUNTS, metrics={}, bytes_up=10),
        _event("enrolled", site=site, counts=COUNTS),
    ]


def _reply(
    round_number: int,
    site: str,
    sums: Sums | None,
    kind: str = "train",
    seconds: tuple[float, float] = (1.0, 0.25),
    own: Sums | None = None,
) -> Event:
    flat = to_flat(sums or {}) | to_flat(own or {}, model=PERSONAL)
    metrics = {name: list(values) for name, values in flat.items()}
    metrics |= {"seconds_training": [seconds[0]], "seconds_evaluation": [seconds[1]]}
    return _event(
        "reply",
        round=round_number,
        kind=kind,
        site=site,
        counts=COUNTS,
        metrics=metrics,
        bytes_up=100,
    )


def _asked(round_number: int) -> Event:
    return _event("asked", round=round_number, kind="train", nonces={}, bytes_down=1000)


def _aggregated(round_number: int, *sites: str) -> list[Event]:
    return [
        _event("aggregated", round=round_number, sites=list(sites), update_norm=1.0, seconds=0.5),
        _event("checkpoint", round=round_number, seconds=0.125),
        _event("round_finished", round=round_number, seconds=2.0),
    ]


def journal_of_a_run() -> list[Event]:
    """Two sites, two rounds; south is late in round 1; then one last evaluation."""
    return [
        _start(),
        *_enrolled("south"),
        *_enrolled("north"),
        _asked(0),
        _reply(0, "south", SOUTH),
        _reply(0, "north", NORTH),
        *_aggregated(1, "north", "south"),
        _event("oracle", round=0, metrics={"event.auroc": 0.75}),
        _asked(1),
        _event("absent", round=1, site="south", reason="late"),
        _reply(1, "north", LATER),
        *_aggregated(2, "north"),
        _asked(2),
        _reply(2, "north", None, kind="evaluate", seconds=(0.0, 0.5)),
        _event("run_finished", 5, round=2),
    ]


def test_a_run_is_told_from_its_journal() -> None:
    results = results_of(journal_of_a_run())
    expected = {
        "schema": 3,
        "subgroups": None,
        "audit": None,
        "run_id": "abc",
        "status": "finished",
        "study": "small",
        "study_hash": HASH,
        "seed": 0,
        "strategy": "fedavg",
        "outcomes": {"event": "binary"},
        "units": {},
        "engine": "in-process",
        "release": "0.1.0",
        "code": "c0de",
        "started_at": "2026-03-01T12:00:00+00:00",
        "ended_at": "2026-03-01T12:05:00+00:00",
        "num_rounds": 2,
        "resumed_at_rounds": [],
        "transferred": [],
        "absent": [{"round": 1, "site": "south", "reason": "late"}],
        "long_updates": [],
        "privacy": {"mode": "none"},
    }
    assert {key: results[key] for key in expected} == expected
    assert set(results) - set(expected) == {"sites", "rounds", "bytes", "seconds"}
    assert results["sites"]["north"] == {"training_patients": COUNTS}


def test_results_are_a_function_of_the_journal_alone() -> None:
    journal = journal_of_a_run()
    before = copy.deepcopy(journal)
    assert results_of(iter(journal)) == results_of(journal)
    assert journal == before


def test_pooled_metrics_are_those_of_the_merged_sums() -> None:
    first, second, _ = results_of(journal_of_a_run())["rounds"]
    assert first["pooled"] == metrics_of(NORTH, SOUTH)
    assert first["pooled"]["event"]["num_patients"] == 80
    assert first["sites"] == {"north": metrics_of(NORTH), "south": metrics_of(SOUTH)}
    assert second["pooled"] == metrics_of(LATER)


def test_the_order_of_arrival_changes_nothing() -> None:
    journal = journal_of_a_run()
    arrivals = [n for n, event in enumerate(journal) if event["event"] == "reply"][2:4]
    one, other = arrivals
    journal[one], journal[other] = journal[other], journal[one]
    assert results_of(journal)["rounds"] == results_of(journal_of_a_run())["rounds"]


def test_each_round_names_the_sites_that_it_was_made_from() -> None:
    rounds = results_of(journal_of_a_run())["rounds"]
    assert [(r["round"], r["aggregated_from"]) for r in rounds] == [
        (0, []),
        (1, ["north", "south"]),
        (2, ["north"]),
    ]
    first, *others = [r["oracle"] for r in rounds]
    assert {k: v for k, v in first["event"].items() if v is not None} == {"auroc": 0.75}
    assert set(first["event"]) == set(rounds[0]["pooled"]["event"])
    assert others == [None, None]
    assert [r["personal"] for r in rounds] == [None, None, None]


def test_an_enrolment_is_no_round() -> None:
    enrolment = journal_of_a_run()[:5]
    assert results_of(enrolment)["rounds"] == []
    assert set(results_of(enrolment)["sites"]) == {"north", "south"}


def test_withheld_statistics_are_null_and_not_pooled() -> None:
    last = results_of(journal_of_a_run())["rounds"][-1]
    assert last["sites"] == {"north": None}
    assert last["pooled"]["event"]["num_patients"] == 0
    assert last["pooled"]["event"]["auroc"] is None


def test_where_one_statistic_is_withheld_only_what_needs_it_is_null_there_and_in_the_whole() -> (
    None
):
    journal = journal_of_a_run()
    reply = next(
        e for e in journal if e["event"] == "reply" and e["site"] == "south" and e["metrics"]
    )
    del reply["metrics"]["event.confusion"]
    first = results_of(journal)["rounds"][0]
    whole = results_of(journal_of_a_run())["rounds"][0]
    lost = {"accuracy": None, "f1": None}
    assert first["sites"]["south"] == {"event": whole["sites"]["south"]["event"] | lost}
    assert first["sites"]["north"] == whole["sites"]["north"]
    # A sum over some would pass for a sum over all, so the whole has no accuracy either.
    assert first["pooled"] == {"event": whole["pooled"]["event"] | lost}
    assert None not in (
        first["sites"]["north"]["event"]["accuracy"],
        first["pooled"]["event"]["loss"],
    )


def test_statistics_that_cannot_be_are_null_and_not_pooled() -> None:
    journal = journal_of_a_run()
    reply = next(e for e in journal if e["event"] == "reply" and e["round"] == 1)
    del reply["metrics"]["event.num_patients"]
    entry = results_of(journal)["rounds"][1]
    assert entry["sites"] == {"north": None}
    assert entry["pooled"]["event"]["num_patients"] == 0


SEVERAL = study_of(outcomes=MORE_OUTCOMES, personal={"fine_tune_steps": 1})


def test_outcomes_are_pooled_over_the_sites_that_sent_them() -> None:
    north, south = evaluation(30, SEVERAL, seed=1), evaluation(50, SEVERAL, seed=2)
    some = {name: sums for name, sums in south.items() if name != "stay"}
    journal = [
        _start(study=SEVERAL),
        _asked(0),
        _reply(0, "north", north),
        _reply(0, "south", some),
    ]
    results = results_of(journal)
    assert results["outcomes"] == {"event": "binary", "stay": "regression", "death": "survival"}
    (entry,) = results["rounds"]
    both, alone = (metrics_of(*parts, study=SEVERAL) for parts in ((north, south), (north,)))
    assert entry["pooled"] == both | {"stay": alone["stay"]}
    assert entry["sites"]["north"] == alone
    assert set(entry["sites"]["south"]) == {"event", "death"}


def test_the_hospitals_own_models_are_told_beside_the_shared_one() -> None:
    shared, north, south = (evaluation(30, SEVERAL, seed=n) for n in (1, 2, 3))
    journal = [
        _start(study=SEVERAL),
        _asked(0),
        _reply(0, "north", shared),
        _reply(0, "south", shared),
        _asked(1),
        _reply(1, "north", shared, own=north, kind="evaluate"),
        _reply(1, "south", shared, own=south, kind="evaluate"),
    ]
    first, last = results_of(journal)["rounds"]
    assert first["personal"] is None
    assert last["pooled"] == metrics_of(shared, shared, study=SEVERAL)
    assert last["personal"] == {
        "pooled": metrics_of(north, south, study=SEVERAL),
        "sites": {
            "north": metrics_of(north, study=SEVERAL),
            "south": metrics_of(south, study=SEVERAL),
        },
    }


def test_a_round_that_was_asked_again_counts_as_last_answered() -> None:
    journal = [
        _start(),
        _asked(0),
        _reply(0, "north", NORTH),
        _event("absent", round=0, site="south", reason="error"),
        _asked(0),
        _reply(0, "north", LATER),
        _reply(0, "south", SOUTH),
        *_aggregated(1, "north", "south"),
    ]
    (entry,) = results_of(journal)["rounds"]
    assert entry["sites"]["north"] == metrics_of(LATER)
    assert entry["pooled"] == metrics_of(LATER, SOUTH)


def test_a_resumed_run_begins_where_it_began() -> None:
    journal = [
        *journal_of_a_run()[:10],
        _start("run_resumed", minute=30, round_number=1),
        *journal_of_a_run()[10:],
    ]
    results = results_of(journal)
    assert results["resumed_at_rounds"] == [1]
    assert results["started_at"] == "2026-03-01T12:00:00+00:00"
    assert results["status"] == "finished"
    assert results["rounds"] == results_of(journal_of_a_run())["rounds"]


FAILED = _event("run_failed", 9, reason="cohort")
FINISHED = _event("run_finished", 9, round=2)
RESUMED = _start("run_resumed", minute=10, round_number=1)


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([], "unfinished"),
        ([FAILED], "failed"),
        ([FINISHED], "finished"),
        ([RESUMED], "unfinished"),
        ([FAILED, RESUMED], "unfinished"),
        ([FAILED, RESUMED, FINISHED], "finished"),
        ([FINISHED, RESUMED, FAILED], "failed"),
    ],
)
def test_the_status_is_that_of_the_last_start(events: list[Event], status: str) -> None:
    assert results_of([_start(), *events])["status"] == status


def test_bytes_and_seconds_are_added_up() -> None:
    results = results_of(journal_of_a_run())
    # Three exchanges of 1000; enrolments of 10 and 10, replies of 100, 100, 100, 100.
    assert results["bytes"] == {"down": 3000, "up": 420}
    assert results["seconds"] == {
        "rounds": 4.0,
        "aggregation": 1.0,
        "checkpoints": 0.25,
        "site_training": 3.0,
        "site_evaluation": 1.25,
    }


@pytest.mark.parametrize("events", [[], [_asked(0)], [RESUMED]])
def test_a_journal_without_a_beginning_is_an_error(events: list[Event]) -> None:
    with pytest.raises(RunError, match="begins with run_started"):
        results_of(events)


def test_unknown_events_change_nothing() -> None:
    journal = [*journal_of_a_run()[:-1], _event("weather", sky="blue"), journal_of_a_run()[-1]]
    assert results_of(journal) == results_of(journal_of_a_run())


def test_results_and_report_are_written_from_the_journal_of_a_folder(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", durable=False)
    for event in journal_of_a_run():
        journal.write(
            event["event"], **{k: v for k, v in event.items() if k not in ("at", "event")}
        )
    journal.close()
    assert write_report(tmp_path) == tmp_path / "report.md"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == results_of(read_journal(tmp_path / "journal.jsonl"))
    assert "| north | 90 |" in (tmp_path / "report.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *["journal.jsonl", "report.html", "report.md", "results.json"]
    ]


def test_blocks_that_were_taken_are_told_as_people_call_them() -> None:
    transferred = _event("transferred", taken=["labs", "patients"], left={"event": "not there"})
    results = results_of([_start(), transferred])
    assert results["transferred"] == [{"taken": ["labs", "fusion"], "left": {"event": "not there"}}]


PRIVATE = study_of(
    privacy={"mode": "patient", "epsilon": 3.0, "delta": 1e-4, "evaluation_bins": 8},
    outcomes=MORE_OUTCOMES,
)
WEIGHTS = {"patients": 1, "labs": 1, "vitals": 1, "lifestyle": 0, "event": 1, "stay": 1, "death": 0}


def _noised(seed: int) -> dict[str, list[float]]:
    flat = private_evaluation(
        predictions_of(PRIVATE, 80, seed),
        outcomes_of(PRIVATE, 80, seed),
        PRIVATE,
        1.5,
        NoiseSource.seeded(seed),
    )
    return {name: list(values) for name, values in flat.items()}


def _private_reply(
    round_number: int, site: str, *, kind: str = "train", epsilon: float | None = None
) -> Event:
    return _event(
        "reply",
        round=round_number,
        kind=kind,
        site=site,
        counts=WEIGHTS if kind == "train" else {},
        metrics=_noised(len(site)) if kind == "evaluate" else {},
        bytes_up=100,
        receipt={"epsilon": epsilon, "delta": epsilon and 1e-4, "seq": 3, "head": "ab"},
    )


def journal_of_a_private_run() -> list[Event]:
    """Two sites, two rounds, one evaluation, and the oracle of a simulation."""
    journal = [_start(study=PRIVATE)]
    for site in ("north", "west"):
        journal.append(_private_reply(0, site) | {"kind": "query"})
        journal.append(_event("enrolled", site=site, counts=WEIGHTS))
    for number in (0, 1):
        journal += [_private_reply(number, site) for site in ("north", "west")]
        journal += _aggregated(number + 1, "north", "west")
        journal.append(_event("oracle", round=number, metrics={"event.auroc": 0.6 + number / 10}))
    journal.append(_private_reply(2, "north", kind="evaluate", epsilon=2.71))
    journal.append(_private_reply(2, "west", kind="evaluate"))
    return [*journal, _event("run_finished", 5, round=2)]


def test_a_private_run_tells_what_it_cost_each_site_and_no_number_of_patients() -> None:
    results = results_of(journal_of_a_private_run())
    assert results["privacy"] == {
        "mode": "patient",
        "adjacency": "add or remove one patient",
        "unit": "patient",
        "epsilon": 3.0,
        "delta": 1e-4,
        "moments": True,
        "sites": {
            "north": {"epsilon": 2.71, "delta": 1e-4},
            "west": {"epsilon": None, "delta": None},
        },
    }
    offers = ["labs", "vitals", "event", "stay"]
    expected = {"training_patients": None, "offers": offers}
    assert results["sites"] == {"north": expected, "west": expected}


def test_the_newest_cost_that_a_site_has_told_counts() -> None:
    journal = journal_of_a_private_run()
    journal.append(_private_reply(2, "north", kind="evaluate", epsilon=2.9))
    journal.append(_private_reply(2, "north", kind="evaluate"))
    costs = results_of(journal)["privacy"]["sites"]
    assert costs["north"] == {"epsilon": 2.9, "delta": 1e-4}


def test_a_private_run_is_evaluated_after_its_last_round_alone() -> None:
    *before, last = results_of(journal_of_a_private_run())["rounds"]
    for entry in before:
        assert entry["sites"] == {"north": None, "west": None}
        assert entry["pooled"]["event"]["auroc"] is None
        assert entry["oracle"]["event"]["auroc"] is not None
    statistics = statistics_of(PRIVATE)
    both = [from_flat(PRIVATE, _noised(len(site))) for site in ("north", "west")]
    for name, one in statistics.items():
        assert last["pooled"][name] == one.metrics_of(both[0][name] + both[1][name])
        assert last["sites"]["north"][name] == one.metrics_of(both[0][name])
    assert last["pooled"]["event"]["auroc_noise_sd"] > 0


def test_a_private_run_without_receipts_has_no_cost() -> None:
    journal = [{k: v for k, v in e.items() if k != "receipt"} for e in journal_of_a_private_run()]
    assert results_of(journal)["privacy"]["sites"]["north"] == {"epsilon": None, "delta": None}


def test_the_results_of_a_private_run_survive_json_and_have_a_report() -> None:
    results = results_of(journal_of_a_private_run())
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert "## Privacy" in report_of(results)


def test_the_cost_of_hiding_sites_is_that_after_the_last_round() -> None:
    study = study_of(privacy={"mode": "site", "noise_multiplier": 1.0, "delta": 1e-3})
    spent = [
        _event(
            "site_privacy",
            round=number,
            epsilon=float(number),
            delta=1e-3,
            noise_multiplier=1.0,
            clipped=[],
        )
        for number in (1, 2)
    ]
    journal = [_start(study=study), *_enrolled("north")]
    expected = {
        "mode": "site",
        "adjacency": "add or remove one site",
        "unit": "site",
        "epsilon": None,
        "delta": 1e-3,
        "noise_multiplier": None,
    }
    assert results_of(journal)["privacy"] == expected
    assert results_of(journal)["sites"]["north"] == {"training_patients": COUNTS}
    after = expected | {"epsilon": 2.0, "noise_multiplier": 1.0}
    assert results_of([*journal, *spent])["privacy"] == after
