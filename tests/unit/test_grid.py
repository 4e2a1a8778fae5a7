"""One exchange over a grid: a double at Flower's seam, with a clock that only sleeping moves."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.run import Run

from server.grid import Pace, exchange, wait_for_nodes
from tests.unit.builders import instruction


@dataclass
class Clock:
    """A clock that stands still while nobody sleeps."""

    now_s: float = 100.0
    pauses: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert len(self.pauses) < 10_000, "expected the exchange to end"
        assert seconds > 0
        self.pauses.append(seconds)
        self.now_s += seconds


class ScriptedGrid(Grid):
    """A grid whose nodes reply after given seconds (None: never); some are not reachable."""

    def __init__(self, clock: Clock, delays: dict[int, float | None]) -> None:
        self.clock = clock
        self.delays = delays
        self.unreachable: set[int] = set()
        self.hasty: set[int] = set()
        self.returns_none = False
        self.noise: list[Message] = []
        self.failing: set[int] = set()
        self._due: list[tuple[float, Message]] = []

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [
            n
            for n, seconds in self.delays.items()
            if seconds is not None and self.clock() >= 100.0 + seconds
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids: list[Any] = []
        for message in messages:
            node_id = message.metadata.dst_node_id
            if node_id in self.hasty:
                raise ObjectPushError("0" * 64, 1, "s")
            if node_id in self.unreachable:
                ids += [None] if self.returns_none else []
                continue
            message.metadata.__dict__["_message_id"] = f"m{node_id}"
            ids.append(f"m{node_id}")
            delay = self.delays[node_id]
            if delay is not None:
                content = Error(code=1) if node_id in self.failing else RecordDict()
                self._due.append((self.clock() + delay, Message(content, reply_to=message)))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        here = [
            (at, m)
            for at, m in sorted(self._due, key=lambda due: due[0])
            if at <= self.clock() and m.metadata.reply_to_message_id in wanted
        ]
        self._due = [due for due in self._due if due not in here]
        return [*self.noise, *(message for _, message in here)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError


def _messages(*node_ids: int) -> list[Message]:
    return [instruction(node_id) for node_id in node_ids]


def _answered(grid: ScriptedGrid, *node_ids: int, timeout_s: float = 10.0) -> list[str]:
    """The messages that were answered, in the order in which replies came."""
    replies = exchange(
        grid,
        _messages(*node_ids),
        timeout_s=timeout_s,
        clock=grid.clock,
        sleep=grid.clock.sleep,
    )
    return [reply.metadata.reply_to_message_id for reply in replies]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_replies_come_in_the_order_of_arrival(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: 3.0, 2: 0.0, 3: 1.0})
    assert _answered(grid, 1, 2, 3) == ["m2", "m3", "m1"]


def test_a_node_that_breaks_the_push_of_its_message_takes_no_others_with_it(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: 0.0, 2: 0.0, 3: 0.0})
    grid.hasty = {1}
    assert sorted(_answered(grid, 1, 2, 3)) == ["m2", "m3"]


def test_nobody_sleeps_once_all_have_answered(clock: Clock) -> None:
    assert _answered(ScriptedGrid(clock, {1: 0.0, 2: 0.0}), 1, 2) == ["m1", "m2"]
    assert clock.pauses == []


def test_a_late_reply_never_comes(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: 0.1, 2: 10.1, 3: None})
    assert _answered(grid, 1, 2, 3) == ["m1"]
    assert clock() == pytest.approx(110.0)


@pytest.mark.parametrize("delay", [9.999, 10.0])
def test_a_reply_just_in_time_is_taken(clock: Clock, delay: float) -> None:
    assert _answered(ScriptedGrid(clock, {1: delay}), 1) == ["m1"]


def test_pauses_grow_and_start_anew_after_each_reply(clock: Clock) -> None:
    assert _answered(ScriptedGrid(clock, {1: 2.0, 2: 9.0}), 1, 2) == ["m1", "m2"]
    assert clock.pauses[:7] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5]
    assert clock.pauses.count(0.01) == 2
    assert max(clock.pauses) == 0.5


def test_by_the_last_exchange_of_a_kind_it_is_known_when_to_look(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: 0.4, 2: 0.6})
    grid.pace = Pace()  # type: ignore[attr-defined]
    assert _answered(grid, 1, 2) == ["m1", "m2"]
    took_s, num_looks = clock() - 100.0, len(clock.pauses)
    clock.pauses.clear()
    assert _answered(grid, 1, 2) == ["m1", "m2"]
    # Three quarters of the time before the first look, a tenth until the next.
    assert clock.pauses[:2] == pytest.approx([0.75 * took_s, took_s / 10])
    assert len(clock.pauses) < num_looks


@pytest.mark.parametrize(
    ("elapsed_s", "took_s", "waited_s"),
    [
        (0.0, 0.4, 0.3),  # three quarters of the last time at once
        (0.3, 0.4, 0.04),  # then a tenth of it at a time
        (2.0, 0.4, 0.2),  # longer than the last time: a tenth of this one
        (0.0, 100.0, 0.5),  # never long: somebody may be silent
        (0.0, 0.0, 0.01),
    ],
)
def test_looks_come_when_replies_are_expected(
    elapsed_s: float, took_s: float, waited_s: float
) -> None:
    pace = Pace()
    assert pace.pause_s("train", elapsed_s) is None
    pace.took("train", took_s)
    assert pace.pause_s("query", elapsed_s) is None
    assert pace.pause_s("train", elapsed_s) == pytest.approx(waited_s)


def test_a_look_that_is_expected_later_than_the_deadline_comes_at_the_deadline(
    clock: Clock,
) -> None:
    grid = ScriptedGrid(clock, {1: 0.2})
    grid.pace = Pace()  # type: ignore[attr-defined]
    grid.pace.took(_messages(1)[0].metadata.message_type, 9.0)  # type: ignore[attr-defined]
    assert _answered(grid, 1, timeout_s=0.3) == ["m1"]
    assert clock() == pytest.approx(100.3)


@dataclass
class Ticking(Clock):
    """A clock that goes on at every look, too, as those of machines do."""

    def __call__(self) -> float:
        self.now_s += 0.1
        return self.now_s

    def sleep(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self.now_s += seconds


@pytest.mark.parametrize("timeout_s", [0.1, 0.15, 0.25, 0.35, 0.45, 1.05])
def test_a_deadline_that_passes_between_two_looks_at_the_clock_ends_the_exchange(
    timeout_s: float,
) -> None:
    assert _answered(ScriptedGrid(Ticking(), {1: None}), 1, timeout_s=timeout_s) == []


@pytest.mark.parametrize("returns_none", [True, False])
def test_a_node_that_cannot_be_reached_is_not_waited_for(clock: Clock, returns_none: bool) -> None:
    grid = ScriptedGrid(clock, {1: 0.0, 2: 0.0})
    grid.unreachable, grid.returns_none = {1}, returns_none
    assert _answered(grid, 1, 2) == ["m2"]
    assert clock.pauses == []


def test_no_messages_have_no_replies(clock: Clock) -> None:
    assert _answered(ScriptedGrid(clock, {})) == []
    assert clock.pauses == []


def test_replies_to_other_messages_are_passed_over_without_spinning(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: 2.0})
    stranger = instruction(9, message_id="m9")
    grid.noise = [Message(RecordDict(), reply_to=stranger)] * 2
    assert _answered(grid, 1) == ["m1"]
    assert len(clock.pauses) < 15


def test_a_second_reply_to_the_same_message_is_passed_over(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: 0.0, 2: 1.0})
    first = instruction(1, message_id="m1")
    grid.noise = [Message(RecordDict(), reply_to=first)] * 3
    assert _answered(grid, 1, 2) == ["m1", "m2"]


def test_an_error_is_a_reply(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: 0.0})
    grid.failing = {1}
    replies = exchange(grid, _messages(1), timeout_s=1.0, clock=clock, sleep=clock.sleep)
    assert [reply.has_error() for reply in replies] == [True]


def test_messages_are_sent_before_the_first_reply_is_asked_for(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {1: 0.0})
    messages = _messages(1)
    exchange(grid, messages, timeout_s=1.0, clock=clock, sleep=clock.sleep)
    assert messages[0].metadata.message_id == "m1"


def _nodes(grid: ScriptedGrid, num_nodes: int) -> list[int]:
    return wait_for_nodes(grid, num_nodes, timeout_s=10.0, clock=grid.clock, sleep=grid.clock.sleep)


def test_nodes_are_awaited_until_there_are_enough(clock: Clock) -> None:
    grid = ScriptedGrid(clock, {7: 0.0, 3: 2.0, 5: 60.0})
    assert _nodes(grid, 2) == [3, 7]
    assert clock() == pytest.approx(102.0)


def test_all_nodes_that_are_there_are_told(clock: Clock) -> None:
    assert _nodes(ScriptedGrid(clock, {7: 0.0, 3: 0.0, 5: 0.0}), 2) == [3, 5, 7]
    assert clock.pauses == []


def test_waiting_for_nodes_ends_when_time_is_up(clock: Clock) -> None:
    assert _nodes(ScriptedGrid(clock, {7: 0.0, 3: 60.0}), 2) == [7]
    assert clock() == pytest.approx(110.0)


class Silent:
    """Presence by decree: these nodes are silent from a time on."""

    def __init__(self, clock: Clock, since: dict[int, float]) -> None:
        self.clock, self.since = clock, since

    def silent(self, node_ids: Collection[int]) -> frozenset[int]:
        return frozenset(n for n in node_ids if self.clock() >= self.since.get(n, 1e9))


def closed_at(clock: Clock, grid: ScriptedGrid, silent: dict[int, float], enough: int) -> float:
    """When an exchange of 100 s over nodes 1 to 3 ends; the third never answers."""
    answers: list[Message] = []
    for reply in exchange(
        grid,
        [instruction(n) for n in (1, 2, 3)],
        timeout_s=100,
        presence=Silent(clock, silent),
        is_enough=lambda: sum(not a.has_error() for a in answers) >= enough,
        clock=clock,
        sleep=clock.sleep,
    ):
        answers.append(reply)
    silent_ones = [a for a in answers if a.has_error()]
    assert all(a.error.code == ErrorCode.NODE_UNAVAILABLE for a in silent_ones)
    assert {a.metadata.reply_to_message_id for a in silent_ones} <= {"m3"}
    return clock.now_s - 100.0


def test_silent_nodes_are_not_waited_for_once_there_is_enough() -> None:
    clock = Clock()
    grid = ScriptedGrid(clock, {1: 1.0, 2: 20.0, 3: None})
    assert 20.0 <= closed_at(clock, grid, {3: 112.0}, 2) <= 21.0


def test_a_node_that_falls_silent_late_ends_the_exchange_then() -> None:
    clock = Clock()
    grid = ScriptedGrid(clock, {1: 1.0, 2: 2.0, 3: None})
    assert 50.0 <= closed_at(clock, grid, {3: 150.0}, 2) <= 51.0


def test_without_enough_silent_nodes_are_waited_for_until_the_deadline() -> None:
    clock = Clock()
    grid = ScriptedGrid(clock, {1: 1.0, 2: 2.0, 3: None})
    assert closed_at(clock, grid, {3: 100.0}, 3) >= 100.0


def test_a_node_that_is_not_silent_is_waited_for_until_the_deadline() -> None:
    clock = Clock()
    grid = ScriptedGrid(clock, {1: 1.0, 2: 2.0, 3: None})
    assert closed_at(clock, grid, {}, 2) >= 100.0


def test_a_grid_that_knows_who_is_there_need_not_be_told() -> None:
    clock = Clock()
    grid = ScriptedGrid(clock, {1: 1.0, 3: None})
    grid.presence = Silent(clock, {3: 105.0})  # type: ignore[attr-defined]
    messages = [instruction(n) for n in (1, 3)]
    replies = exchange(
        grid, messages, timeout_s=100, is_enough=lambda: True, clock=clock, sleep=clock.sleep
    )
    assert len(list(replies)) == 2
    assert clock.now_s <= 106.0
