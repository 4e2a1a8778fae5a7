"""Sites that fail for a while or for good: the round goes on without them, and says so."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from common.errors import CheckpointError, CohortError, DataError
from common.messages import Reply, Task, TaskKind
from common.study_file import override
from server.journal import Event, read_journal
from simulations.engine import InProcessGrid
from simulations.simulate import Simulation, simulate
from tests.round.twists import raising


@pytest.mark.threat("I-1")
def test_a_site_that_raises_is_absent_and_its_words_are_nowhere(federate, without_a) -> None:
    run = federate(
        twists={
            "a": lambda task, answer: answer() if task.arrays is None else raising(task, answer)
        }
    )
    assert run.model_bytes == without_a.model_bytes
    assert {e["reason"] for e in run.events("absent")} == {"error"}
    for path in run.folder.rglob("*"):
        assert not path.is_file() or b"Miller" not in path.read_bytes()


# Failing for a while.


def test_a_site_that_fails_in_one_round_of_ten_stops_nobody_and_is_back_in_the_next(
    federate, study
) -> None:
    study = override(study, training__rounds=10)

    def unwell(task: Task, answer) -> Reply:
        # The third of ten training tasks carries the model of two aggregations.
        return raising(task, answer) if task.round == 2 and task.arrays is not None else answer()

    run = federate(study, twists={"b": unwell}, left_out="e")
    everyone, others = ["a", "b", "c", "d"], ["a", "c", "d"]
    assert [e["sites"] for e in run.events("aggregated")] == (
        [everyone] * 2 + [others] + [everyone] * 7
    )
    assert run.results["absent"] == [{"round": 2, "site": "b", "reason": "error"}]
    assert run.results["status"] == "finished"
    evaluated = [set(line["sites"]) for line in run.results["rounds"]]
    assert evaluated == [set(everyone)] * 2 + [set(others)] + [set(everyone)] * 8


class Away(InProcessGrid):
    """The first node is away, as a SuperLink says, when it is first asked."""

    code = ErrorCode.NODE_UNAVAILABLE
    has_said_so = False

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for reply in super().pull_messages(message_ids):
            if reply.metadata.src_node_id == 1 and not self.has_said_so:
                self.has_said_so = True
                reply = Message(Error(code=self.code, reason=""), reply_to=self.asked(reply))
            replies.append(reply)
        return replies

    def asked(self, reply: Message) -> Message:
        asked = Message(RecordDict(), dst_node_id=1, message_type="query")
        asked.metadata.__dict__["_message_id"] = reply.metadata.reply_to_message_id
        return asked


def test_a_site_that_is_silent_when_it_should_enrol_takes_part_once_it_is_back(federate) -> None:
    run = federate(grid=Away)
    assert [(e["site"], e["reason"]) for e in run.events("absent")] == [("node 1", "silent")]
    assert [e["site"] for e in run.events("enrolled")] == ["b", "c", "d", "e", "a"]
    assert [e["sites"] for e in run.events("aggregated")] == [["a", "b", "c", "d", "e"]] * 3


def test_a_site_whose_enrolment_fails_is_not_asked_again_in_the_run(federate) -> None:
    run = federate(grid=type("Failing", (Away,), {"code": ErrorCode.CLIENT_APP_CRASHED}))
    assert [(e["site"], e["reason"]) for e in run.events("absent")] == [("node 1", "error")]
    assert [e["sites"] for e in run.events("aggregated")] == [["b", "c", "d", "e"]] * 3


def test_a_site_with_too_few_patients_declines_and_stops_nobody(
    federate, without_a, hospitals: Path, tmp_path: Path
) -> None:
    shutil.copytree(hospitals, tmp_path / "hospitals")
    path = tmp_path / "hospitals" / "a" / "site.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("min_patients = 20", "min_patients = 500"), encoding="utf-8")
    run = federate(sites=tmp_path / "hospitals")
    assert run.model_bytes == without_a.model_bytes
    assert [e["reason"] for e in run.events("absent")] == ["too_few_patients"]


def test_sites_that_cannot_start_are_all_named(federate, hospitals: Path, tmp_path: Path) -> None:
    shutil.copytree(hospitals, tmp_path / "hospitals")
    (tmp_path / "hospitals" / "b" / "patients.csv").write_bytes(b"")
    (tmp_path / "hospitals" / "d" / "site.toml").write_bytes(b"[site]")
    with pytest.raises(DataError) as caught:
        federate(sites=tmp_path / "hospitals")
    assert re.findall(r"^([a-e]): ", str(caught.value), flags=re.MULTILINE) == ["b", "d"]


# Too few.


def test_with_too_few_sites_the_run_ends_after_the_attempts_and_can_be_resumed(
    federate, study, tmp_path: Path
) -> None:
    study = override(study, strategy__min_sites=4, strategy__max_attempts=2)

    def ill(task: Task, answer) -> Reply:
        return raising(task, answer) if task.round >= 2 else answer()

    with pytest.raises(CohortError, match=r"at least 4 sites.*2 time"):
        federate(study, twists={"a": ill, "c": ill}, out=tmp_path / "run")
    asked = [e for e in read_journal(tmp_path / "run" / "journal.jsonl") if e["event"] == "asked"]
    assert [e["round"] for e in asked if e["kind"] == "train"] == [0, 1, 2, 2]
    assert not (tmp_path / "run" / "model.safetensors").exists()
    resumed = federate(study, out=tmp_path / "run", resume=True)
    assert resumed.results["status"] == "finished"
    assert resumed.results["resumed_at_rounds"] == [2]
    assert resumed.model_bytes == federate(study).model_bytes


def test_a_run_that_was_killed_while_hospitals_enrolled_begins_again_under_its_id(
    federate, honest, study, tmp_path: Path
) -> None:
    def die(event: Event) -> None:
        if event["event"] == "enrolled":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federate(out=tmp_path / "run", listeners=[die])
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    resumed = federate(out=tmp_path / "run", resume=True)
    assert resumed.model_bytes == honest.model_bytes
    assert resumed.results["resumed_at_rounds"] == [0]
    (started,), (again,) = resumed.events("run_started"), resumed.events("run_resumed")
    assert again["run_id"] == started["run_id"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "journal.jsonl").write_text(json.dumps(started) + "\n")
    with pytest.raises(CheckpointError, match="found none"):
        federate(override(study, training__rounds=9), out=tmp_path / "other", resume=True)


@pytest.mark.threat("S0-1")
def test_a_round_is_never_made_of_one_site(federate, study, tmp_path: Path) -> None:
    study = override(study, strategy__round_timeout_s=0.1)
    with pytest.raises(CohortError, match="at least 2 sites"):
        federate(study, left_out="bcde", out=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_simulation_of_too_few_sites_says_so_at_once_and_waits_for_nobody(
    study, hospitals: Path, tmp_path: Path
) -> None:
    alone = frozenset("bcde")
    simulation = Simulation(study=study, sites=hospitals, out=tmp_path / "run", left_out=alone)
    with pytest.raises(CohortError, match="at least 2 sites"):
        simulate(simulation)
    assert not (tmp_path / "run").exists()


def test_an_attempt_that_fails_moves_nothing(federate, study) -> None:
    study = override(study, strategy__min_sites=5)
    attempts: list[int] = []

    def ill_once(task: Task, answer) -> Reply:
        if task.kind is TaskKind.TRAIN and task.round == 1:
            attempts.append(task.round)
            if len(attempts) == 1:
                return raising(task, answer)
        return answer()

    run = federate(study, twists={"b": ill_once})
    assert attempts == [1, 1]
    assert run.model_bytes == federate(study).model_bytes
    assert [e["round"] for e in run.events("aggregated")] == [1, 2, 3]
