"""What the coordinator relies on in Flower 1.41.0 and its documentation does not promise.

One test for each. If a newer Flower fails one, the file named in the test must be read again before
the pin is moved.
"""

import inspect
from pathlib import Path

import httpx
import pytest
from flwr.common.constant import HEARTBEAT_PATIENCE, SUPERLINK_NODE_ID, ErrorCode, SubStatus
from flwr.proto import control_pb2, node_pb2, runtime_pb2
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.corestate.sql_corestate import SqlCoreState
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.superlink.grid import HttpGrid

from server.superlink.control import empty_bundle
from tests.unit.builders import instruction


class Answering:
    """An interceptor that answers by itself."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        self.requests.append(context.request)
        return httpx.Response(200, request=context.request)


@pytest.mark.parametrize(
    ("client", "method", "request_type", "path"),
    [
        (ControlHttpClient, "StartRun", control_pb2.StartRunRequest, "control/start-run"),
        (ControlHttpClient, "StopRun", control_pb2.StopRunRequest, "control/stop-run"),
        (ControlHttpClient, "ListRuns", control_pb2.ListRunsRequest, "control/list-runs"),
        (ControlHttpClient, "ListNodes", control_pb2.ListNodesRequest, "control/list-nodes"),
        (
            ControlHttpClient,
            "RegisterNode",
            control_pb2.RegisterNodeRequest,
            "control/register-node",
        ),
        (
            ControlHttpClient,
            "UnregisterNode",
            control_pb2.UnregisterNodeRequest,
            "control/unregister-node",
        ),
        (
            RuntimeHttpClient,
            "AcquireTask",
            runtime_pb2.AcquireTaskRequest,
            "runtime/acquire-task",
        ),
        (
            RuntimeHttpClient,
            "SendTaskHeartbeat",
            runtime_pb2.SendTaskHeartbeatRequest,
            "runtime/send-task-heartbeat",
        ),
        (
            RuntimeHttpClient,
            "PullTaskInput",
            runtime_pb2.PullTaskInputRequest,
            "runtime/pull-task-input",
        ),
        (
            RuntimeHttpClient,
            "PushTaskOutput",
            runtime_pb2.PushTaskOutputRequest,
            "runtime/push-task-output",
        ),
    ],
)
def test_a_call_goes_to_its_route_by_the_last_interceptor(
    client: type, method: str, request_type: type, path: str
) -> None:  # server/superlink/control.py, server/superlink/task.py, server/superlink/http.py
    answering = Answering()
    with client("https://host:1", interceptors=[answering]) as calls:
        getattr(calls, method)(request_type())
    assert answering.requests[0].url == f"https://host:1/v1/{path}"


@pytest.mark.parametrize(
    ("proto", "fields"),
    [
        (control_pb2.StartRunRequest, {"fab"}),
        (control_pb2.StartRunResponse, {"run_id"}),
        (control_pb2.ListRunsResponse, {"run_dict"}),
        (control_pb2.ListNodesResponse, {"nodes_info", "now"}),
        (control_pb2.RegisterNodeRequest, {"public_key"}),
        (control_pb2.RegisterNodeResponse, {"node_id"}),
        (control_pb2.UnregisterNodeRequest, {"node_id"}),
        (
            node_pb2.NodeInfo,
            {"node_id", "status", "online_until", "heartbeat_interval", "public_key"},
        ),
        (runtime_pb2.AcquireTaskRequest, {"supported_task_types"}),
        (runtime_pb2.AcquireTaskResponse, {"task", "token"}),
        (runtime_pb2.PullTaskInputResponse, {"task_id", "run", "context"}),
        (runtime_pb2.PushTaskOutputRequest, {"sub_status", "details"}),
    ],
)
def test_a_message_has_the_fields_that_we_use(proto: type, fields: set[str]) -> None:
    # server/superlink/control.py, server/superlink/task.py
    assert fields <= set(proto.DESCRIPTOR.fields_by_name)  # type: ignore[attr-defined]


def test_the_bundle_without_code_is_one() -> None:  # server/superlink/control.py
    from flwr.cli.config_utils import get_fab_config

    config = get_fab_config(empty_bundle())
    assert config["project"]["name"] == "wardround-run"
    assert empty_bundle() == empty_bundle()


def test_the_superlink_takes_our_arguments(tmp_path: Path) -> None:
    # server/superlink/process.py, server/provision/provisioning.py
    arguments = ["--isolation", "process", "--host", "127.0.0.1", "--port", "1"]
    arguments += ["--database", str(tmp_path / "db"), "--enable-supernode-auth"]
    arguments += ["--ssl-ca-certfile", "a", "--ssl-certfile", "b", "--ssl-keyfile", "c"]
    args = _parse_args_run_superlink().parse_args(arguments)
    assert (args.isolation, args.port, args.enable_supernode_auth) == ("process", 1, True)


def test_a_superlink_in_process_isolation_starts_no_program() -> None:
    # server/superlink/process.py
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan

    source = inspect.getsource(SuperLinkLifespan._start_superexec_if_needed)
    assert "if config.isolation != ISOLATION_MODE_SUBPROCESS:\n            return" in source


def test_the_health_route_is_there_and_the_log_level_is_read() -> None:
    # server/superlink/process.py
    from flwr.supercore import logger
    from flwr.supercore.routers.health import router

    assert "/health" in {route.path for route in router.routes}
    assert '"FLWR_LOG_LEVEL"' in inspect.getsource(logger)


def test_a_node_is_online_for_twice_its_interval_after_a_heartbeat() -> None:
    # server/superlink/control.py: _seen
    assert HEARTBEAT_PATIENCE == 2
    for method in (SqlLinkState.acknowledge_node_heartbeat, SqlLinkState.activate_node):
        source = " ".join(inspect.getsource(method).split())
        assert (
            "online_until=current_dt.timestamp() + HEARTBEAT_PATIENCE * heartbeat_interval"
            in source
        )
    assert "online_until=current_dt.timestamp()," in inspect.getsource(SqlLinkState.deactivate_node)


def test_a_message_that_is_pushed_again_is_one_message() -> None:  # server/superlink/task.py
    source = inspect.getsource(SqlLinkState.store_message_ins)
    assert "is_duplicate_message_id" in source
    assert issubclass(ObjectPushError, Exception)


def test_what_is_announced_with_a_message_is_stored_and_handed_out() -> None:
    # common/one_piece.py
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.app.message import remove_content_from_message
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.server.superlink.linkstate.utils import dict_to_message, message_to_dict
    from flwr.superlink.servicer.fleet import fleet_handlers
    from flwr.superlink.servicer.runtime import runtime_handlers

    message = instruction(5, message_id="m")
    message.metadata.group_id = "whole"
    message.content = RecordDict({"a": ConfigRecord({"n": 1})})
    again = dict_to_message(message_to_dict(message_from_proto(message_to_proto(message))))
    assert again.content == message.content
    assert Message(RecordDict(), reply_to=again).metadata.group_id == "whole"
    # What Flower's own programs announce has nothing in it.
    assert len(remove_content_from_message(message).content) == 0
    for handlers in (fleet_handlers, runtime_handlers):
        assert "append(message_to_proto(msg))" in inspect.getsource(handlers.pull_messages)
        assert "message_from_proto(message_proto" in inspect.getsource(handlers.push_messages)


def test_objects_that_never_come_are_missed_by_nobody_who_does_not_ask_for_them() -> None:
    # common/one_piece.py: tree_of
    owners = [
        name
        for name, method in inspect.getmembers(SqlCoreState, inspect.isfunction)
        if "cleanup_messages=True" in inspect.getsource(method)
    ]
    assert owners == ["get_object", "store_object"]
    from flwr.server.superlink.linkstate import linkstate

    source = inspect.getsource(linkstate)
    assert "self.object_store.delete_objects_in_run(run_id)" in source
    assert "self.delete_sessions_in_run(run_id)" in source


def test_the_grid_pushes_by_a_method_of_its_own() -> None:  # server/superlink/task.py
    assert list(inspect.signature(HttpGrid._try_push_messages).parameters) == [
        "self",
        "run_id",
        "messages",
    ]
    source = inspect.getsource(HttpGrid.push_messages)
    assert "self._try_push_messages(run_id, messages)" in source
    fields = set(runtime_pb2.PushAppMessagesRequest.DESCRIPTOR.fields_by_name)
    assert {"messages_list", "message_object_trees"} <= fields


def test_replies_are_handed_out_once_and_the_loss_of_one_is_an_error_reply() -> None:
    # server/superlink/task.py: _is_asked_again
    source = inspect.getsource(SqlLinkState.get_message_res)
    assert "verify_message_ids" in source
    assert "delivered_at" in source
    assert (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE) == (3, 5)
    assert SUPERLINK_NODE_ID == 1


def test_a_task_without_a_heartbeat_is_given_up_after_a_minute() -> None:
    # server/superlink/beating.py: _BEAT_S
    from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL

    assert HEARTBEAT_PATIENCE * HEARTBEAT_DEFAULT_INTERVAL == 60
    assert "_cleanup_expired_task_tokens" in inspect.getsource(SqlCoreState.activate_task)


def test_a_grid_has_the_parts_that_ours_replaces() -> None:  # server/superlink/task.py
    source = inspect.getsource(HttpGrid)
    for part in ("self._addr", "self._token", "self._client", "def _connect", "_runtime_client"):
        assert part in source
    assert "self._client = RuntimeHttpClient.from_server_address" in source
    assert "token" in inspect.signature(RuntimeTokenHttpInterceptor).parameters
    assert "component_name" in inspect.signature(RuntimeVersionHttpInterceptor).parameters


def test_the_ends_of_a_task_have_these_names() -> None:  # server/superlink/task.py
    assert (SubStatus.COMPLETED, SubStatus.FAILED, SubStatus.STOPPED) == (
        "completed",
        "failed",
        "stopped",
    )


def test_the_errors_that_we_tell_apart_have_these_names() -> None:
    # server/superlink/control.py
    names = {code.name for code in ApiErrorCode}
    assert {"PUBLIC_KEY_ALREADY_IN_USE", "RUN_ALREADY_FINISHED"} <= names
