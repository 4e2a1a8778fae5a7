"""What the connector relies on in Flower 1.41.0 and its documentation does not promise.

One test for each. If a newer Flower fails one, the file named in the test must be read again before
the pin is moved.
"""

import inspect

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClient, ProtobufRequestContext
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.node_auth import NodeAuth


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_run_id", 1), ("_node_id", 0), ("_task_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)


class Answering:
    """An interceptor that answers by itself."""

    def __init__(self, response: bytes = b"", status: int = 200) -> None:
        self.requests: list[httpx.Request] = []
        self._response, self._status = response, status

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        self.requests.append(context.request)
        return httpx.Response(self._status, content=self._response, request=context.request)


def message(size: int = 3) -> Message:
    flat = Array(dtype="float32", shape=(size,), stype="wardround.flat", data=b"abcd" * size)
    content = RecordDict(
        {"arrays": ArrayRecord({"flat": flat}), "header": ConfigRecord({"schema": 2})}
    )
    asked = Message(content, 5, "train")
    asked.metadata.__dict__["_message_id"] = asked.object_id
    return asked


@pytest.mark.parametrize(
    ("method", "request_type", "path"),
    [
        ("RegisterNode", fleet_pb2.RegisterNodeFleetRequest, "register-node"),
        ("ActivateNode", fleet_pb2.ActivateNodeRequest, "activate-node"),
        ("DeactivateNode", fleet_pb2.DeactivateNodeRequest, "deactivate-node"),
        ("UnregisterNode", fleet_pb2.UnregisterNodeFleetRequest, "unregister-node"),
        ("SendNodeHeartbeat", heartbeat_pb2.SendNodeHeartbeatRequest, "send-node-heartbeat"),
        ("PullMessages", fleet_pb2.PullMessagesRequest, "pull-messages"),
        ("PushMessages", fleet_pb2.PushMessagesRequest, "push-messages"),
        ("PullObject", message_pb2.PullObjectRequest, "pull-object"),
        ("PushObject", message_pb2.PushObjectRequest, "push-object"),
        (
            "ConfirmMessageReceived",
            message_pb2.ConfirmMessageReceivedRequest,
            "confirm-message-received",
        ),
    ],
)
def test_a_call_goes_to_its_route(method: str, request_type: type, path: str) -> None:
    # client/node_fleet.py; the proxy's list of routes
    answering = Answering()
    with FleetHttpClient("http://host:1", interceptors=[answering]) as client:
        getattr(client, method)(request_type())
    assert answering.requests[0].url == f"http://host:1/v1/fleet/{path}"
    assert answering.requests[0].method == "POST"


@pytest.mark.parametrize(
    ("proto", "fields"),
    [
        (fleet_pb2.RegisterNodeFleetRequest, {"public_key"}),
        (fleet_pb2.ActivateNodeRequest, {"public_key", "heartbeat_interval"}),
        (fleet_pb2.ActivateNodeResponse, {"node_id"}),
        (fleet_pb2.DeactivateNodeRequest, {"node_id"}),
        (fleet_pb2.UnregisterNodeFleetRequest, {"node_id"}),
        (heartbeat_pb2.SendNodeHeartbeatRequest, {"node", "heartbeat_interval"}),
        (heartbeat_pb2.SendNodeHeartbeatResponse, {"success"}),
        (fleet_pb2.PullMessagesRequest, {"node"}),
        (fleet_pb2.PullMessagesResponse, {"messages_list", "message_object_trees"}),
        (
            fleet_pb2.PushMessagesRequest,
            {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"},
        ),
        (fleet_pb2.PushMessagesResponse, {"objects_to_push", "session_id"}),
        (message_pb2.PullObjectRequest, {"node", "run_id", "object_id"}),
        (message_pb2.PullObjectResponse, {"object_found", "object_available", "object_content"}),
        (
            message_pb2.PushObjectRequest,
            {"node", "run_id", "object_id", "object_content", "session_id"},
        ),
        (message_pb2.PushObjectResponse, {"stored"}),
        (message_pb2.ConfirmMessageReceivedRequest, {"node", "run_id", "message_object_id"}),
        (message_pb2.ObjectTree, {"object_id", "children"}),
    ],
)
def test_a_message_of_the_fleet_api_has_the_fields_that_we_use(
    proto: type, fields: set[str]
) -> None:  # client/node_fleet.py, client/node_objects.py
    assert fields <= set(proto.DESCRIPTOR.fields_by_name)  # type: ignore[attr-defined]


def test_the_client_takes_these_arguments() -> None:  # client/node_fleet.py
    parameters = inspect.signature(ProtobufClient.__init__).parameters
    assert {"base_url", "interceptors", "verify", "timeout"} <= set(parameters)
    assert FleetHttpClient.__init__ is ProtobufClient.__init__


def test_a_request_is_signed_as_flowers_own_nodes_sign_it() -> None:  # client/node_auth.py
    import base64

    from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

    key = ec.generate_private_key(ec.SECP384R1())
    headers = []
    for signer in (NodeAuth(key), NodeAuthHttpInterceptor(key, key.public_key())):
        answering = Answering(fleet_pb2.ActivateNodeResponse(node_id=7).SerializeToString())
        with FleetHttpClient("http://host:1", interceptors=[signer, answering]) as client:
            client.ActivateNode(fleet_pb2.ActivateNodeRequest())
        headers.append(answering.requests[0].headers)
    ours, theirs = headers
    assert set(ours) == set(theirs)
    assert ours["flwr-public-key"] == theirs["flwr-public-key"]
    assert verify_signature(
        bytes_to_public_key(base64.b64decode(ours["flwr-public-key"])),
        ours["flwr-timestamp"].encode(),
        base64.b64decode(ours["flwr-signature"]),
    )


def test_the_last_interceptor_may_answer_instead_of_the_client() -> None:  # client/node_http.py
    key = ec.generate_private_key(ec.SECP384R1())
    answering = Answering(fleet_pb2.ActivateNodeResponse(node_id=7).SerializeToString())
    interceptors = [NodeAuthHttpInterceptor(key, key.public_key()), answering]
    with FleetHttpClient("http://host:1", interceptors=interceptors) as client:
        assert client.ActivateNode(fleet_pb2.ActivateNodeRequest()).node_id == 7
    # The first has signed the request by then.
    assert {"flwr-public-key", "flwr-timestamp", "flwr-signature"} <= set(
        answering.requests[0].headers
    )


def test_the_timeout_of_the_client_is_that_of_its_requests() -> None:  # client/node_fleet.py
    answering = Answering()
    with FleetHttpClient("http://host:1", interceptors=[answering], timeout=7) as client:
        client.PullMessages(fleet_pb2.PullMessagesRequest())
        client.SendNodeHeartbeat(heartbeat_pb2.SendNodeHeartbeatRequest())
    timeouts = [request.extensions["timeout"]["read"] for request in answering.requests]
    assert timeouts == [7, 5]


def test_an_http_error_is_raised_with_its_response() -> None:  # client/node_fleet.py
    answering = Answering(b'{"code": 2007, "detail": "no"}', status=403)
    with (
        FleetHttpClient("http://host:1", interceptors=[answering]) as client,
        pytest.raises(httpx.HTTPStatusError) as raised,
    ):
        client.PushMessages(fleet_pb2.PushMessagesRequest())
    assert raised.value.response.status_code == 403


def test_an_error_of_the_superlink_has_a_code_with_a_name() -> None:  # client/node_fleet.py
    from flwr.supercore.error import ApiErrorCode, FlowerError

    error = FlowerError.from_json('{"code": 2004, "detail": "no"}')
    assert error is not None
    assert ApiErrorCode(error.code).name == "FLEET_NODE_ACTIVATION_FAILED"
    assert FlowerError.from_json("<html>") is None


def test_a_superlink_counts_a_node_as_gone_after_twice_the_least_interval() -> None:
    # client/node_fleet.py
    from flwr.common import constant

    assert constant.HEARTBEAT_MIN_INTERVAL == 10
    assert constant.HEARTBEAT_PATIENCE == 2


def test_a_heartbeat_makes_a_known_node_online_whatever_it_was() -> None:  # Fleet.join
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    source = inspect.getsource(SqlLinkState.acknowledge_node_heartbeat)
    assert "status != NodeStatus.UNREGISTERED" in source
    assert "status=NodeStatus.ONLINE" in source


def test_the_objects_of_a_message_make_it_again() -> None:  # client/node_objects.py
    asked = message()
    objects = inflatable_object.get_all_nested_objects(asked)
    tree = inflatable_object.get_object_tree(asked)
    contents = {object_id: held.deflate() for object_id, held in objects.items()}
    assert {n.object_id for n in inflatable_object.iterate_object_tree(tree)} == set(contents)
    for object_id, content in contents.items():
        assert inflatable_object.get_object_id(content) == object_id
        inflatable_utils.validate_object_content(content)
    again = inflatable_utils.inflate_object_from_contents(tree.object_id, contents)
    assert isinstance(again, Message)
    assert again.content == asked.content


def test_an_array_names_its_pieces_by_number() -> None:  # client/node_objects.py
    import json

    array = message().content["arrays"]["flat"]
    content = array.deflate()
    kind, children, size = inflatable_object.get_object_head_values_from_object_content(content)
    assert (kind, len(children)) == ("Array", 1)
    assert json.loads(content[-size:])["arraychunk_ids"] == [0]


@pytest.mark.threat("S1-3", "I-3")
def test_only_these_classes_are_made_from_a_servers_objects() -> None:  # client/node_objects.py
    assert set(inflatable_utils.inflatable_class_registry) == {
        "ArrayChunk",
        "Array",
        "ArrayRecord",
        "ConfigRecord",
        "Message",
        "MetricRecord",
        "RecordDict",
    }


def test_the_id_of_a_message_is_not_part_of_its_digest() -> None:  # Fleet.push
    asked = message()
    digest = asked.object_id
    asked.metadata.__dict__["_message_id"] = digest
    assert asked.object_id == digest


def test_an_error_reply_needs_no_reason_and_has_no_content() -> None:  # client/node_loop.py
    from flwr.common.constant import ErrorCode

    assert (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.CLIENT_APP_CRASHED) == (3, 8)
    reply = Message(Error(code=ErrorCode.CLIENT_APP_CRASHED, reason=""), reply_to=message())
    assert reply.has_error()
    assert inflatable_object.get_object_tree(reply).object_id == reply.object_id


def test_a_message_without_its_content_keeps_its_metadata() -> None:  # Fleet.push
    from flwr.app.message import remove_content_from_message

    bare = remove_content_from_message(message())
    assert len(bare.content) == 0
    assert bare.metadata.message_type == "train"
