"""The relay under a stock SuperNode: it forwards to the site process, and tells Flower no text."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

import client.app
from common.study import Study
from common.wire import reply_from_records, task_to_records
from tests.unit.agent_cases import Running, accept, private_of, running
from tests.unit.builders import task_of
from tests.unit.consortium import signed


@pytest.fixture(scope="module")
def study(tiny_study: Study) -> Study:
    return private_of(tiny_study)


@pytest.fixture(scope="module")
def agent(new_site: Callable[..., Path], study: Study) -> Iterator[Running]:
    with running(accept(new_site(), study, cohort_size=45)) as found:
        yield found


def forwarded(address: object, content: RecordDict) -> Message:
    """What the relay under a stock SuperNode gives back to Flower."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    context = Context(1, 7, {client.app.ADDRESS_KEY: address}, RecordDict(), {})
    return client.app.train(Message(content, 7, "train"), context)


def test_the_relay_of_a_stock_supernode_passes_tasks_and_refusals_on(
    agent: Running, study: Study
) -> None:
    reply = forwarded(agent.address, task_to_records(signed(task_of(study))))
    assert reply_from_records(reply.content).status == "ok"
    reply = forwarded(agent.address, RecordDict())
    assert reply_from_records(reply.content).status == "message_malformed"


def test_the_flower_error_code_is_the_one_for_a_reply_that_is_not_there() -> None:
    assert client.app._NO_ANSWER == ErrorCode.REPLY_MESSAGE_UNAVAILABLE


@pytest.mark.parametrize("address", ["unix:/nowhere/site.sock", "example.org:80", 7])
def test_the_relay_tells_flower_nothing_of_a_site_process_that_is_away(
    address: object, study: Study
) -> None:
    reply = forwarded(address, task_to_records(task_of(study)))
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (client.app._NO_ANSWER, None)
