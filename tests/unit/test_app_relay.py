"""The relay: a task in, a reply out; what is no task gets a code, and nothing here needs torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

import client.app
from client.app import relay
from client.site import Site
from common.code_version import code_fingerprint
from common.errors import RefusalCode, SiteConfigError
from common.messages import Reply, Task, TaskKind
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from common.study_file import study_to_toml
from common.wire import reply_from_records, task_to_records


@pytest.fixture(scope="session")
def site(new_site, tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Site:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    return Site.simulated(new_site(), tiny_study, state_dir=tmp_path_factory.mktemp("state"))


def records_of(study: Study, kind: TaskKind = TaskKind.TRAIN) -> RecordDict:
    arrays = None if kind is TaskKind.ENROL else state_of(PatientModel(study))
    task = Task(
        kind=kind,
        run_id="run",
        round=0,
        nonce="nonce",
        study_hash=study.hash,
        code=code_fingerprint(),
        arrays=arrays,
    )
    return task_to_records(task)


def ask(site: Site, records: RecordDict, message_type: str = "train") -> Reply:
    message = Message(records, 1, message_type)
    return reply_from_records(relay(site, message).content)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_task_is_answered_by_the_site(site, tiny_study, kind: TaskKind) -> None:
    reply = ask(site, records_of(tiny_study, kind), kind.value)
    assert (reply.status, reply.kind, reply.site) == ("ok", kind, "alpha")
    assert (reply.run_id, reply.nonce) == ("run", "nonce")


def spoilt(study: Study, **changes: object) -> RecordDict:
    records = records_of(study)
    header = dict(records["header"]) | changes
    records["header"] = ConfigRecord({k: v for k, v in header.items() if v is not None})
    return records


def test_what_is_no_task_is_answered_by_a_code_and_echoes_nothing(site, tiny_study) -> None:
    messages = [
        RecordDict(),
        RecordDict({"header": MetricRecord({"schema": 1})}),
        RecordDict({"config": ConfigRecord({"privacy": "off"})}),
        spoilt(tiny_study, local_epochs=1000),
        spoilt(tiny_study, schema=1),
        spoilt(tiny_study, round=-1),
        spoilt(tiny_study, round=1.0),
        spoilt(tiny_study, kind="save_my_data"),
        spoilt(tiny_study, nonce=None),
        spoilt(tiny_study, manifest="[[["),
        spoilt(tiny_study, manifest='[["a", 99999999]]'),
    ]
    for records in messages:
        reply = ask(site, records)
        assert reply.status == RefusalCode.MESSAGE_MALFORMED
        assert (reply.run_id, reply.nonce, reply.round) == ("", "", 0)
        assert (reply.arrays, reply.counts, reply.metrics) == (None, {}, {})


def test_a_task_that_came_as_another_kind_of_message_is_no_task(site, tiny_study) -> None:
    reply = ask(site, records_of(tiny_study, TaskKind.TRAIN), "evaluate")
    assert (reply.status, reply.kind) == (RefusalCode.MESSAGE_MALFORMED, TaskKind.EVALUATE)


scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=9), st.booleans()
)


@given(
    header=st.dictionaries(
        st.sampled_from(
            ["kind", "run_id", "round", "nonce", "study_hash", "code", "manifest", "x"]
        ),
        scalars,
    ),
    with_arrays=st.booleans(),
    metrics=st.dictionaries(st.text(max_size=5), st.integers(-9, 9) | st.floats(), max_size=2),
)
def test_no_records_at_all_make_the_relay_raise(
    site, tiny_study, header: dict, with_arrays: bool, metrics: dict
) -> None:
    records = records_of(tiny_study)
    records["header"] = ConfigRecord(dict(records["header"]) | header)
    if not with_arrays:
        records["arrays"] = ArrayRecord()
    if metrics:
        records["metrics"] = MetricRecord(metrics)
    reply = ask(site, records)
    assert reply.status == "ok" or reply.status in set(RefusalCode)


def test_importing_the_relay_imports_no_torch() -> None:
    program = "import sys, client.app; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


# The simulated site behind a node.


def context(sites: Path, out: Path, study: Path, **node: int) -> Context:
    config = {
        "study": str(study),
        "sites": str(sites),
        "out": str(out),
        "rounds": 0,
        "seed": -1,
        "strategy": "",
    }
    return Context(7, 1, node, RecordDict(), config)


@pytest.fixture
def two_sites(new_site, tiny_study, tmp_path: Path) -> Path:
    for name in ("beta", "alpha"):
        new_site(name=name).rename(tmp_path / name)
    (tmp_path / "tiny.toml").write_text(study_to_toml(tiny_study), encoding="utf-8")
    return tmp_path


def test_the_nth_node_is_the_nth_site_folder_by_name(two_sites, tiny_study) -> None:
    for number, name in enumerate(["alpha", "beta"]):
        node = {"partition-id": number, "num-partitions": 2}
        where = context(two_sites, two_sites / "run", two_sites / "tiny.toml", **node)
        message = Message(records_of(tiny_study, TaskKind.ENROL), 1, "query")
        reply = reply_from_records(client.app.enrol(message, where).content)
        assert (reply.status, reply.site) == ("ok", name)
        assert (two_sites / "run" / "sites" / name / "audit.jsonl").is_file()


def test_a_site_is_opened_once_for_all_messages_of_a_run(two_sites) -> None:
    where = context(
        two_sites,
        two_sites / "run",
        two_sites / "tiny.toml",
        **{"partition-id": 0, "num-partitions": 2},
    )
    assert client.app._site_of(where) is client.app._site_of(where)


def test_a_node_that_is_not_simulated_is_a_clear_error(two_sites) -> None:
    where = context(two_sites, two_sites / "run", two_sites / "tiny.toml")
    with pytest.raises(SiteConfigError, match="simulation runtime"):
        client.app._site_of(where)


def test_more_nodes_than_site_folders_are_a_clear_error(two_sites) -> None:
    where = context(
        two_sites,
        two_sites / "run",
        two_sites / "tiny.toml",
        **{"partition-id": 0, "num-partitions": 3},
    )
    with pytest.raises(SiteConfigError, match="num-supernodes=2"):
        client.app._site_of(where)
