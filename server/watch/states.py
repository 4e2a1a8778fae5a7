"""Where a run stands: its round, what each hospital is doing in it, and what that has cost.

A pure function of the journal's events; the page and the terminal tell the same of it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from statistics import median

from server.journal import Event
from server.report.html.words import reason_of

_BUSY = {"query": "enrolling", "train": "training", "evaluate": "evaluating"}
ANSWERED = "answered"
_FAILURES = {
    "cohort": "fewer hospitals answered than the study's minimum",
    "run": "the model is no longer finite, or its folder cannot be used",
    "checkpoint": "a checkpoint is missing or damaged",
}


@dataclass(frozen=True, kw_only=True)
class SiteState:
    """One hospital.

    Attributes:
        doing: what it is doing, or did last, in plain words.
        seconds: of work in its last answer; None where it does not tell.
        num_absent: how often it was absent.
        num_charged: in how many rounds it was asked to train, which is what privacy is paid for.
    """

    doing: str
    seconds: float | None = None
    num_absent: int = 0
    num_charged: int = 0


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run.

    Attributes:
        status: "not begun", "running", "finished" or "failed".
        round: how many aggregations the model has that is being trained on or evaluated.
        num_rounds: how many there will be.
        kind: of the exchange that goes on: "query" (enrolment), "train" or "evaluate".
        num_asked, num_answered: in this exchange.
        absent: who is absent from this exchange, and why.
        round_seconds: of every round that is finished.
        num_resumed: how often the run was taken up again.
        failure: why the run failed, in words; empty where it did not.
    """

    status: str = "not begun"
    round: int = 0
    num_rounds: int = 0
    kind: str = "query"
    num_asked: int = 0
    num_answered: int = 0
    absent: dict[str, str] = field(default_factory=dict)
    sites: dict[str, SiteState] = field(default_factory=dict)
    round_seconds: tuple[float, ...] = ()
    num_resumed: int = 0
    failure: str = ""

    @property
    def seconds_left(self) -> float | None:
        """An estimate, by the middle of the last rounds; None before there is one."""
        if self.status != "running" or not self.round_seconds:
            return None
        return median(self.round_seconds[-10:]) * (self.num_rounds - self.round)


def state_of(events: Iterable[Event]) -> RunState:
    """The state of a run after these events.

    Guarantees:
        - A hospital that was absent is shown so, with the reason, until it answers again.
        - A node that never told its name is counted as absent, and has no row.
    """
    return reduce(after, events, RunState())


def after(state: RunState, event: Event) -> RunState:
    """The state of a run after one more event."""
    actions: dict[str, Callable[[RunState, Event], RunState]] = {
        "run_started": _on_start,
        "run_resumed": _on_start,
        "enrolled": _on_enrolled,
        "asked": _on_asked,
        "reply": _on_reply,
        "absent": _on_absent,
        "round_finished": _on_round,
        "run_finished": lambda s, e: replace(s, status="finished", round=e["round"]),
        "run_failed": _on_failure,
    }
    action = actions.get(event["event"])
    return state if action is None else action(state, event)


def _on_start(state: RunState, event: Event) -> RunState:
    return replace(
        state,
        status="running",
        round=event["round"],
        num_rounds=event["num_rounds"],
        num_resumed=state.num_resumed + (event["event"] == "run_resumed"),
        failure="",
    )


def _on_failure(state: RunState, event: Event) -> RunState:
    return replace(
        state, status="failed", failure=_FAILURES.get(event["reason"], str(event["reason"]))
    )


def _on_enrolled(state: RunState, event: Event) -> RunState:
    name = event["site"]
    return _with(state, name, replace(_site(state, name), doing="enrolled"))


def _on_asked(state: RunState, event: Event) -> RunState:
    asked = set(event["nonces"])
    sites = {
        name: replace(
            site,
            doing=f"{_BUSY.get(event['kind'], 'working')} …",
            num_charged=site.num_charged + (event["kind"] == "train"),
        )
        if name in asked
        else site
        for name, site in state.sites.items()
    }
    return replace(
        state,
        round=event["round"],
        kind=event["kind"],
        num_asked=len(asked),
        num_answered=0,
        absent={},
        sites=sites,
    )


def _on_reply(state: RunState, event: Event) -> RunState:
    state = replace(state, num_answered=state.num_answered + 1)
    if event["kind"] == "query":
        return state
    told = [values[0] for name, values in event["metrics"].items() if name.startswith("seconds")]
    name, seconds = event["site"], sum(told) if told else None
    return _with(state, name, replace(_site(state, name), doing=ANSWERED, seconds=seconds))


def _on_absent(state: RunState, event: Event) -> RunState:
    name, reason = event["site"], reason_of(event["reason"])
    state = replace(state, absent={**state.absent, name: reason})
    if name not in state.sites and name.startswith("node "):
        return state
    before = _site(state, name)
    now = replace(before, doing=f"absent: {reason}", seconds=None, num_absent=before.num_absent + 1)
    return _with(state, name, now)


def _on_round(state: RunState, event: Event) -> RunState:
    return replace(
        state,
        round=event["round"],
        round_seconds=(*state.round_seconds, float(event["seconds"])),
    )


def _site(state: RunState, name: str) -> SiteState:
    return state.sites.get(name, SiteState(doing="enrolling …"))


def _with(state: RunState, name: str, site: SiteState) -> RunState:
    return replace(state, sites={**state.sites, name: site})


def span(seconds: float) -> str:
    """A time as people say it.

    >>> span(8.2), span(130), span(7500)
    ('9 s', '3 min', '2.1 h')
    """
    if seconds < 60:
        return f"{-(-seconds // 1):.0f} s"
    return f"{-(-seconds // 60):.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
