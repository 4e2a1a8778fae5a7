"""The coordinator's inbox: an honest reply passes, and each kind of bad one has its reason."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from common import wire
from common.arrays import Arrays
from common.errors import RefusalCode
from common.messages import Reply, TaskKind
from common.metrics.evaluation import PERSONAL, to_flat
from common.normalisation import moments_manifest
from server.correspondence import Unsigned
from server.inbox import claimed_site, open_reply
from tests.unit.builders import MORE_OUTCOMES, evaluation, instruction, study_of
from tests.unit.inbox_cases import (
    COUNTS,
    METRICS,
    OUTSIDE,
    STUDY,
    UPDATE,
    Spoil,
    arrays_of,
    expected_of,
    honest,
    moments,
    opened,
    task_of,
    with_count,
    with_fields,
    with_metric,
)


@pytest.mark.parametrize("kind", TaskKind)
def test_an_honest_reply_passes(kind: TaskKind) -> None:
    assert opened(honest(kind), kind) == (honest(kind), "")


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
    reply = replace(honest(TaskKind.TRAIN), metrics={name: METRICS[name] for name in kept})
    assert opened(reply) == (reply, "")


def test_withheld_moments_pass() -> None:
    counts = COUNTS | {"labs": 0}
    moments = arrays_of(moments_manifest(STUDY), np.float64)
    reply = replace(honest(TaskKind.ENROL), counts=counts, arrays=moments)
    assert opened(reply, TaskKind.ENROL) == (reply, "")


def _not_finite(value: float) -> Arrays:
    return Arrays(manifest=UPDATE, flat=np.array([0, 0, value, 0, 0], dtype=np.float32))


SHUFFLED = arrays_of((UPDATE[1], UPDATE[0]))
TRANSPOSED = arrays_of((replace(UPDATE[0], shape=(4, 1)), UPDATE[1]))

BAD_UPDATES: dict[str, tuple[Spoil, str]] = {
    "another kind": (with_fields(kind=TaskKind.EVALUATE), "answers another task"),
    "another run": (with_fields(run_id="s"), "answers another task"),
    "another round": (with_fields(round=1), "answers another task"),
    "another nonce": (with_fields(nonce="m"), "answers another task"),
    "another site": (with_fields(site="south"), "answers for another site"),
    "no arrays": (with_fields(arrays=None), "arrays of another shape"),
    "fewer arrays": (with_fields(arrays=arrays_of(UPDATE[:1])), "arrays of another shape"),
    "arrays in another order": (with_fields(arrays=SHUFFLED), "arrays of another shape"),
    "arrays of another shape": (with_fields(arrays=TRANSPOSED), "arrays of another shape"),
    "arrays in float64": (
        with_fields(arrays=arrays_of(UPDATE, np.float64)),
        "arrays of another type",
    ),
    "NaN": (with_fields(arrays=_not_finite(float("nan"))), "arrays that are not finite"),
    "infinity": (with_fields(arrays=_not_finite(float("-inf"))), "arrays that are not finite"),
    "no counts": (with_fields(counts={}), "counts of other granularities or outcomes"),
    "a count too many": (with_count("imaging", 3), "counts of other granularities or outcomes"),
    "no patients": (with_count("patients", 0), "an absurd number of patients"),
    "fewer than none": (with_count("patients", -5), "an absurd number of patients"),
    "too many patients": (with_count("patients", 1001), "an absurd number of patients"),
    "a negative count": (with_count("labs", -1), "an absurd number of patients"),
    "more than all": (with_count("labs", 91), "an absurd number of patients"),
    "more known than there are": (with_count("event", 91), "an absurd number of patients"),
    "counts that have changed": (with_count("vitals", 11), "other counts than it enrolled with"),
    "a statistic that is not declared": (
        with_metric("patient_17", 1.0),
        "statistics that are not declared",
    ),
    "a statistic without an outcome": (
        with_metric("loss_sum", 1.0),
        "statistics that are not declared",
    ),
    "a statistic of another outcome": (
        with_metric("death.loss_sum", 1.0),
        "statistics that are not declared",
    ),
    "a personal model that the study has not": (
        with_metric("personal.event.loss_sum", 1.0),
        "statistics that are not declared",
    ),
    "a statistic of another size": (
        with_metric("event.confusion", 1.0, 2.0),
        "statistics that are not declared",
    ),
    "seconds that are missing": (
        with_metric("seconds_training"),
        "statistics that are not declared",
    ),
    "a statistic that is NaN": (
        with_metric("event.loss_sum", float("nan")),
        "statistics that are negative or not finite",
    ),
    "a statistic that is infinite": (
        with_metric("event.loss_sum", float("inf")),
        "statistics that are negative or not finite",
    ),
    "a statistic that is negative": (
        with_metric("event.brier_sum", -1.0),
        "statistics that are negative or not finite",
    ),
    "seconds beyond all time": (
        with_metric("seconds_training", 1e300),
        "statistics that are negative or not finite",
    ),
    "statistics of other patients": (
        with_metric("event.num_patients", 31.0),
        "statistics that disagree with one another",
    ),
    "statistics of more patients than a site may have": (
        with_fields(metrics={name: tuple(1e6 * v for v in of) for name, of in METRICS.items()}),
        "an absurd number of patients",
    ),
    "statistics without their number of patients": (
        with_fields(metrics={"event.confusion": METRICS["event.confusion"]}),
        "statistics that disagree with one another",
    ),
}


@pytest.mark.threat("C-1", "C-2", "C-3")
@pytest.mark.parametrize("bad", BAD_UPDATES.values(), ids=BAD_UPDATES.keys())
def test_a_bad_update_is_dropped_with_its_reason(bad: tuple[Spoil, str]) -> None:
    spoil, reason = bad
    assert opened(spoil(honest(TaskKind.TRAIN))) == (None, f"rejected: {reason}")


SEVERAL = study_of(outcomes=MORE_OUTCOMES, personal={"fine_tune_steps": 1})


def _open_evaluation_of_several(metrics: dict[str, tuple[float, ...]]) -> str:
    expected = replace(expected_of(TaskKind.EVALUATE), study=SEVERAL)
    reply = replace(honest(TaskKind.EVALUATE), metrics=metrics)
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


BAD_EVALUATIONS: dict[str, tuple[Spoil, str]] = {
    "arrays": (with_fields(arrays=arrays_of(UPDATE)), "arrays of another shape"),
    "counts": (with_fields(counts=COUNTS), "counts in an evaluation"),
    "another site": (with_fields(site="south"), "answers for another site"),
    "an infinite statistic": (
        with_metric("event.loss_sum", float("inf")),
        "statistics that are negative or not finite",
    ),
}


@pytest.mark.threat("C-1")
@pytest.mark.parametrize("bad", BAD_EVALUATIONS.values(), ids=BAD_EVALUATIONS.keys())
def test_a_bad_evaluation_is_dropped_with_its_reason(
    bad: tuple[Spoil, str],
) -> None:
    spoil, reason = bad
    reply = spoil(honest(TaskKind.EVALUATE))
    assert opened(reply, TaskKind.EVALUATE) == (None, f"rejected: {reason}")


BAD_ENROLMENTS: dict[str, tuple[Spoil, str]] = {
    "no moments": (with_fields(arrays=None), "arrays of another shape"),
    "an empty name": (with_fields(site=""), "a malformed site name"),
    "a name of 64 letters": (with_fields(site="n" * 64), "a malformed site name"),
    "a sum beyond the ranges": (with_fields(arrays=moments(sum=92.0)), OUTSIDE),
    "a sum below the ranges": (with_fields(arrays=moments(sum=-1e300)), OUTSIDE),
    "squares beyond the ranges": (with_fields(arrays=moments(sum_squares=92.0)), OUTSIDE),
    "negative squares": (with_fields(arrays=moments(sum_squares=-1.0)), OUTSIDE),
    "a negative count": (with_fields(arrays=moments(count=-1.0)), OUTSIDE),
    "values of more patients": (with_fields(arrays=moments(count=91.0)), OUTSIDE),
}


@pytest.mark.threat("C-1", "C-2")
@pytest.mark.parametrize("bad", BAD_ENROLMENTS.values(), ids=BAD_ENROLMENTS.keys())
def test_a_bad_enrolment_is_dropped_with_its_reason(
    bad: tuple[Spoil, str],
) -> None:
    spoil, reason = bad
    reply = spoil(honest(TaskKind.ENROL))
    assert opened(reply, TaskKind.ENROL) == (None, f"rejected: {reason}")


@pytest.mark.threat("C-3")
@pytest.mark.parametrize("site", ["a|b", "north\n", "../north"])
def test_a_name_that_could_break_a_table_a_log_or_a_path_is_not_even_read(site: str) -> None:
    reply = replace(honest(TaskKind.ENROL), site=site)
    assert opened(reply, TaskKind.ENROL) == (None, "malformed")


@pytest.mark.parametrize("code", RefusalCode)
def test_a_refusal_is_told_by_its_code(code: RefusalCode) -> None:
    refusal = Reply(
        kind=TaskKind.TRAIN, run_id="r", round=2, nonce="n", site="north", status=code.value
    )
    assert opened(refusal) == (None, code.value)


@pytest.mark.parametrize("status", ["", "OK", "rejected: by me", "| late |"])
def test_a_status_that_is_not_on_the_list_is_malformed(status: str) -> None:
    assert opened(replace(honest(TaskKind.TRAIN), status=status)) == (None, "malformed")


def test_a_site_need_not_know_which_task_it_could_not_read() -> None:
    bare = Reply(kind=TaskKind.TRAIN, run_id="", round=0, nonce="", site="north")
    malformed = replace(bare, status=RefusalCode.MESSAGE_MALFORMED)
    assert opened(malformed) == (None, "message_malformed")
    budget = replace(bare, status=RefusalCode.BUDGET_EXCEEDED)
    assert opened(budget) == (None, "rejected: answers another task")


def test_a_message_that_is_not_a_reply_is_malformed() -> None:
    asked = instruction(1)
    expected = expected_of(TaskKind.TRAIN)
    assert open_reply(Message(RecordDict(), reply_to=asked), expected, Unsigned()) == (
        None,
        "malformed",
    )
    task = wire.task_to_records(task_of(TaskKind.TRAIN))
    assert open_reply(Message(task, reply_to=asked), expected, Unsigned()) == (None, "malformed")


def test_a_failed_process_is_an_error_whatever_it_says() -> None:
    asked = instruction(1)
    failed = Message(Error(code=2, reason="patient 17 has no age"), reply_to=asked)
    assert open_reply(failed, expected_of(TaskKind.TRAIN), Unsigned()) == (None, "error")


def test_no_message_is_late() -> None:
    assert open_reply(None, expected_of(TaskKind.TRAIN), Unsigned()) == (None, "late")


@pytest.mark.parametrize(("name", "claimed"), [("north", "north"), ("-", None), ("", None)])
def test_a_site_that_refuses_says_who_it_is_by_a_well_formed_name(
    name: str, claimed: str | None
) -> None:
    reply = replace(honest(TaskKind.ENROL), site=name, status="internal_error")
    message = Message(wire.reply_to_records(reply), reply_to=instruction(1))
    assert claimed_site(message) == claimed


def test_a_message_that_is_no_reply_claims_no_name() -> None:
    assert claimed_site(Message(RecordDict(), reply_to=instruction(1))) is None
    assert claimed_site(Message(Error(0, "x"), reply_to=instruction(1))) is None
