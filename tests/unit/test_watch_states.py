"""Where a run stands, event by event."""

from server.journal import Event
from server.watch.states import RunState, state_of
from tests.unit.report_journals import PLAIN, event_of, start_of


def asked(kind: str, number: int, *sites: str) -> Event:
    return event_of("asked", kind=kind, round=number, nonces=dict.fromkeys(sites, "n"))


def reply(kind: str, number: int, site: str, **metrics: list[float]) -> Event:
    return event_of("reply", kind=kind, round=number, site=site, metrics=metrics)


def absent(number: int, site: str, reason: str) -> Event:
    return event_of("absent", round=number, site=site, reason=reason)


ENROLLED = [
    start_of(PLAIN, 4),
    asked("query", 0, "node 1", "node 2"),
    reply("query", 0, "ada"),
    event_of("enrolled", site="ada", counts={}),
    reply("query", 0, "bea"),
    event_of("enrolled", site="bea", counts={}),
]


def test_a_run_without_events_has_not_begun() -> None:
    assert state_of([]) == RunState(status="not begun")


def test_hospitals_enrol_train_and_answer() -> None:
    state = state_of(ENROLLED)
    assert {name: site.doing for name, site in state.sites.items()} == {
        "ada": "enrolled",
        "bea": "enrolled",
    }
    assert (state.kind, state.num_asked, state.num_answered) == ("query", 2, 2)
    state = state_of([*ENROLLED, asked("train", 0, "ada", "bea")])
    assert state.sites["ada"].doing == "training …"
    times = {"seconds_training": [0.5], "seconds_evaluation": [0.25]}
    state = state_of(
        [*ENROLLED, asked("train", 0, "ada", "bea"), reply("train", 0, "ada", **times)]
    )
    assert (state.sites["ada"].doing, state.sites["ada"].seconds) == ("answered", 0.75)
    assert (state.sites["bea"].doing, state.num_answered) == ("training …", 1)


def test_a_hospital_that_was_absent_is_shown_so_with_the_reason_until_it_answers_again() -> None:
    first = [*ENROLLED, asked("train", 0, "ada", "bea"), absent(0, "bea", "late")]
    state = state_of(first)
    assert state.sites["bea"].doing == "absent: did not answer in time"
    assert state.absent == {"bea": "did not answer in time"}
    state = state_of([*first, asked("train", 1, "ada", "bea"), reply("train", 1, "bea")])
    assert state.sites["bea"].doing == "answered"
    assert (state.sites["bea"].num_absent, state.absent) == (1, {})


def test_a_hospital_that_refuses_at_once_has_a_row_and_a_node_without_a_name_has_none() -> None:
    refused = [absent(0, "cleo", "study_not_accepted"), absent(0, "node 9", "late")]
    state = state_of([*ENROLLED, *refused])
    assert state.sites["cleo"].doing == "absent: refused: nobody there has accepted this study"
    assert set(state.sites) == {"ada", "bea", "cleo"}
    assert set(state.absent) == {"cleo", "node 9"}


def test_rounds_are_counted_timed_and_the_time_left_is_estimated() -> None:
    ended = [event_of("round_finished", round=n, seconds=s) for n, s in ((1, 9.0), (2, 2.0))]
    state = state_of([*ENROLLED, *ended])
    assert state.round == 2
    # The middle of 9 and 2 s, for each of two rounds.
    assert state.seconds_left == 11.0
    assert state_of(ENROLLED).seconds_left is None
    finished = state_of([*ENROLLED, *ended, event_of("run_finished", round=4)])
    assert (finished.status, finished.seconds_left) == ("finished", None)


def test_only_training_is_paid_for_and_by_those_who_were_asked() -> None:
    tasks = [asked("train", 0, "ada", "bea"), asked("train", 1, "ada"), asked("evaluate", 2, "ada")]
    state = state_of([*ENROLLED, *tasks])
    assert {name: site.num_charged for name, site in state.sites.items()} == {"ada": 2, "bea": 1}


def test_a_run_that_failed_says_why_until_it_goes_on() -> None:
    failed = [*ENROLLED, event_of("run_failed", reason="cohort")]
    assert state_of(failed).failure == "fewer hospitals answered than the study's minimum"
    assert state_of([*ENROLLED, event_of("run_failed", reason="study")]).failure == "study"
    state = state_of([*failed, start_of(PLAIN, 4) | {"event": "run_resumed", "round": 3}])
    assert (state.status, state.failure, state.round, state.num_resumed) == ("running", "", 3, 1)
