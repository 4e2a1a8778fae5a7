"""Messages over a real SuperLink: in one piece, where requests are counted; and under attack."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from client.node_fleet import Fleet
from client.node_http import Bounded
from client.node_objects import Outgoing
from common.parcels import unpacked
from common.study_file import study_from_toml
from server.grid import exchange
from server.superlink.control import control_of, sites_of
from server.superlink.folder import Coordinator
from server.superlink.http import Patient
from server.superlink.presence import ListedPresence
from server.superlink.task import SuperLinkGrid, task_of
from server.superlink.tls import tls_of
from tests.federation.consortium import ConsortiumOnDisk, connector, make_consortium, served
from tests.federation.deployment import until
from tests.federation.fake_site import FakeSite
from tests.federation.hospital import Trainer
from tests.federation.nodes import content
from tests.round.tiny import TINY_STUDY

pytestmark = pytest.mark.flower

# Asked for as often as time allows.
WAITING = {"fleet/pull-messages", "fleet/send-node-heartbeat", "runtime/pull-messages"}
BESIDE = {"runtime/send-task-heartbeat", "runtime/get-nodes", "control/list-nodes"}
LARGE = 300_000  # of four bytes each: more than a mebibyte


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> ConsortiumOnDisk:
    return make_consortium(
        tmp_path_factory.mktemp("c"), study_from_toml(TINY_STUDY), "alpha", "beta"
    )


@pytest.fixture(scope="module")
def grid(consortium: ConsortiumOnDisk) -> Iterator[SuperLinkGrid]:
    """The grid of a run on which one hospital is asked."""
    place = Coordinator.open(consortium.coordinator)
    with (
        served(consortium),
        control_of(place.address, ca=place.ca) as control,
        task_of(
            control.start_run(),
            address=place.address,
            ca=place.ca,
            patience_s=60,
            presence=ListedPresence(control.nodes),
        ) as grid,
    ):
        yield grid


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What either side asks of the SuperLink, as it is asked."""
    asked: Counter[str] = Counter()
    for sender in (Patient, Bounded):
        send = sender.intercept

        def counted(
            self: object,
            context: ProtobufRequestContext,
            call_next: ProtobufCall,
            send: ProtobufCall = send,  # type: ignore[assignment]
        ) -> httpx.Response:
            asked[context.request.url.path.removeprefix("/v1/")] += 1
            return send(self, context, call_next)  # type: ignore[call-arg, arg-type]

        monkeypatch.setattr(sender, "intercept", counted)
    return asked


@contextmanager
def hospital(consortium: ConsortiumOnDisk, site: FakeSite) -> Iterator[None]:
    place = Coordinator.open(consortium.coordinator)
    with (
        connector(consortium, "alpha", site.address),
        control_of(place.address, ca=place.ca) as control,
    ):
        sites = control.register(place.roster())
        until(lambda: sites_of(control.nodes()[0], sites) == ("alpha",))
        yield


@pytest.fixture
def site() -> Iterator[FakeSite]:
    site = Trainer().start()
    yield site
    site.stop()


def answer(grid: SuperLinkGrid, size: int = 10) -> Message:
    (node_id,) = grid.get_node_ids()
    (reply,) = exchange(grid, [Message(content(size), node_id, "train")], timeout_s=60)
    assert reply.has_content(), reply.error
    return reply


def beyond(requests: Counter[str]) -> dict[str, int]:
    """What was asked beyond waiting, and is forgotten."""
    found = {path: n for path, n in requests.items() if path not in WAITING | BESIDE}
    requests.clear()
    return found


def test_a_node_that_has_answered_in_one_piece_is_asked_in_one_from_then_on(
    consortium: ConsortiumOnDisk, grid: SuperLinkGrid, site: FakeSite, requests: Counter[str]
) -> None:
    with hospital(consortium, site):
        requests.clear()
        first = answer(grid)
        # Three objects are moved to the SuperLink and from it; the reply needs none.
        assert beyond(requests) == {
            "runtime/push-messages": 1,
            "runtime/push-object": 3,
            "fleet/pull-object": 3,
            "fleet/push-messages": 1,
            "fleet/confirm-message-received": 1,
        }
        for _ in range(2):
            assert answer(grid).content == first.content
            assert beyond(requests) == {"runtime/push-messages": 1, "fleet/push-messages": 1}
        large = answer(grid, LARGE)
        assert beyond(requests)["fleet/push-object"] > 1
        assert len(large.content["arrays"]["flat"].data) == 4 * LARGE  # type: ignore[index]
        assert answer(grid).content == first.content
    assert site.asked == ["train"] * 5


def test_a_message_in_one_piece_outlives_the_connector_that_had_it_in_hand(
    consortium: ConsortiumOnDisk, grid: SuperLinkGrid, site: FakeSite
) -> None:
    with hospital(consortium, site):
        first = answer(grid)
        site.gate.clear()
        (node_id,) = grid.get_node_ids()
        replies = exchange(grid, [Message(content(), node_id, "train")], timeout_s=60)
        until(lambda: len(site.asked) == 2)
    # It has ended with the message in hand; the site had not answered.
    site.gate.set()
    with hospital(consortium, site):
        (reply,) = replies
    assert reply.content == first.content


@contextmanager
def joined(consortium: ConsortiumOnDisk, name: str) -> Iterator[Fleet]:
    """A node with a hospital's key that does as the test says."""
    key = load_ssh_private_key(consortium.node_key(name).read_bytes(), password=None)
    fleet = Fleet(
        superlink=consortium.address,
        tls=tls_of(consortium.coordinator / "ca.pem"),
        key=key,  # type: ignore[arg-type]
    )
    try:
        fleet.join(None)
        yield fleet
        fleet.leave(for_good=False)
    finally:
        fleet.close()


def claim_pieces(hostile: Fleet) -> None:
    """Takes a message, has it forgotten, and names its pieces anew, with other parts."""
    pulled = hostile.pull()
    assert pulled is not None
    hostile.confirm(pulled)
    claimed = [
        ObjectTree(object_id=node.object_id)
        for node in iterate_object_tree(pulled.tree)
        if node.children and node.object_id != pulled.tree.object_id
    ]
    outgoing = Outgoing(reply=Message(RecordDict(), reply_to=pulled.message), seconds=0.0)
    outgoing.reply.metadata.__dict__["_message_id"] = outgoing.reply.object_id
    tree = ObjectTree(object_id=outgoing.reply.object_id, children=claimed)
    hostile._announce(outgoing, outgoing.reply, tree)


@pytest.mark.threat("N-3")
def test_who_gets_a_model_first_cannot_keep_it_from_the_others(
    consortium: ConsortiumOnDisk, grid: SuperLinkGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He names its pieces after he has got them, and before the others are sent theirs."""
    monkeypatch.setattr("server.superlink.http._OWN_FAULT_PATIENCE_S", 0.2)
    with joined(consortium, "alpha") as hostile, joined(consortium, "beta") as honest:
        messages = [Message(content(LARGE), f.node_id, "train") for f in (hostile, honest)]
        records = messages[1].content
        masks = []
        for message in messages:
            (message_id,) = grid.push_messages([message])
            assert message_id == message.metadata.message_id
            masks.append(message.content["parcel"]["mask"])  # type: ignore[index]
            if message is messages[0]:
                claim_pieces(hostile)
        assert masks[0] != masks[1]
        pulled = honest.pull()
        assert pulled is not None
        assert unpacked(honest.fetch(pulled, stop=threading.Event())) == records
