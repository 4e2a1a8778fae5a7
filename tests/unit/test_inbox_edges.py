"""What a site may say of itself, at the edge of what is believed: numbers of patients, moments."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from common import wire
from common.arrays import Arrays, size_of
from common.messages import Reply, Task, TaskKind
from common.metrics.evaluation import to_flat
from common.normalisation import MOMENTS, NOISE_VARIANCE, moments_manifest
from common.study import Study
from server.correspondence import Unsigned
from server.inbox import Expected, open_reply
from server.plausible_moments import fault_of
from tests.unit.builders import HASH, evaluation, instruction, study_of

MOST = 1000
STUDY = study_of(strategy={"max_patients_per_site": MOST})
NAMES = (*STUDY.granularities, *STUDY.outcomes)


def reason(reply: Reply, **expected: Any) -> str:
    task = Task(kind=reply.kind, run_id="r", round=2, nonce="n", study_hash=HASH, code="c")
    due = Expected(
        task=task, study=STUDY, site="north", manifest=None, dtype="float64", counts=None
    )
    message = Message(wire.reply_to_records(reply), reply_to=instruction(1, reply.kind.value))
    return open_reply(message, replace(due, **expected), Unsigned())[1]


@pytest.mark.threat("C-2")
@pytest.mark.parametrize(("number", "is_believed"), [(1, True), (MOST, True), (MOST + 1, False)])
def test_a_site_has_as_many_patients_as_the_study_allows_and_not_one_more(
    number: int, is_believed: bool
) -> None:
    manifest = moments_manifest(STUDY)
    reply = Reply(
        kind=TaskKind.ENROL,
        run_id="r",
        round=2,
        nonce="n",
        site="north",
        arrays=Arrays(manifest=manifest, flat=np.zeros(size_of(manifest))),
        counts={"patients": number, **dict.fromkeys(NAMES, number)},
    )
    told = reason(reply, site=None, manifest=manifest)
    assert told == ("" if is_believed else "rejected: an absurd number of patients")


@pytest.mark.threat("C-2")
@pytest.mark.parametrize(("number", "is_believed"), [(MOST, True), (MOST + 1, False)])
def test_statistics_are_over_as_many_patients_as_the_study_allows_and_not_one_more(
    number: int, is_believed: bool
) -> None:
    metrics = to_flat(evaluation(number, STUDY))
    assert metrics["event.num_patients"] == (float(number),)
    reply = Reply(
        kind=TaskKind.EVALUATE, run_id="r", round=2, nonce="n", site="north", metrics=metrics
    )
    told = reason(reply)
    assert told == ("" if is_believed else "rejected: an absurd number of patients")


@pytest.mark.threat("C-1", "C-2")
@pytest.mark.parametrize(
    ("count", "is_believed"), [(-1.0, False), (0.0, True), (100.0, True), (101.0, False)]
)
def test_exact_moments_are_of_as_many_patients_as_the_site_counts_at_most(
    count: float, is_believed: bool
) -> None:
    counts = dict.fromkeys(NAMES, 100)
    named = noised(STUDY, count=count, sum=0.0, sum_squares=0.0)
    told = fault_of(named, counts, site="north", study=STUDY)
    assert told == ("" if is_believed else "moments outside of the plausible ranges")


# Moments with noise of variance 1: counts and sums of squares reach 12 beyond what can be true.

REACH = 12.0
Moments = Mapping[str, Any]


def private_study(**enrolment: int) -> Study:
    privacy = {"mode": "patient", "noise_multiplier": 1.0, "delta": 1e-4, "enrolment": enrolment}
    return study_of(strategy={"max_patients_per_site": MOST}, privacy=privacy)


def noised(study: Study, *, variance: float = 1.0, **changes: float) -> Moments:
    """Moments of 100 patients, except those of labs that `changes` gives."""
    honest = {"count": 100.0, "sum": 0.0, "sum_squares": 20.0}
    assert set(honest) == set(MOMENTS)
    named: dict[str, Any] = {}
    for name, granularity in study.granularities.items():
        for moment, value in honest.items():
            number = changes.get(moment, value) if name == "labs" else value
            named[f"{name}.{moment}"] = np.full(len(granularity.numeric), number)
    return named | {NOISE_VARIANCE: np.array([variance])}


def fault(study: Study, site: str = "north", **changes: float) -> str:
    return fault_of(noised(study, **changes), {}, site=site, study=study)


@pytest.mark.threat("C-2")
@pytest.mark.parametrize(
    ("enrolment", "most"),
    # Ten times the public number of the site; where it has none, or more than the study allows
    # follows from it, what the study allows.
    [({"north": 80}, 800.0), ({"south": 80}, 1000.0), ({"north": 101}, 1000.0)],
)
def test_a_noised_count_reaches_beyond_ten_times_the_public_number_by_its_noise_alone(
    enrolment: dict[str, int], most: float
) -> None:
    study = private_study(**enrolment)
    assert fault(study, count=most + REACH) == ""
    assert fault(study, count=most + REACH + 0.01) != ""
    assert fault(study, count=-REACH, sum_squares=0.0) == ""
    assert fault(study, count=-REACH - 0.01, sum_squares=0.0) != ""


@pytest.mark.threat("C-1")
@pytest.mark.parametrize("sign", [1, -1])
def test_a_noised_sum_reaches_beyond_its_count_by_its_noise_alone(sign: int) -> None:
    study = private_study()
    bound = 1.01 * 100 + 2 * REACH
    assert fault(study, sum=sign * (bound - 0.01)) == ""
    assert fault(study, sum=sign * (bound + 0.01)) != ""
    # Nobody is counted: there is noise and nothing else.
    assert fault(study, count=-5.0, sum=sign * 2 * REACH) == ""
    assert fault(study, count=-5.0, sum=sign * (2 * REACH + 0.01)) != ""


@pytest.mark.threat("C-1")
def test_a_noised_sum_of_squares_lies_between_its_noise_and_its_count() -> None:
    study = private_study()
    bound = 1.01 * 100 + 2 * REACH
    assert fault(study, sum_squares=bound - 0.01) == ""
    assert fault(study, sum_squares=bound + 0.01) != ""
    assert fault(study, sum_squares=-REACH) == ""
    assert fault(study, sum_squares=-REACH - 0.01) != ""


@pytest.mark.threat("C-2")
def test_noise_has_a_variance_above_none_and_below_that_of_all_patients() -> None:
    study = private_study()
    assert fault(study, variance=float(MOST) ** 2) == ""
    assert fault(study, variance=float(MOST) ** 2 * 1.001) == "moments with absurd noise"
    assert fault(study, variance=-1.0) == "moments with absurd noise"
    assert fault(study, variance=0.0) == "moments outside of the plausible ranges"
    assert fault(study, variance=1e-6) == ""
