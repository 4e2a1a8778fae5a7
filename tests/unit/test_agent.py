"""The site process behind a real gRPC server: one task at a time, and no text of a fault."""

import importlib.util
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

import client.agent
import client.agent_service
import client.app
import client.device
from client import site_pb2, site_pb2_grpc
from client.agent import MAX_WAITING, serve
from client.agent_client import connect
from client.agent_service import Asked
from client.config import load_site_config
from client.site import Site
from common.code_version import code_fingerprint
from common.errors import DataError, SiteProcessError
from common.messages import TaskKind
from common.signing import SigningKey
from common.study import Study
from tests.unit.agent_cases import (
    WAIT_S,
    Gate,
    Running,
    accept,
    ask,
    bytes_of,
    private_of,
    reply_of,
    running,
    until,
)
from tests.unit.builders import task_of

ROOT = Path(__file__).parents[2]
CANARY = "Mrs Miller, born 1943"


@pytest.fixture(scope="module")
def study(tiny_study: Study) -> Study:
    return private_of(tiny_study)


@pytest.fixture
def folder(new_site: Callable[..., Path], study: Study) -> Path:
    return accept(new_site(), study, cohort_size=45)


@pytest.fixture(scope="module")
def agent(new_site: Callable[..., Path], study: Study) -> Iterator[Running]:
    """One site process for all tests that leave it as it is."""
    with running(accept(new_site(), study, cohort_size=45)) as found:
        yield found


def status_of(address: str, request: Any, method: str = "Answer") -> grpc.RpcError:
    """What a raw call ends with."""
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as fault:
        getattr(site_pb2_grpc.SiteStub(channel), method)(request, timeout=WAIT_S)
    return fault.value


@pytest.mark.parametrize("kind", [TaskKind.ENROL, TaskKind.TRAIN])
def test_a_task_is_answered_over_the_wire(agent: Running, study: Study, kind: TaskKind) -> None:
    reply = ask(agent.site, task_of(study, kind))
    assert (reply.status, reply.kind, reply.site, reply.nonce) == ("ok", kind, "alpha", "nonce")
    assert (reply.arrays is not None) == (kind is TaskKind.TRAIN)


def test_the_records_of_a_request_are_held_until_they_are_taken() -> None:
    asked = Asked.from_bytes(site_pb2.Envelope(records=b"abc", kind="train").SerializeToString())
    assert (asked.kind, asked.take(), asked.take()) == ("train", b"abc", b"")


def test_while_a_site_works_the_request_holds_no_records(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[Asked] = []
    held: list[bytes] = []
    from_bytes, answer = Asked.from_bytes, Site.answer
    monkeypatch.setattr(Asked, "from_bytes", lambda data: came.append(from_bytes(data)) or came[-1])
    monkeypatch.setattr(
        Site, "answer", lambda self, task: held.append(came[-1].records) or answer(self, task)
    )
    with running(folder) as agent:
        assert ask(agent.site, task_of(study)).status == "ok"
    assert held == [b""]


def test_what_a_task_has_left_goes_back_after_each(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = threading.Semaphore(0)
    monkeypatch.setattr(client.agent_service, "give_back_memory", given_back.release)
    with running(folder) as agent:
        for number in range(2):
            ask(agent.site, task_of(study, nonce=f"nonce{number}"))
            assert given_back.acquire(timeout=WAIT_S)


def test_a_site_says_who_it_is(folder: Path, study: Study) -> None:
    with running(folder) as agent:
        said = agent.site.describe()
    key = SigningKey.load(load_site_config(folder).state_dir / "keys" / "site.pem")
    assert (said.site, said.code, said.accepted_studies, said.public_key) == (
        "alpha",
        code_fingerprint(),
        (study.hash,),
        key.public_key,
    )


@pytest.mark.threat("S1-4")
@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x0a\x03abc"])
def test_bytes_that_are_no_task_get_a_refusal_code(agent: Running, data: bytes) -> None:
    reply = reply_of(agent.site.answer(data, "train"))
    assert (reply.status, reply.kind, reply.nonce) == ("message_malformed", "train", "")


def test_a_task_of_another_kind_than_its_envelope_gets_a_refusal_code(
    agent: Running, study: Study
) -> None:
    reply = reply_of(agent.site.answer(bytes_of(task_of(study)), "evaluate"))
    assert (reply.status, reply.kind) == ("message_malformed", "evaluate")


@pytest.mark.parametrize("kind", ["", "reconnect", "TRAIN"])
def test_an_unknown_kind_gets_a_status_without_text(agent: Running, kind: str) -> None:
    fault = status_of(agent.address, site_pb2.Envelope(records=b"", kind=kind))
    assert (fault.code(), fault.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "")


def test_there_is_no_reflection(agent: Running) -> None:
    with grpc.insecure_channel(agent.address) as channel:
        call = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        with pytest.raises(grpc.RpcError) as fault:
            list(call(iter([b""]), timeout=WAIT_S))
    assert fault.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.threat("N-3", "S1-4")
def test_a_message_above_the_limit_is_refused_and_the_next_is_answered(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.agent, "MAX_MESSAGE_BYTES", 2**20)
    with running(folder) as agent:
        with pytest.raises(SiteProcessError, match="RESOURCE_EXHAUSTED") as fault:
            agent.site.answer(bytes(2**20 + 1), "train")
        assert not fault.value.may_retry  # else a connector would send it for ever
        assert ask(agent.site, task_of(study)).status == "ok"


def test_the_health_service_tells_when_tasks_are_answered(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(Site, "open", gate.before(Site.open))
    with running(folder, wait=False) as agent:
        assert gate.reached.acquire(timeout=WAIT_S)
        assert not agent.site.is_serving()
        for call in (lambda: ask(agent.site, task_of(study)), agent.site.describe):
            with pytest.raises(SiteProcessError, match="UNAVAILABLE") as fault:
                call()
            assert fault.value.may_retry
        gate.open.set()
        until(agent.site.is_serving)
        assert ask(agent.site, task_of(study)).status == "ok"
    assert agent.ended.result(WAIT_S)
    with connect(agent.address) as gone:
        assert not gone.is_serving()


@pytest.mark.threat("N-3")
def test_callers_wait_in_line_and_beyond_it_are_sent_away(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(Site, "answer", gate.before(Site.answer))
    with running(folder) as agent, ThreadPoolExecutor(MAX_WAITING + 5) as callers:
        calls = [
            callers.submit(ask, agent.site, task_of(study, nonce=f"n{i}"))
            for i in range(MAX_WAITING + 3)
        ]
        until(lambda: sum(call.done() for call in calls) == 2)
        busy = [call for call in calls if call.done()]
        for call in busy:
            with pytest.raises(SiteProcessError, match="RESOURCE_EXHAUSTED") as fault:
                call.result()
            assert fault.value.may_retry
        assert agent.site.is_serving()  # health is answered while all others wait
        gate.open.set()
        replies = [call.result(WAIT_S) for call in calls if call not in busy]
    assert [reply.status for reply in replies] == ["ok"] * (1 + MAX_WAITING)
    assert gate.most_within == 1


def test_a_caller_who_went_away_leaves_the_line(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(Site, "answer", gate.before(Site.answer))
    with running(folder) as agent, ThreadPoolExecutor(MAX_WAITING + 2) as callers:
        first = callers.submit(ask, agent.site, task_of(study))
        assert gate.reached.acquire(timeout=WAIT_S)
        data = bytes_of(task_of(study))
        for _ in range(MAX_WAITING + 1):
            with pytest.raises(SiteProcessError, match="DEADLINE_EXCEEDED"):
                agent.site.answer(data, "train", timeout_s=0.1)
        gate.open.set()
        assert first.result(WAIT_S).status == "ok"


def test_one_thread_opens_the_site_and_does_all_work(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def noting(inner: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            threads.append(threading.current_thread().name)
            return inner(*args)

        return noted

    monkeypatch.setattr(Site, "open", noting(Site.open))
    monkeypatch.setattr(Site, "answer", noting(Site.answer))
    with running(folder) as agent, ThreadPoolExecutor(3) as callers:
        tasks = [task_of(study, nonce=f"n{i}") for i in range(3)]
        replies = list(callers.map(lambda task: ask(agent.site, task), tasks))
    assert [reply.status for reply in replies] == ["ok"] * 3
    assert len(threads) == 4
    assert len(set(threads)) == 1


def test_nothing_is_worked_for_a_caller_who_went_away(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    gate = Gate()
    inner = gate.before(Site.answer)

    def noted(site: Site, task: Any) -> Any:
        asked.append(task.nonce)
        return inner(site, task)

    monkeypatch.setattr(Site, "answer", noted)
    with running(folder) as agent, ThreadPoolExecutor(2) as callers:
        first = callers.submit(ask, agent.site, task_of(study, nonce="first"))
        assert gate.reached.acquire(timeout=WAIT_S)
        gone = bytes_of(task_of(study, nonce="gone"))
        with pytest.raises(SiteProcessError, match="DEADLINE_EXCEEDED"):
            agent.site.answer(gone, "train", timeout_s=0.3)
        gate.open.set()
        assert first.result(WAIT_S).status == "ok"
        assert ask(agent.site, task_of(study, nonce="last")).status == "ok"
    assert asked == ["first", "last"]


@pytest.mark.threat("I-1")
def test_no_text_of_a_fault_is_on_the_wire_or_in_the_log(
    folder: Path,
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(CANARY)

    caplog.set_level(logging.DEBUG)
    envelope = site_pb2.Envelope(records=bytes_of(task_of(study)), kind="train")
    for broken in ("answer", "refuse_malformed"):
        with running(folder) as agent, monkeypatch.context() as patch:
            patch.setattr(Site, "answer", fails)
            patch.setattr(Site, broken, fails)
            fault = status_of(agent.address, envelope)
            assert (fault.code(), fault.details()) == (grpc.StatusCode.INTERNAL, "")
            assert "Miller" not in repr((fault, fault.trailing_metadata()))
            patch.undo()
            assert ask(agent.site, task_of(study)).status == "ok"
    assert "Miller" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_a_connection_finds_a_site_process_that_was_away(folder: Path, study: Study) -> None:
    with running(folder) as agent, connect(agent.address) as site:
        first = ask(site, task_of(study))
        agent.stop.set()
        assert agent.ended.result(WAIT_S)
        with pytest.raises(SiteProcessError, match="UNAVAILABLE") as fault:
            ask(site, task_of(study))
        assert fault.value.may_retry
        with running(folder):
            until(site.is_serving)
            assert ask(site, task_of(study)).arrays == first.arrays


def test_a_closed_connection_says_so(agent: Running) -> None:
    site = connect(agent.address)
    site.close()
    with pytest.raises(SiteProcessError) as fault:
        site.describe()
    assert not fault.value.may_retry


def test_the_gpu_is_shared_by_a_fraction_of_its_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[float, torch.device]] = []

    def opens(site_dir: Path) -> None:
        raise DataError(f"opened after {given}")

    monkeypatch.setattr(client.device, "device_of", lambda _: torch.device("cuda:1"))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given_to: given.append(given_to)
    )
    monkeypatch.setattr(Site, "open", opens)
    with pytest.raises(DataError, match=r"0\.25"):
        serve(folder, ready=print, stop=threading.Event(), gpu_memory_fraction=0.25)
    assert given == [(0.25, torch.device("cuda:1"))]


def test_a_connector_loads_neither_torch_nor_flwr_nor_pandas() -> None:
    code = "import client.agent_client, sys\nprint(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(done.stdout.split())
    assert {"torch", "flwr", "pandas", "numpy", "pydantic"}.isdisjoint(loaded)
    assert "grpc" in loaded


@pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools is not installed"
)
def test_the_generated_code_is_what_make_proto_writes(tmp_path: Path) -> None:
    flags = ["--proto_path=.", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *flags, "client/site.proto"]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ)
    for name in ("site_pb2.py", "site_pb2_grpc.py"):
        generated = (tmp_path / "client" / name).read_bytes()
        assert generated == (ROOT / "client" / name).read_bytes(), name
