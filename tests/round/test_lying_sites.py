"""Sites that lie or are hostile: the round goes on without them, and says so."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from common.arrays import Arrays, slices_of
from common.messages import Reply, Task, TaskKind
from common.models.patient_model import PatientModel, state_of
from common.study_file import override
from simulations.engine import InProcessGrid
from tests.round.twists import Change, only, other_shape, update_of, with_counts, with_value

LIES: dict[str, tuple[Change, str]] = {
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


# Enrolment.


def moments_of(**changed: float) -> Change:
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
