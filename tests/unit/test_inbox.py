"""The coordinator's inbox: an honest reply passes, and each kind of bad one has its reason."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from client.private_statistics import private_evaluation, private_moments
from common import wire
from common.arrays import Arrays, Block, Manifest, size_of
from common.errors import RefusalCode
from common.metrics.evaluation import PERSONAL, to_flat
from common.normalisation import moments_manifest
from common.privacy.mechanisms import NoiseSource
from common.wire import Reply, Task, TaskKind
from server.correspondence import Unsigned
from server.inbox import Expected, claimed_site, open_reply
from tests.unit.builders import (
    HASH,
    MORE_OUTCOMES,
    evaluation,
    instruction,
    outcomes_of,
    predictions_of,
    study_of,
)

STUDY = study_of(strategy={"max_patients_per_site": 1000})
UPDATE: Manifest = (
    Block(name="heads.event.linear.weight", shape=(1, 4)),
    Block(name="heads.event.linear.bias", shape=(1,)),
)
COUNTS = {"patients": 90, "labs": 90, "vitals": 10, "lifestyle": 0, "event": 80}
METRICS = to_flat(evaluation(30, STUDY)) | {
    "seconds_training": (1.5,),
    "seconds_evaluation": (0.5,),
}


def _arrays(manifest: Manifest, dtype: type = np.float32) -> Arrays:
    return Arrays(manifest=manifest, flat=np.zeros(size_of(manifest), dtype=dtype))


def _task(kind: TaskKind) -> Task:
    return Task(kind=kind, run_id="r", round=2, nonce="n", study_hash=HASH, code="c")


def _expected(kind: TaskKind) -> Expected:
    return {
        TaskKind.TRAIN: Expected(
            task=_task(TaskKind.TRAIN),
            study=STUDY,
            site="north",
            manifest=UPDATE,
            dtype="float32",
            counts=COUNTS,
        ),
        TaskKind.EVALUATE: Expected(
            task=_task(TaskKind.EVALUATE),
            study=STUDY,
            site="north",
            manifest=None,
            dtype="float32",
            counts=COUNTS,
        ),
        TaskKind.ENROL: Expected(
            task=_task(TaskKind.ENROL),
            study=STUDY,
            site=None,
            manifest=moments_manifest(STUDY),
            dtype="float64",
            counts=None,
        ),
    }[kind]


def _honest(kind: TaskKind) -> Reply:
    reply = Reply(kind=kind, run_id="r", round=2, nonce="n", site="north")
    match kind:
        case TaskKind.TRAIN:
            return replace(reply, arrays=_arrays(UPDATE), counts=COUNTS, metrics=METRICS)
        case TaskKind.EVALUATE:
            return replace(reply, metrics=METRICS)
        case TaskKind.ENROL:
            return replace(reply, arrays=_moments(), counts=COUNTS)


def _moments(**changes: float) -> Arrays:
    named = _arrays(moments_manifest(STUDY), np.float64).unpack()
    named |= {
        "labs.count": np.array([90.0, 80.0]),
        "labs.sum": np.array([-90.0, 40.0]),
        "labs.sum_squares": np.array([90.0, 30.0]),
    }
    for name, value in changes.items():
        named[f"labs.{name}"] = np.array([value, 0.0])
    return Arrays.pack(named, dtype=np.float64)


def _open(reply: Reply, kind: TaskKind = TaskKind.TRAIN) -> tuple[Reply | None, str]:
    message = instruction(1, kind.value)
    return open_reply(
        Message(wire.reply_to_records(reply), reply_to=message), _expected(kind), Unsigned()
    )


@pytest.mark.parametrize("kind", TaskKind)
def test_an_honest_reply_passes(kind: TaskKind) -> None:
    assert _open(_honest(kind), kind) == (_honest(kind), "")


@pytest.mark.parametrize(
    "kept",
    [
        [],
        ["seconds_training"],
        ["event.num_patients"],
        ["event.num_patients", "event.confusion"],
        [name for name in METRICS if name != "event.loss_sum"],
    ],
    ids=len,
)
def test_a_policy_may_withhold_statistics(kept: list[str]) -> None:
    reply = replace(_honest(TaskKind.TRAIN), metrics={name: METRICS[name] for name in kept})
    assert _open(reply) == (reply, "")


def test_withheld_moments_pass() -> None:
    counts = COUNTS | {"labs": 0}
    moments = _arrays(moments_manifest(STUDY), np.float64)
    reply = replace(_honest(TaskKind.ENROL), counts=counts, arrays=moments)
    assert _open(reply, TaskKind.ENROL) == (reply, "")


def _with(**changes: Any) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, **changes)


def _with_metric(name: str, *values: float) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, metrics={**reply.metrics, name: values})


def _with_count(name: str, count: int) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, counts={**reply.counts, name: count})


def _not_finite(value: float) -> Arrays:
    return Arrays(manifest=UPDATE, flat=np.array([0, 0, value, 0, 0], dtype=np.float32))


SHUFFLED = _arrays((UPDATE[1], UPDATE[0]))
TRANSPOSED = _arrays((replace(UPDATE[0], shape=(4, 1)), UPDATE[1]))

BAD_UPDATES: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "another kind": (_with(kind=TaskKind.EVALUATE), "answers another task"),
    "another run": (_with(run_id="s"), "answers another task"),
    "another round": (_with(round=1), "answers another task"),
    "another nonce": (_with(nonce="m"), "answers another task"),
    "another site": (_with(site="south"), "answers for another site"),
    "no arrays": (_with(arrays=None), "arrays of another shape"),
    "fewer arrays": (_with(arrays=_arrays(UPDATE[:1])), "arrays of another shape"),
    "arrays in another order": (_with(arrays=SHUFFLED), "arrays of another shape"),
    "arrays of another shape": (_with(arrays=TRANSPOSED), "arrays of another shape"),
    "arrays in float64": (_with(arrays=_arrays(UPDATE, np.float64)), "arrays of another type"),
    "NaN": (_with(arrays=_not_finite(float("nan"))), "arrays that are not finite"),
    "infinity": (_with(arrays=_not_finite(float("-inf"))), "arrays that are not finite"),
    "no counts": (_with(counts={}), "counts of other granularities or outcomes"),
    "a count too many": (_with_count("imaging", 3), "counts of other granularities or outcomes"),
    "no patients": (_with_count("patients", 0), "an absurd number of patients"),
    "fewer than none": (_with_count("patients", -5), "an absurd number of patients"),
    "too many patients": (_with_count("patients", 1001), "an absurd number of patients"),
    "a negative count": (_with_count("labs", -1), "an absurd number of patients"),
    "more than all": (_with_count("labs", 91), "an absurd number of patients"),
    "more known than there are": (_with_count("event", 91), "an absurd number of patients"),
    "counts that have changed": (_with_count("vitals", 11), "other counts than it enrolled with"),
    "a statistic that is not declared": (
        _with_metric("patient_17", 1.0),
        "statistics that are not declared",
    ),
    "a statistic without an outcome": (
        _with_metric("loss_sum", 1.0),
        "statistics that are not declared",
    ),
    "a statistic of another outcome": (
        _with_metric("death.loss_sum", 1.0),
        "statistics that are not declared",
    ),
    "a personal model that the study has not": (
        _with_metric("personal.event.loss_sum", 1.0),
        "statistics that are not declared",
    ),
    "a statistic of another size": (
        _with_metric("event.confusion", 1.0, 2.0),
        "statistics that are not declared",
    ),
    "seconds that are missing": (
        _with_metric("seconds_training"),
        "statistics that are not declared",
    ),
    "a statistic that is NaN": (
        _with_metric("event.loss_sum", float("nan")),
        "statistics that are negative or not finite",
    ),
    "a statistic that is infinite": (
        _with_metric("event.loss_sum", float("inf")),
        "statistics that are negative or not finite",
    ),
    "a statistic that is negative": (
        _with_metric("event.brier_sum", -1.0),
        "statistics that are negative or not finite",
    ),
    "seconds beyond all time": (
        _with_metric("seconds_training", 1e300),
        "statistics that are negative or not finite",
    ),
    "statistics of other patients": (
        _with_metric("event.num_patients", 31.0),
        "statistics that disagree with one another",
    ),
    "statistics of more patients than a site may have": (
        _with(metrics={name: tuple(1e6 * v for v in of) for name, of in METRICS.items()}),
        "an absurd number of patients",
    ),
    "statistics without their number of patients": (
        _with(metrics={"event.confusion": METRICS["event.confusion"]}),
        "statistics that disagree with one another",
    ),
}


@pytest.mark.threat("C-1", "C-2", "C-3")
@pytest.mark.parametrize("bad", BAD_UPDATES.values(), ids=BAD_UPDATES.keys())
def test_a_bad_update_is_dropped_with_its_reason(bad: tuple[Callable[[Reply], Reply], str]) -> None:
    spoil, reason = bad
    assert _open(spoil(_honest(TaskKind.TRAIN))) == (None, f"rejected: {reason}")


SEVERAL = study_of(outcomes=MORE_OUTCOMES, personal={"fine_tune_steps": 1})


def _open_evaluation_of_several(metrics: dict[str, tuple[float, ...]]) -> str:
    expected = replace(_expected(TaskKind.EVALUATE), study=SEVERAL)
    reply = replace(_honest(TaskKind.EVALUATE), metrics=metrics)
    records = wire.reply_to_records(reply)
    return open_reply(Message(records, reply_to=instruction(1, "evaluate")), expected, Unsigned())[
        1
    ]


def test_statistics_of_several_outcomes_and_of_personal_models_pass() -> None:
    ours, own = evaluation(30, SEVERAL, seed=1), evaluation(20, SEVERAL, seed=2)
    assert _open_evaluation_of_several(to_flat(ours) | to_flat(own, model=PERSONAL)) == ""


@pytest.mark.parametrize("model", ["", PERSONAL])
@pytest.mark.parametrize(
    "name", ["event.num_patients", "stay.squared_error_sum", "death.num_patients"]
)
def test_each_outcome_and_model_is_checked_for_itself(name: str, model: str) -> None:
    metrics = to_flat(evaluation(30, SEVERAL)) | to_flat(evaluation(30, SEVERAL), model=PERSONAL)
    spoilt = f"{model}.{name}".lstrip(".")
    reason = _open_evaluation_of_several(metrics | {spoilt: (metrics[spoilt][0] + 31,)})
    assert reason == "rejected: statistics that disagree with one another"


BAD_EVALUATIONS: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "arrays": (_with(arrays=_arrays(UPDATE)), "arrays of another shape"),
    "counts": (_with(counts=COUNTS), "counts in an evaluation"),
    "another site": (_with(site="south"), "answers for another site"),
    "an infinite statistic": (
        _with_metric("event.loss_sum", float("inf")),
        "statistics that are negative or not finite",
    ),
}


@pytest.mark.threat("C-1")
@pytest.mark.parametrize("bad", BAD_EVALUATIONS.values(), ids=BAD_EVALUATIONS.keys())
def test_a_bad_evaluation_is_dropped_with_its_reason(
    bad: tuple[Callable[[Reply], Reply], str],
) -> None:
    spoil, reason = bad
    reply = spoil(_honest(TaskKind.EVALUATE))
    assert _open(reply, TaskKind.EVALUATE) == (None, f"rejected: {reason}")


OUTSIDE = "moments outside of the plausible ranges"
BAD_ENROLMENTS: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "no moments": (_with(arrays=None), "arrays of another shape"),
    "an empty name": (_with(site=""), "a malformed site name"),
    "a name of 64 letters": (_with(site="n" * 64), "a malformed site name"),
    "a sum beyond the ranges": (_with(arrays=_moments(sum=92.0)), OUTSIDE),
    "a sum below the ranges": (_with(arrays=_moments(sum=-1e300)), OUTSIDE),
    "squares beyond the ranges": (_with(arrays=_moments(sum_squares=92.0)), OUTSIDE),
    "negative squares": (_with(arrays=_moments(sum_squares=-1.0)), OUTSIDE),
    "a negative count": (_with(arrays=_moments(count=-1.0)), OUTSIDE),
    "values of more patients": (_with(arrays=_moments(count=91.0)), OUTSIDE),
}


@pytest.mark.threat("C-1", "C-2")
@pytest.mark.parametrize("bad", BAD_ENROLMENTS.values(), ids=BAD_ENROLMENTS.keys())
def test_a_bad_enrolment_is_dropped_with_its_reason(
    bad: tuple[Callable[[Reply], Reply], str],
) -> None:
    spoil, reason = bad
    reply = spoil(_honest(TaskKind.ENROL))
    assert _open(reply, TaskKind.ENROL) == (None, f"rejected: {reason}")


@pytest.mark.threat("C-3")
@pytest.mark.parametrize("site", ["a|b", "north\n", "../north"])
def test_a_name_that_could_break_a_table_a_log_or_a_path_is_not_even_read(site: str) -> None:
    reply = replace(_honest(TaskKind.ENROL), site=site)
    assert _open(reply, TaskKind.ENROL) == (None, "malformed")


@pytest.mark.parametrize("code", RefusalCode)
def test_a_refusal_is_told_by_its_code(code: RefusalCode) -> None:
    refusal = Reply(
        kind=TaskKind.TRAIN, run_id="r", round=2, nonce="n", site="north", status=code.value
    )
    assert _open(refusal) == (None, code.value)


@pytest.mark.parametrize("status", ["", "OK", "rejected: by me", "| late |"])
def test_a_status_that_is_not_on_the_list_is_malformed(status: str) -> None:
    assert _open(replace(_honest(TaskKind.TRAIN), status=status)) == (None, "malformed")


def test_a_message_that_is_not_a_reply_is_malformed() -> None:
    asked = instruction(1)
    expected = _expected(TaskKind.TRAIN)
    assert open_reply(Message(RecordDict(), reply_to=asked), expected, Unsigned()) == (
        None,
        "malformed",
    )
    task = wire.task_to_records(_task(TaskKind.TRAIN))
    assert open_reply(Message(task, reply_to=asked), expected, Unsigned()) == (None, "malformed")


def test_a_failed_process_is_an_error_whatever_it_says() -> None:
    asked = instruction(1)
    failed = Message(Error(code=2, reason="patient 17 has no age"), reply_to=asked)
    assert open_reply(failed, _expected(TaskKind.TRAIN), Unsigned()) == (None, "error")


def test_no_message_is_late() -> None:
    assert open_reply(None, _expected(TaskKind.TRAIN), Unsigned()) == (None, "late")


PRIVATE = study_of(
    strategy={"max_patients_per_site": 1000},
    privacy={
        "mode": "patient",
        "noise_multiplier": 1.0,
        "delta": 1e-4,
        "enrolment": {"north": 80, "south": 70},
    },
)
WEIGHTS = {"patients": 80, "labs": 80, "vitals": 80, "lifestyle": 0, "event": 80}


def _private_moments(seed: int = 0, noise: float = 5.0, **changes: float) -> Arrays:
    named = dict(private_moments(_moments(), PRIVATE, noise, NoiseSource.seeded(seed)).unpack())
    for name, value in changes.items():
        full_name = name if name == "noise_variance" else f"labs.{name}"
        named[full_name] = np.full_like(named[full_name], value)
    return Arrays.pack(named, dtype=np.float64)


def _exact_moments() -> Arrays:
    named = dict(_moments().unpack()) | {"noise_variance": np.zeros(1)}
    return Arrays.pack(named, dtype=np.float64)


def _private_metrics(seed: int = 0) -> dict[str, tuple[float, ...]]:
    return private_evaluation(
        predictions_of(PRIVATE, 20),
        outcomes_of(PRIVATE, 20),
        PRIVATE,
        3.0,
        NoiseSource.seeded(seed),
    )


def _private(kind: TaskKind, seed: int = 0) -> Reply:
    reply = Reply(kind=kind, run_id="r", round=2, nonce="n", site="north")
    match kind:
        case TaskKind.TRAIN:
            return replace(reply, arrays=_arrays(UPDATE), counts=WEIGHTS)
        case TaskKind.EVALUATE:
            return replace(reply, metrics=_private_metrics(seed))
        case TaskKind.ENROL:
            return replace(reply, arrays=_private_moments(seed), counts=WEIGHTS)


def _open_private(reply: Reply) -> str:
    expected = replace(_expected(reply.kind), study=PRIVATE)
    if reply.kind is TaskKind.ENROL:
        expected = replace(expected, manifest=moments_manifest(PRIVATE))
    else:
        expected = replace(expected, counts=WEIGHTS)
    message = instruction(1, reply.kind.value)
    return open_reply(
        Message(wire.reply_to_records(reply), reply_to=message), expected, Unsigned()
    )[1]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", TaskKind)
def test_an_honest_private_reply_passes(kind: TaskKind, seed: int) -> None:
    assert _open_private(_private(kind, seed)) == ""


@pytest.mark.parametrize("noise", [0.5, 5.0, 50.0])
def test_moments_with_any_honest_noise_pass(noise: float) -> None:
    for seed in range(100):
        reply = replace(_private(TaskKind.ENROL), arrays=_private_moments(seed, noise))
        assert _open_private(reply) == ""


WEIGHT = "counts that are not the public weight"
BAD_PRIVATE: dict[str, tuple[TaskKind, Callable[[Reply], Reply], str]] = {
    "its own number": (TaskKind.ENROL, _with_count("patients", 81), WEIGHT),
    "no patients": (TaskKind.ENROL, _with_count("patients", 0), WEIGHT),
    "a granularity counted": (TaskKind.ENROL, _with_count("labs", 79), WEIGHT),
    "a weight of one": (TaskKind.ENROL, _with_count("vitals", 1), WEIGHT),
    "the weight of another": (
        TaskKind.ENROL,
        _with(counts={name: 70 if n else 0 for name, n in WEIGHTS.items()}),
        WEIGHT,
    ),
    "another weight in training": (TaskKind.TRAIN, _with_count("labs", 79), WEIGHT),
    "other granularities than enrolled": (
        TaskKind.TRAIN,
        _with_count("lifestyle", 80),
        "other counts than it enrolled with",
    ),
    "a loss in training": (
        TaskKind.TRAIN,
        _with(metrics=_private_metrics()),
        "statistics before the last round",
    ),
    "seconds in training": (
        TaskKind.TRAIN,
        _with(metrics={"seconds_training": (1.0,)}),
        "statistics before the last round",
    ),
    "seconds": (
        TaskKind.EVALUATE,
        _with_metric("seconds_evaluation", 1.0),
        "statistics that are not declared",
    ),
    "an exact loss": (
        TaskKind.EVALUATE,
        _with_metric("event.loss_sum", 1.0),
        "statistics that are not declared",
    ),
    "statistics without noise": (
        TaskKind.EVALUATE,
        _with_metric("event.noise_variance", 0.0),
        "statistics that disagree with one another",
    ),
    "another number of patients": (
        TaskKind.EVALUATE,
        _with_metric("event.num_patients", 1000.0),
        "statistics that disagree with one another",
    ),
    "a statistic that is not finite": (
        TaskKind.EVALUATE,
        _with_metric("event.num_patients", float("nan")),
        "statistics that are negative or not finite",
    ),
    "a huge negative statistic": (
        TaskKind.EVALUATE,
        _with_metric("event.num_patients", -1e300),
        "statistics that are negative or not finite",
    ),
    "moments without noise": (
        TaskKind.ENROL,
        _with(arrays=_private_moments(noise_variance=0.0)),
        OUTSIDE,
    ),
    "exact moments": (TaskKind.ENROL, _with(arrays=_exact_moments()), OUTSIDE),
    "a negative variance": (
        TaskKind.ENROL,
        _with(arrays=_private_moments(noise_variance=-1.0)),
        "moments with absurd noise",
    ),
    "noise that drowns all others": (
        TaskKind.ENROL,
        _with(arrays=_private_moments(noise_variance=1e7)),
        "moments with absurd noise",
    ),
    "more patients than ten times the weight": (
        TaskKind.ENROL,
        _with(arrays=_private_moments(count=2000.0)),
        OUTSIDE,
    ),
    "a sum beyond the ranges": (TaskKind.ENROL, _with(arrays=_private_moments(sum=900.0)), OUTSIDE),
    "squares beyond the ranges": (
        TaskKind.ENROL,
        _with(arrays=_private_moments(sum_squares=900.0)),
        OUTSIDE,
    ),
    "squares far below zero": (
        TaskKind.ENROL,
        _with(arrays=_private_moments(sum_squares=-500.0)),
        OUTSIDE,
    ),
    "a count far below zero": (
        TaskKind.ENROL,
        _with(arrays=_private_moments(count=-500.0)),
        OUTSIDE,
    ),
}


@pytest.mark.threat("C-1", "C-2", "S0-2")
@pytest.mark.parametrize("bad", BAD_PRIVATE.values(), ids=BAD_PRIVATE.keys())
def test_a_bad_private_reply_is_dropped_with_its_reason(
    bad: tuple[TaskKind, Callable[[Reply], Reply], str],
) -> None:
    kind, spoil, reason = bad
    assert _open_private(spoil(_private(kind))) == f"rejected: {reason}"


def test_a_site_without_a_public_number_has_a_weight_of_one() -> None:
    reply = replace(_private(TaskKind.ENROL), site="west")
    assert _open_private(reply) == f"rejected: {WEIGHT}"
    ones = {name: min(count, 1) for name, count in WEIGHTS.items()}
    assert _open_private(replace(reply, counts=ones)) == ""


def test_noised_statistics_pass_in_private_studies_alone() -> None:
    reply = replace(_honest(TaskKind.EVALUATE), metrics=_private_metrics())
    assert _open(reply, TaskKind.EVALUATE) == (
        None,
        "rejected: statistics that are not declared",
    )


@pytest.mark.parametrize(("name", "claimed"), [("north", "north"), ("-", None), ("", None)])
def test_a_site_that_refuses_says_who_it_is_by_a_well_formed_name(
    name: str, claimed: str | None
) -> None:
    reply = replace(_honest(TaskKind.ENROL), site=name, status="internal_error")
    message = Message(wire.reply_to_records(reply), reply_to=instruction(1))
    assert claimed_site(message) == claimed


def test_a_message_that_is_no_reply_claims_no_name() -> None:
    assert claimed_site(Message(RecordDict(), reply_to=instruction(1))) is None
    assert claimed_site(Message(Error(0, "x"), reply_to=instruction(1))) is None
