"""What a hostile server can send to a connector."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import (
    add_header_to_object_body,
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.task_identity import TaskIdentity

from client import node_http, node_objects
from client.node_faults import NotRecognised, Rejected, Unreachable
from client.node_fleet import Fleet
from client.node_objects import Pulled
from common.errors import MessageError
from common.one_piece import tree_of
from common.parcels import packed
from tests.federation.nodes import content

Answer = Callable[[str], tuple[int, dict[str, str], bytes]]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_run_id", 1), ("_node_id", 0), ("_task_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """The address of a server that answers every route by `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status, headers, body = answer(self.path.rsplit("/", 1)[-1])
            self.send_response_only(status)  # without a date of its own
            for name, value in headers.items():
                self.send_header(name, value)
            if "transfer-encoding" not in headers:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def fleet_of(answer: Answer) -> Iterator[Fleet]:
    with serving(answer) as address:
        fleet = Fleet(superlink=address, tls=None, key=ec.generate_private_key(ec.SECP384R1()))
        try:
            yield fleet
        finally:
            fleet.close()


def asked(records: RecordDict | None = None) -> Message:
    message = Message(content() if records is None else records, 5, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def pulled(tree: ObjectTree | None = None) -> tuple[Pulled, dict[str, bytes]]:
    message = asked()
    objects = {key: held.deflate() for key, held in get_all_nested_objects(message).items()}
    tree = tree or get_object_tree(message)
    # As it is announced.
    return Pulled(message=remove_content_from_message(message), tree=tree), objects


# What is read of an answer.


@pytest.mark.threat("N-3")
def test_an_answer_that_is_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_http, "_MAX_RESPONSE_BYTES", 1000)
    with fleet_of(lambda _: (200, {}, b"x" * 5000)) as fleet, pytest.raises(Unreachable):
        fleet.pull()


def test_an_answer_that_comes_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_http, "_REQUEST_TIMEOUT_S", -1.0)
    with (
        fleet_of(lambda _: (200, {}, b"x" * 10)) as fleet,
        pytest.raises(Unreachable, match="ReadTimeout"),
    ):
        fleet.pull()


@pytest.mark.threat("N-3")
def test_a_compressed_answer_is_not_unpacked() -> None:
    headers = {"content-encoding": "gzip"}
    with (
        fleet_of(lambda _: (200, headers, b"")) as fleet,
        pytest.raises(Unreachable, match="DecodingError"),
    ):
        fleet.pull()


@pytest.mark.threat("N-1")
def test_a_redirection_is_not_followed() -> None:
    paths: list[str] = []

    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        paths.append(path)
        return 307, {"location": "/v1/fleet/elsewhere"}, b""

    with fleet_of(answer) as fleet, pytest.raises((Unreachable, Rejected)):
        fleet.pull()
    assert paths == ["pull-messages"]


def test_bytes_that_are_no_protobuf_are_no_answer() -> None:
    with fleet_of(lambda _: (200, {}, b"\xff\xff")) as fleet, pytest.raises(Unreachable):
        fleet.pull()


@pytest.mark.threat("I-1")
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, NotRecognised),
        (403, Rejected),
        (413, Rejected),
        (429, Unreachable),
        (500, Unreachable),
    ],
)
def test_a_status_means_one_thing_and_its_text_goes_nowhere(
    status: int, error: type[Exception]
) -> None:
    with fleet_of(lambda _: (status, {}, b"Mrs. Doe")) as fleet, pytest.raises(error) as raised:
        fleet.pull()
    assert "Doe" not in str(raised.value)


def test_a_clock_that_is_off_is_named() -> None:
    date = {"date": "Sat, 01 Jan 2000 00:00:00 GMT"}

    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        return 401, date, b""

    with fleet_of(answer) as fleet, pytest.raises(NotRecognised, match="off the server's"):
        fleet.pull()


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"date": "Mon, 01 Jan 2024 00:00:00 +99999999999999999"}, b"{}"),
        ({}, b"[" * 100_000),
        ({}, b'{"code": [1], "detail": "x"}'),
    ],
)
def test_a_refusal_of_any_form_is_a_refusal(headers: dict[str, str], text: bytes) -> None:
    with fleet_of(lambda _: (400, headers, text)) as fleet, pytest.raises(Rejected):
        fleet.pull()


# What is made of a message.


def test_the_objects_of_a_message_are_its_content() -> None:
    found, objects = pulled()
    assert found.content(objects) == content()


def test_a_message_survives_its_bytes_without_its_content() -> None:
    found, _ = pulled()
    again = Pulled.from_bytes(found.to_bytes())
    assert again.message.metadata.message_id == found.message.metadata.message_id
    assert again.tree == found.tree


def test_a_message_in_one_piece_survives_its_bytes_with_its_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = asked(packed(content()))
    again = Pulled.from_bytes(Pulled(message=message, tree=tree_of(message)).to_bytes())
    assert again.is_whole
    assert again.own_content() == message.content
    monkeypatch.setattr(node_objects, "MAX_CONTENT_BYTES", 10)
    with pytest.raises(MessageError, match="at most 10 bytes"):
        again.own_content()


@pytest.mark.threat("N-1", "S1-4")
def test_an_object_under_another_digest_is_refused() -> None:
    found, objects = pulled()
    forged = objects[found.tree.object_id] + b"x"
    response = PullObjectResponse(
        object_found=True, object_available=True, object_content=forged
    ).SerializeToString()
    with (
        fleet_of(lambda _: (200, {}, response)) as fleet,
        pytest.raises(MessageError, match="as announced"),
    ):
        fleet.fetch(found, stop=threading.Event())


def test_an_object_that_is_missing_is_not_waited_for() -> None:
    found, _ = pulled()
    with (
        fleet_of(lambda _: (200, {}, PullObjectResponse().SerializeToString())) as fleet,
        pytest.raises(MessageError, match="missing"),
    ):
        fleet.fetch(found, stop=threading.Event())


@pytest.mark.threat("S1-4")
def test_too_many_objects_are_refused() -> None:
    children = [ObjectTree(object_id=str(n)) for n in range(1_001)]
    found, _ = pulled(ObjectTree(object_id="root", children=children))
    with pytest.raises(MessageError, match="at most 1000"):
        found.object_ids()


@pytest.mark.threat("S1-4", "N-3")
def test_an_array_that_repeats_its_pieces_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_objects, "MAX_CONTENT_BYTES", 10_000)
    found, objects = pulled()
    for object_id, held in list(objects.items()):
        if held.startswith(b"Array "):
            body = json.loads(held.partition(b"\0")[2])
            body["arraychunk_ids"] *= 1000
            array = content()["arrays"]["flat"]
            objects[object_id] = add_header_to_object_body(json.dumps(body).encode(), array)
    with pytest.raises(MessageError, match="arrays of at most"):
        found.content(objects)


def test_one_array_under_many_names_counts_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_objects, "MAX_CONTENT_BYTES", 10_000)
    records = content(1000)
    records = RecordDict({str(n): records["arrays"] for n in range(9)})
    message = asked(records)
    objects = {key: held.deflate() for key, held in get_all_nested_objects(message).items()}
    found = Pulled(message=message, tree=get_object_tree(message))
    with pytest.raises(MessageError, match="content of at most"):
        found.content(objects)


@pytest.mark.threat("S1-3", "S1-4")
@pytest.mark.parametrize("junk", [b"", b"Array", b"Array  0\0", b"Popen  0\0", b"\xff\0"])
def test_objects_that_are_none_are_refused(junk: bytes) -> None:
    found, objects = pulled()
    objects[found.tree.object_id] = junk
    with pytest.raises(MessageError):
        found.content(objects)


@pytest.mark.threat("C-3")
def test_a_message_for_another_node_or_under_a_strange_id_is_dropped() -> None:
    found, _ = pulled()
    strange = remove_content_from_message(asked())
    strange.metadata.__dict__["_message_id"] = "Mrs. Doe\n"
    for message in (found.message, strange):
        stored = Pulled(message=message, tree=found.tree).to_bytes()
        with fleet_of(lambda _, stored=stored: (200, {}, stored)) as fleet:  # type: ignore[misc]
            with pytest.raises(MessageError) as raised:
                fleet.pull()
            assert "Doe" not in str(raised.value)


def test_a_pull_without_a_message_is_none() -> None:
    with fleet_of(lambda _: (200, {}, PullMessagesResponse().SerializeToString())) as fleet:
        assert fleet.pull() is None


# Joining.


def test_a_known_number_goes_on_by_a_heartbeat_and_an_unknown_one_is_activated() -> None:
    for knows, expected in ((True, 7), (False, 9)):
        answers = {
            "send-node-heartbeat": SendNodeHeartbeatResponse(success=knows).SerializeToString(),
            "activate-node": ActivateNodeResponse(node_id=9).SerializeToString(),
        }
        with fleet_of(lambda path, answers=answers: (200, {}, answers[path])) as fleet:  # type: ignore[misc]
            fleet.join(7)
            assert fleet.node_id == expected
