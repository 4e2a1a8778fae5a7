"""What we rely on in Flower 1.41.0 and its documentation does not promise: one test for each.

If a newer Flower fails one of these, the code named in the test must be read again before the pin
is moved.
"""

import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.task_identity import TaskIdentity

ROOT = Path(__file__).parents[2]
FLWR = Path(inspect.getfile(Message)).parents[2]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_run_id", 1), ("_node_id", 0), ("_task_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)


def _records() -> RecordDict:
    data = np.arange(3, dtype="<f4").tobytes()
    flat = Array(dtype="float32", shape=(3,), stype="wardround.flat", data=data)
    return RecordDict(
        {
            "arrays": ArrayRecord({"flat": flat}),
            "counts": MetricRecord({"patients": 7}),
            "metrics": MetricRecord({"loss_sum": [0.1, 0.2]}),
            "header": ConfigRecord({"schema": 1, "run_id": "r", "resume": True}),
        }
    )


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("flwr") == "1.41.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "flwr[simulation]==1.41.0" in project["project"]["dependencies"]


def test_records_survive_protobuf_bytes() -> None:  # common/wire.py
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
    from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

    records = _records()
    data = recorddict_to_proto(records).SerializeToString()
    again = recorddict_from_proto(ProtoRecordDict.FromString(data))
    assert again == records
    assert type(again["counts"]["patients"]) is int
    assert again["arrays"]["flat"].stype == "wardround.flat"
    assert type(again["header"]["resume"]) is bool


def test_messages_survive_protobuf_bytes_with_their_ids() -> None:  # simulations/engine.py
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as ProtoMessage

    message = Message(_records(), 5, "train", group_id="round-0")
    message.metadata.__dict__["_message_id"] = "17"
    data = message_to_proto(message).SerializeToString()
    again = message_from_proto(ProtoMessage.FromString(data))
    assert again.metadata.message_id == "17"
    assert again.metadata.dst_node_id == 5
    assert again.metadata.message_type == "train"
    assert again.content == message.content
    reply = Message(_records(), reply_to=again)
    assert reply.metadata.reply_to_message_id == "17"
    assert reply.metadata.message_type == "train"


def test_an_error_reply_has_an_error_and_no_content() -> None:  # simulations/engine.py
    message = Message(_records(), 5, "train")
    message.metadata.__dict__["_message_id"] = "17"
    reply = Message(Error(code=2, reason=""), reply_to=message)
    assert reply.has_error()
    assert not reply.has_content()


def test_the_code_for_an_exception_in_a_client_app_is_2() -> None:  # simulations/engine.py
    from flwr.common.constant import ErrorCode

    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == 2


def test_a_message_reads_who_it_is_from_the_task_identity() -> None:  # simulations/engine.py
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 41, 42, 43
    message = Message(RecordDict(), 5, "train")
    assert message.metadata.run_id == 41
    assert message.metadata.src_node_id == 42


def test_the_id_of_a_message_is_a_private_field_of_its_metadata() -> None:  # simulations/engine.py
    message = Message(RecordDict(), 5, "train")
    assert message.metadata.__dict__["_message_id"] == ""
    message.metadata.__dict__["_message_id"] = "1"
    assert message.metadata.message_id == "1"


def test_a_grid_has_these_abstract_methods() -> None:  # simulations/engine.py
    assert Grid.__abstractmethods__ == {
        "set_run",
        "run",
        "create_message",
        "get_node_ids",
        "push_messages",
        "pull_messages",
        "send_and_receive",
    }


def test_a_strategy_has_these_abstract_methods() -> None:  # server/strategy.py
    assert Strategy.__abstractmethods__ == {
        "configure_train",
        "aggregate_train",
        "configure_evaluate",
        "aggregate_evaluate",
        "summary",
    }


def test_flwr_reads_the_switches_that_we_set() -> None:  # simulations/flower_runtime.py
    from flwr.common.constant import FLWR_HOME
    from flwr.supercore.constant import FLWR_DISABLE_UPDATE_CHECK

    assert FLWR_HOME == "FLWR_HOME"
    assert FLWR_DISABLE_UPDATE_CHECK == "FLWR_DISABLE_UPDATE_CHECK"
    source = "\n".join(path.read_text(encoding="utf-8") for path in FLWR.rglob("*.py"))
    for name in (
        "FLWR_TELEMETRY_ENABLED",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL",
    ):
        assert f'"{name}"' in source, name


def test_the_size_of_a_simulation_has_the_names_that_we_pass() -> (
    None
):  # simulations/flower_runtime.py
    from flwr.supercore.utils import simulation_config_from_json

    config = simulation_config_from_json({"num_supernodes": 3, "client_resources_num_cpus": 1})
    assert config.num_supernodes == 3


def test_a_run_configuration_may_be_a_file(tmp_path: Path) -> None:  # simulations/flower_runtime.py
    from flwr.common.config import parse_config_args

    path = tmp_path / "run.toml"
    path.write_text('sites = "/a b/it\'s"\nresume = true\n')
    assert parse_config_args([str(path)]) == {"sites": "/a b/it's", "resume": True}
