"""Sites that fail, lie or are hostile: the round goes on without them, and says so."""

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from common.arrays import Arrays, Block, slices_of
from common.errors import CheckpointError, CohortError, DataError
from common.models.patient_model import PatientModel, state_of
from common.study_file import override
from common.wire import Reply, Task, TaskKind
from server.journal import Event, read_journal
from simulations.engine import InProcessGrid
from simulations.simulate import Simulation, simulate


def only(kind: TaskKind, change: Callable[[Reply], Reply]):
    """A site that is honest in everything but its replies of one kind."""

    def twist(task: Task, answer) -> Reply:
        reply = answer()
        return change(reply) if task.kind is kind else reply

    return twist


def update_of(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Reply], Reply]:
    def changed(reply: Reply) -> Reply:
        assert reply.arrays is not None
        flat = change(reply.arrays.flat.copy())
        return replace(reply, arrays=Arrays(manifest=reply.arrays.manifest, flat=flat))

    return changed


def with_value(value: float) -> Callable[[Reply], Reply]:
    def put(flat: np.ndarray) -> np.ndarray:
        flat[5] = value
        return flat

    return update_of(put)


def with_counts(**counts: int) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, counts=dict(reply.counts) | counts)


def other_shape(reply: Reply) -> Reply:
    assert reply.arrays is not None
    manifest = (Block(name="a", shape=(reply.arrays.flat.size,)),)
    return replace(reply, arrays=Arrays(manifest=manifest, flat=reply.arrays.flat))


LIES: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "NaN": (with_value(np.nan), "rejected: arrays that are not finite"),
    "infinity": (with_value(np.inf), "rejected: arrays that are not finite"),
    "another shape": (other_shape, "rejected: arrays of another shape"),
    "no arrays": (lambda r: replace(r, arrays=None), "rejected: arrays of another shape"),
    "float64": (
        update_of(lambda flat: flat.astype(np.float64)),
        "rejected: arrays of another type",
    ),
    "10^12 patients": (with_counts(patients=10**12), "rejected: an absurd number of patients"),
    "-1 patients": (with_counts(patients=-1), "rejected: an absurd number of patients"),
    "-1 with labs": (with_counts(labs=-1), "rejected: an absurd number of patients"),
    "more with labs than there are": (
        with_counts(labs=10**6),
        "rejected: an absurd number of patients",
    ),
    "other patients than enrolled": (
        with_counts(patients=999),
        "rejected: other counts than it enrolled with",
    ),
    "another granularity": (
        with_counts(imaging=3),
        "rejected: counts of other granularities or outcomes",
    ),
    "another site": (lambda r: replace(r, site="b"), "rejected: answers for another site"),
    "no site's name": (lambda r: replace(r, site="../b"), "malformed"),
    "another nonce": (lambda r: replace(r, nonce="0" * 16), "rejected: answers another task"),
    "another round": (lambda r: replace(r, round=r.round + 1), "rejected: answers another task"),
    "another run": (lambda r: replace(r, run_id="0" * 16), "rejected: answers another task"),
    "another kind": (
        lambda r: replace(r, kind=TaskKind.EVALUATE),
        "rejected: answers another task",
    ),
    "a statistic of its own": (
        lambda r: replace(r, metrics={"diagnoses": (1.0,)}),
        "rejected: statistics that are not declared",
    ),
    "a NaN statistic": (
        lambda r: replace(r, metrics={"event.loss_sum": (np.nan,)}),
        "rejected: statistics that are negative or not finite",
    ),
    "a status of its own": (
        lambda r: Reply(**{**vars(r), "status": "rm -rf", "arrays": None}),
        "malformed",
    ),
    "a status that is no text": (lambda r: replace(r, status=5), "malformed"),
    "a refusal": (
        lambda r: replace(r, status="internal_error", arrays=None, counts={}, metrics={}),
        "internal_error",
    ),
}


@pytest.fixture(scope="module")
def without_a(federate):
    """What the others make of it when the first site, a, takes no part."""
    return federate(left_out="a")


@pytest.fixture(scope="module")
def two_rounds(study):
    return override(study, training__rounds=2)


@pytest.fixture(scope="module")
def two_rounds_without_a(federate, two_rounds):
    return federate(two_rounds, left_out="ae")


@pytest.mark.threat("C-1", "C-2", "C-3")
@pytest.mark.parametrize("lie", LIES)
def test_a_site_that_lies_is_dropped_with_the_reason_and_the_others_train_as_without_it(
    federate, two_rounds, two_rounds_without_a, lie: str
) -> None:
    change, reason = LIES[lie]
    run = federate(two_rounds, twists={"a": only(TaskKind.TRAIN, change)}, left_out="e")
    assert run.model_bytes == two_rounds_without_a.model_bytes
    assert all(np.isfinite(values).all() for values in run.model.values())
    assert run.results["absent"] == [
        {"round": round_number, "site": "a", "reason": reason} for round_number in range(2)
    ]
    assert [e["sites"] for e in run.events("aggregated")] == [["b", "c", "d"]] * 2


def raising(task: Task, answer) -> Reply:
    raise RuntimeError("Mrs Miller, born 1943")


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


class Tampering(InProcessGrid):
    """Somebody on the way replaces what the first node answers to training tasks."""

    content = RecordDict()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            if reply.metadata.src_node_id == 1 and reply.metadata.message_type == "train":
                reply.content = self.content
        return replies


@pytest.mark.threat("C-1")
@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"arrays": ArrayRecord([np.ones(3)])}),
        RecordDict({"header": ConfigRecord({"schema": 1})}),
        RecordDict({"metrics": MetricRecord({"num-examples": 10**12})}),
        RecordDict({"everything": ConfigRecord({"patients": "all"})}),
    ],
    ids=["nothing", "stock arrays", "half a header", "stock metrics", "another record"],
)
def test_records_that_are_no_reply_are_malformed(federate, without_a, content) -> None:
    grid = type("Grid", (Tampering,), {"content": content})
    run = federate(grid=grid)
    assert run.model_bytes == without_a.model_bytes
    assert [e["reason"] for e in run.events("absent")] == ["malformed"] * 3


class Losing(InProcessGrid):
    """A grid that gives somebody else's replies too, and each reply twice."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        return [*replies, *replies]


@pytest.mark.threat("N-1")
def test_a_reply_that_comes_twice_counts_once(federate, honest) -> None:
    assert federate(grid=Losing).model_bytes == honest.model_bytes


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


# Enrolment.


def moments_of(**changed: float) -> Callable[[Reply], Reply]:
    def change(reply: Reply) -> Reply:
        assert reply.arrays is not None
        named = {name: values.copy() for name, values in reply.arrays.unpack().items()}
        for key, value in changed.items():
            named[f"labs.{key}"][:] = value
        return replace(reply, arrays=Arrays.pack(named, dtype=np.float64))

    return change


@pytest.mark.threat("C-2")
@pytest.mark.parametrize(
    "change",
    [
        moments_of(sum=np.nan),
        moments_of(sum=1e300),
        moments_of(count=1e12),
        moments_of(sum_squares=-1.0),
        with_counts(patients=10**12),
        lambda reply: replace(reply, arrays=None),
        lambda reply: replace(reply, site="b/../c"),
    ],
    ids=["NaN", "absurd sum", "absurd count", "negative", "patients", "none", "name"],
)
def test_a_site_that_lies_when_it_enrols_moves_the_normalisation_by_nothing(
    federate, study, change
) -> None:
    study = override(study, normalisation__method="federated", training__rounds=1)
    run = federate(study, twists={"a": only(TaskKind.ENROL, change)})
    assert run.model_bytes == federate(study, left_out="a").model_bytes
    assert [e["site"] for e in run.events("enrolled")] == ["b", "c", "d", "e"]
    assert len(run.events("absent")) == 1


@pytest.mark.threat("C-3")
def test_of_two_nodes_with_one_name_the_first_keeps_it(
    federate, honest, hospitals: Path, tmp_path: Path
) -> None:
    shutil.copytree(hospitals, tmp_path / "hospitals")
    shutil.copytree(hospitals / "a", tmp_path / "hospitals" / "z")
    patients = (hospitals / "b" / "patients.csv").read_bytes()
    (tmp_path / "hospitals" / "z" / "patients.csv").write_bytes(patients)
    run = federate(sites=tmp_path / "hospitals")
    assert run.model_bytes == honest.model_bytes
    (absent,) = run.events("absent")
    assert (absent["site"], absent["round"]) == ("a", 0)
    assert "another node" in absent["reason"]


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


# Hostile values that are well formed.


def moved(run: Any, study: Any) -> np.ndarray:
    initial = state_of(PatientModel(study)).unpack()
    names = [name for name in initial if not name.endswith((".location", ".scale"))]
    return np.concatenate([(run.model[n] - initial[n]).reshape(-1) for n in names])


@pytest.mark.threat("C-4")
@pytest.mark.parametrize(
    ("combine", "holds"), [("median", True), ("trimmed_mean", True), ("mean", False)]
)
def test_one_hostile_site_of_three_cannot_move_the_model_beyond_the_honest_ones(
    federate, study, combine: str, holds: bool
) -> None:
    study = override(study, strategy__combine=combine, training__rounds=1)
    honest_updates: list[np.ndarray] = []

    def recorded(task: Task, answer) -> Reply:
        reply = answer()
        if task.kind is TaskKind.TRAIN:
            arrays = reply.arrays
            assert arrays is not None
            honest_updates.append(
                np.concatenate([arrays.flat[place] for _, place in slices_of(arrays.manifest)])
            )
        return reply

    hostile = only(TaskKind.TRAIN, update_of(lambda flat: flat * np.float32(-100)))
    twists = {"a": hostile, "b": recorded, "c": recorded}
    run = federate(study, twists=twists, left_out="de")
    assert run.events("absent") == []
    low, high = np.min(honest_updates, axis=0), np.max(honest_updates, axis=0)
    move = moved(run, study)
    assert bool(((move >= low - 1e-6) & (move <= high + 1e-6)).all()) is holds


@pytest.mark.threat("C-1")
def test_an_update_of_the_largest_floats_stops_nobody(federate) -> None:
    hostile = only(TaskKind.TRAIN, update_of(lambda flat: np.full_like(flat, 3.4e38)))
    with np.errstate(over="ignore", invalid="ignore"):
        run = federate(twists={"a": hostile})
    assert run.results["status"] == "finished"
    assert {e["reason"] for e in run.events("absent")} == {"rejected: an update of absurd norm"}
    assert all(np.isfinite(values).all() for values in run.model.values())
