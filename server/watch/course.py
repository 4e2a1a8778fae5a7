"""A run as far as its journal tells, kept up to date at the cost of what is new.

A reply holds histograms of thousands of numbers, and a long run has thousands of replies. They are
parsed again only in the round to which something was added; everything else is kept in short.
"""

import json
from dataclasses import dataclass, field
from math import inf
from typing import Any

from common.metrics.evaluation import SECONDS
from server.journal import Event
from server.report.results import results_of
from server.report.rounds import unfinished_round, whole_rounds

_STARTS = ("run_started", "run_resumed")
# What taking an event raises that is of another form than ours.
UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass(kw_only=True)
class Course:
    """Takes the lines of a journal, and tells the results so far.

    Guarantees:
        - `results` are those of `results_of` for the whole journal, however the lines came.
        - A line that is not an event is passed over and counted.

    Attributes:
        events: all events, without the statistics in them.
        num_damaged: how many lines were not events.
    """

    events: list[Event] = field(default_factory=list, init=False)
    num_damaged: int = field(default=0, init=False)
    _lines: dict[int, dict[str, bytes]] = field(default_factory=dict, init=False)
    _rounds: dict[int, dict[str, Any]] = field(default_factory=dict, init=False)
    _stale: set[int] = field(default_factory=set, init=False)

    def take(self, lines: list[bytes]) -> None:
        """Adds lines of the journal."""
        for line in lines:
            try:
                self._take(line)
            except UNREADABLE:
                self.num_damaged += 1

    def _take(self, line: bytes) -> None:
        event = json.loads(line.decode())
        kind, _ = event["event"], event["at"]
        if _is_of_a_round(event):
            short = event | {"metrics": {k: v for k, v in event["metrics"].items() if k in SECONDS}}
            number = int(event["round"])
            self._lines.setdefault(number, {})[event.get("site", "")] = line
            self._stale.add(number)
            event = short
        elif kind == "aggregated":
            self._stale.add(int(event["round"]))
        elif kind in _STARTS:
            # Later models are made anew: what was answered of them is of models given up.
            newest = int(event["round"]) if kind == "run_resumed" else inf
            self._lines = {n: lines for n, lines in self._lines.items() if n <= newest}
            self._stale.update(self._lines)
        self.events.append(event)

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to tell the results of."""
        return any(event["event"] == "run_started" for event in self.events)

    def results(self) -> dict[str, Any]:
        """The results so far, as `results_of` has them.

        Raises:
            RunError: the journal has no beginning of a run.
        """
        # Of each site one reply is left, in one round: evaluating takes time, and comes below.
        results = results_of(
            (event | {"round": 0} if _is_of_a_round(event) else event for event in self.events),
            rounds=(),
        )
        for number in sorted(self._stale):
            self._rounds[number] = self._evaluated(number)
        self._stale.clear()
        whole = whole_rounds(self.events)
        parts = [self._rounds[number] for number in sorted(whole)]
        newest = {"unfinished_round": unfinished_round(self.events, whole=whole)}
        for key in ("subgroups", "attributions"):
            # As told of the newest round in which any hospital did.
            told = [p[key] for p in parts if (p[key] or {}).get("round") is not None]
            newest[key] = told[-1] if told else results[key]
        return results | newest | {"rounds": [e for part in parts for e in part["rounds"]]}

    def _evaluated(self, number: int) -> dict[str, Any]:
        """The results of one round's own events alone."""
        events = [e for e in self.events if e["event"] in (*_STARTS, "aggregated")]
        events += [json.loads(line) for line in self._lines.get(number, {}).values()]
        return results_of(events, rounds=(number,))


def _is_of_a_round(event: Event) -> bool:
    kind = event["event"]
    return bool(kind == "oracle" or (kind == "reply" and event["kind"] != "query"))
