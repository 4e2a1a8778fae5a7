"""The in-process engine: as much of the network as there can be within one process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from client.site import Site
from common.arrays import Arrays, Block
from common.messages import Reply, Task, TaskKind
from common.study import Study
from common.wire import reply_from_records, task_to_records
from simulations.engine import InProcessGrid
from tests.unit.builders import task_of


class Double:
    """A double at the relay's seam: a name and an answer."""

    def __init__(self, name: str, answer: Callable[[Task], Reply]) -> None:
        self.name = name
        self.answer = answer


@pytest.fixture
def site(new_site, tiny_study: Study, tmp_path: Path) -> Site:
    return Site.simulated(new_site(), tiny_study, state_dir=tmp_path / "state")


def message_to(grid: InProcessGrid, node_id: int, task: Task) -> Message:
    return grid.create_message(task_to_records(task), task.kind.value, node_id, "group")


def echo(name: str) -> Double:
    def answer(task: Task) -> Reply:
        return Reply(
            kind=task.kind, run_id=task.run_id, round=task.round, nonce=task.nonce, site=name
        )

    return Double(name, answer)


def test_node_n_is_the_nth_site_by_name_whatever_the_order_of_the_dictionary(tiny_study) -> None:
    grid = InProcessGrid({name: echo(name) for name in ("c", "a", "b")})
    assert list(grid.get_node_ids()) == [1, 2, 3]
    tasks = [message_to(grid, n, task_of(tiny_study, TaskKind.ENROL)) for n in (3, 1, 2)]
    sites = [reply_from_records(r.content).site for r in grid.send_and_receive(tasks)]
    assert sites == ["c", "a", "b"]


def test_a_reply_says_which_message_it_answers(tiny_study) -> None:
    grid = InProcessGrid({"a": echo("a"), "b": echo("b")})
    messages = [message_to(grid, n, task_of(tiny_study)) for n in (1, 2)]
    ids = list(grid.push_messages(messages))
    assert len(set(ids)) == 2
    assert [m.metadata.message_id for m in messages] == ids
    (second,) = grid.pull_messages([ids[1]])
    assert second.metadata.reply_to_message_id == ids[1]
    assert list(grid.pull_messages([ids[1]])) == []
    (first,) = grid.pull_messages(ids)
    assert first.metadata.reply_to_message_id == ids[0]


def test_a_site_that_raises_gives_an_error_without_its_text_and_stops_no_other(tiny_study) -> None:
    def fail(task: Task) -> Reply:
        raise RuntimeError("Mrs Miller, born 1943")

    grid = InProcessGrid({"a": Double("a", fail), "b": echo("b")})
    messages = [message_to(grid, n, task_of(tiny_study)) for n in (1, 2)]
    failed, answered = grid.send_and_receive(messages)
    assert failed.has_error()
    assert not failed.error.reason
    assert "Miller" not in repr(failed)
    assert not answered.has_error()


def test_a_message_and_its_reply_share_no_memory_with_the_other_side(tiny_study) -> None:
    received: list[Arrays] = []
    held = np.ones(3, dtype=np.float32)
    sent = Arrays(manifest=(Block(name="update", shape=(3,)),), flat=held)

    def keep(task: Task) -> Reply:
        assert task.arrays is not None
        received.append(task.arrays)
        return Reply(
            kind=task.kind,
            run_id=task.run_id,
            round=task.round,
            nonce=task.nonce,
            site="a",
            arrays=sent,
        )

    grid = InProcessGrid({"a": Double("a", keep)})
    task = task_of(tiny_study)
    assert task.arrays is not None
    expected = task.arrays.flat.copy()
    (message,) = grid.send_and_receive([message_to(grid, 1, task)])
    reply = reply_from_records(message.content)
    assert reply.arrays is not None
    assert not np.shares_memory(received[0].flat, task.arrays.flat)
    assert not np.shares_memory(reply.arrays.flat, sent.flat)
    # The site overwrites what it has sent, behind the read-only view.
    held[:] = np.nan
    assert (task.arrays.flat == expected).all()
    assert reply.arrays.flat.tolist() == [1.0, 1.0, 1.0]


def test_what_arrives_is_bit_for_bit_what_was_sent(site, tiny_study) -> None:
    direct = site.answer(task_of(tiny_study))
    grid = InProcessGrid({"alpha": site})
    (message,) = grid.send_and_receive([message_to(grid, 1, task_of(tiny_study))])
    arrived = reply_from_records(message.content)
    assert direct.arrays is not None
    assert arrived.arrays is not None
    assert arrived.arrays.flat.tobytes() == direct.arrays.flat.tobytes()
    assert arrived.counts == direct.counts
    statistics = {k: v for k, v in direct.metrics.items() if not k.startswith("seconds")}
    assert statistics.items() <= arrived.metrics.items()


def test_there_is_no_flower_run_behind_this_grid() -> None:
    with pytest.raises(NotImplementedError):
        _ = InProcessGrid({}).run
