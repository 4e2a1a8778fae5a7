"""Results are a function of the journal alone: journals written by hand, and what follows."""

import copy
import json
from pathlib import Path

import pytest

from common.errors import RunError
from server.journal import Event, Journal, read_journal
from server.report import write_report
from server.report.results import results_of
from tests.unit.builders import HASH, MORE_OUTCOMES, evaluation, study_of
from tests.unit.result_journals import (
    COUNTS,
    STUDY,
    aggregated,
    asked,
    enrolled,
    event_of,
    metrics_of,
    reply_of,
    start_of,
)

NORTH, SOUTH = evaluation(30, STUDY, seed=1), evaluation(50, STUDY, seed=2)
LATER = evaluation(30, STUDY, seed=3)


def journal_of_a_run() -> list[Event]:
    """Two sites, two rounds; south is late in round 1; then one last evaluation."""
    return [
        start_of(),
        *enrolled("south"),
        *enrolled("north"),
        asked(0),
        reply_of(0, "south", SOUTH),
        reply_of(0, "north", NORTH),
        *aggregated(1, "north", "south"),
        event_of("oracle", round=0, metrics={"event.auroc": 0.75}),
        asked(1),
        event_of("absent", round=1, site="south", reason="late"),
        reply_of(1, "north", LATER),
        *aggregated(2, "north"),
        asked(2),
        reply_of(2, "north", None, kind="evaluate", seconds=(0.0, 0.5)),
        event_of("run_finished", 5, round=2),
    ]


def test_a_run_is_told_from_its_journal() -> None:
    results = results_of(journal_of_a_run())
    expected = {
        "schema": 3,
        "subgroups": None,
        "attributions": None,
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
        "num_aggregated": 2,
        "averaged_rounds": 0,
        "unfinished_round": None,
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
        start_of(study=SEVERAL),
        asked(0),
        reply_of(0, "north", north),
        reply_of(0, "south", some),
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
        start_of(study=SEVERAL),
        asked(0),
        reply_of(0, "north", shared),
        reply_of(0, "south", shared),
        asked(1),
        reply_of(1, "north", shared, own=north, kind="evaluate"),
        reply_of(1, "south", shared, own=south, kind="evaluate"),
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
        start_of(),
        asked(0),
        reply_of(0, "north", NORTH),
        event_of("absent", round=0, site="south", reason="error"),
        asked(0),
        reply_of(0, "north", LATER),
        reply_of(0, "south", SOUTH),
        *aggregated(1, "north", "south"),
    ]
    (entry,) = results_of(journal)["rounds"]
    assert entry["sites"]["north"] == metrics_of(LATER)
    assert entry["pooled"] == metrics_of(LATER, SOUTH)


def test_a_resumed_run_begins_where_it_began() -> None:
    journal = [
        *journal_of_a_run()[:10],
        start_of("run_resumed", minute=30, round_number=1),
        *journal_of_a_run()[10:],
    ]
    results = results_of(journal)
    assert results["resumed_at_rounds"] == [1]
    assert results["started_at"] == "2026-03-01T12:00:00+00:00"
    assert results["status"] == "finished"
    assert results["rounds"] == results_of(journal_of_a_run())["rounds"]


FAILED = event_of("run_failed", 9, reason="cohort")
FINISHED = event_of("run_finished", 9, round=2)
RESUMED = start_of("run_resumed", minute=10, round_number=1)


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
    assert results_of([start_of(), *events])["status"] == status


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


@pytest.mark.parametrize("events", [[], [asked(0)], [RESUMED]])
def test_a_journal_without_a_beginning_is_an_error(events: list[Event]) -> None:
    with pytest.raises(RunError, match="begins with run_started"):
        results_of(events)


def test_unknown_events_change_nothing() -> None:
    journal = [*journal_of_a_run()[:-1], event_of("weather", sky="blue"), journal_of_a_run()[-1]]
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
    transferred = event_of("transferred", taken=["labs", "patients"], left={"event": "not there"})
    results = results_of([start_of(), transferred])
    assert results["transferred"] == [{"taken": ["labs", "fusion"], "left": {"event": "not there"}}]
