"""The inbox of a private study: public weights, noised moments, statistics once, and no more."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message

from client.private_statistics import private_evaluation, private_moments
from common import wire
from common.arrays import Arrays
from common.messages import Reply, TaskKind
from common.normalisation import moments_manifest
from common.privacy.mechanisms import NoiseSource
from server.correspondence import Unsigned
from server.inbox import open_reply
from server.plausible_statistics import are_of_too_many
from tests.unit.builders import instruction, outcomes_of, predictions_of, study_of
from tests.unit.inbox_cases import (
    OUTSIDE,
    UPDATE,
    Spoil,
    arrays_of,
    expected_of,
    honest,
    moments,
    opened,
    with_count,
    with_fields,
    with_metric,
)

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


WEIGHT = "counts that are not the public weight"


def _private_moments(seed: int = 0, noise: float = 5.0, **changes: float) -> Arrays:
    named = dict(private_moments(moments(), PRIVATE, noise, NoiseSource.seeded(seed)).unpack())
    for name, value in changes.items():
        full_name = name if name == "noise_variance" else f"labs.{name}"
        named[full_name] = np.full_like(named[full_name], value)
    return Arrays.pack(named, dtype=np.float64)


def _exact_moments() -> Arrays:
    named = dict(moments().unpack()) | {"noise_variance": np.zeros(1)}
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
            return replace(reply, arrays=arrays_of(UPDATE), counts=WEIGHTS)
        case TaskKind.EVALUATE:
            return replace(reply, metrics=_private_metrics(seed))
        case TaskKind.ENROL:
            return replace(reply, arrays=_private_moments(seed), counts=WEIGHTS)


def _open_private(reply: Reply) -> str:
    expected = replace(expected_of(reply.kind), study=PRIVATE)
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


BAD_PRIVATE: dict[str, tuple[TaskKind, Spoil, str]] = {
    "its own number": (TaskKind.ENROL, with_count("patients", 81), WEIGHT),
    "no patients": (TaskKind.ENROL, with_count("patients", 0), WEIGHT),
    "a granularity counted": (TaskKind.ENROL, with_count("labs", 79), WEIGHT),
    "a weight of one": (TaskKind.ENROL, with_count("vitals", 1), WEIGHT),
    "the weight of another": (
        TaskKind.ENROL,
        with_fields(counts={name: 70 if n else 0 for name, n in WEIGHTS.items()}),
        WEIGHT,
    ),
    "another weight in training": (TaskKind.TRAIN, with_count("labs", 79), WEIGHT),
    "other granularities than enrolled": (
        TaskKind.TRAIN,
        with_count("lifestyle", 80),
        "other counts than it enrolled with",
    ),
    "a loss in training": (
        TaskKind.TRAIN,
        with_fields(metrics=_private_metrics()),
        "statistics before the last round",
    ),
    "seconds in training": (
        TaskKind.TRAIN,
        with_fields(metrics={"seconds_training": (1.0,)}),
        "statistics before the last round",
    ),
    "seconds": (
        TaskKind.EVALUATE,
        with_metric("seconds_evaluation", 1.0),
        "statistics that are not declared",
    ),
    "an exact loss": (
        TaskKind.EVALUATE,
        with_metric("event.loss_sum", 1.0),
        "statistics that are not declared",
    ),
    "statistics without noise": (
        TaskKind.EVALUATE,
        with_metric("event.noise_variance", 0.0),
        "statistics that disagree with one another",
    ),
    "another number of patients": (
        TaskKind.EVALUATE,
        with_metric("event.num_patients", 1000.0),
        "statistics that disagree with one another",
    ),
    "a statistic that is not finite": (
        TaskKind.EVALUATE,
        with_metric("event.num_patients", float("nan")),
        "statistics that are negative or not finite",
    ),
    "a huge negative statistic": (
        TaskKind.EVALUATE,
        with_metric("event.num_patients", -1e300),
        "statistics that are negative or not finite",
    ),
    "moments without noise": (
        TaskKind.ENROL,
        with_fields(arrays=_private_moments(noise_variance=0.0)),
        OUTSIDE,
    ),
    "exact moments": (TaskKind.ENROL, with_fields(arrays=_exact_moments()), OUTSIDE),
    "a negative variance": (
        TaskKind.ENROL,
        with_fields(arrays=_private_moments(noise_variance=-1.0)),
        "moments with absurd noise",
    ),
    "noise that drowns all others": (
        TaskKind.ENROL,
        with_fields(arrays=_private_moments(noise_variance=1e7)),
        "moments with absurd noise",
    ),
    "more patients than ten times the weight": (
        TaskKind.ENROL,
        with_fields(arrays=_private_moments(count=2000.0)),
        OUTSIDE,
    ),
    "a sum beyond the ranges": (
        TaskKind.ENROL,
        with_fields(arrays=_private_moments(sum=900.0)),
        OUTSIDE,
    ),
    "squares beyond the ranges": (
        TaskKind.ENROL,
        with_fields(arrays=_private_moments(sum_squares=900.0)),
        OUTSIDE,
    ),
    "squares far below zero": (
        TaskKind.ENROL,
        with_fields(arrays=_private_moments(sum_squares=-500.0)),
        OUTSIDE,
    ),
    "a count far below zero": (
        TaskKind.ENROL,
        with_fields(arrays=_private_moments(count=-500.0)),
        OUTSIDE,
    ),
}


@pytest.mark.threat("C-1", "C-2", "S0-2")
@pytest.mark.parametrize("bad", BAD_PRIVATE.values(), ids=BAD_PRIVATE.keys())
def test_a_bad_private_reply_is_dropped_with_its_reason(
    bad: tuple[TaskKind, Spoil, str],
) -> None:
    kind, spoil, reason = bad
    assert _open_private(spoil(_private(kind))) == f"rejected: {reason}"


def test_a_site_without_a_public_number_has_a_weight_of_one() -> None:
    reply = replace(_private(TaskKind.ENROL), site="west")
    assert _open_private(reply) == f"rejected: {WEIGHT}"
    ones = {name: min(count, 1) for name, count in WEIGHTS.items()}
    assert _open_private(replace(reply, counts=ones)) == ""


def test_noise_may_make_more_patients_of_an_evaluation_than_a_site_may_have() -> None:
    most = PRIVATE.strategy.max_patients_per_site
    metrics = _private_metrics() | {"event.num_patients": (most + 1.0,)}
    assert not are_of_too_many(metrics, PRIVATE)


def test_noised_statistics_pass_in_private_studies_alone() -> None:
    reply = replace(honest(TaskKind.EVALUATE), metrics=_private_metrics())
    assert opened(reply, TaskKind.EVALUATE) == (
        None,
        "rejected: statistics that are not declared",
    )
