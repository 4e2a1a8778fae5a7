"""The door at its edges: the group that is just large enough, and what a private reply keeps."""

from dataclasses import replace

import numpy as np
import pytest

from client.egress import Declared, release
from client.policy import Policy
from client.private_statistics import private_evaluation
from client.withholding import released_moments
from common.arrays import Arrays
from common.messages import Reply, TaskKind
from common.privacy.mechanisms import NoiseSource
from tests.unit.builders import outcomes_of, predictions_of, study_of

POLICY = Policy(allow_without_privacy=True, smallest_group=10)
TWO = {
    "event": {"column": "event", "kind": "binary", "classes": ["no", "yes"]},
    "death": {"column": "death", "kind": "binary", "classes": ["no", "yes"]},
}
PRIVATE = study_of(
    outcomes=TWO, privacy={"mode": "patient", "noise_multiplier": 1.0, "delta": 1e-4}
)


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize(("count", "leaves"), [(9, 0), (10, 10)])
def test_moments_over_exactly_the_smallest_group_leave_and_over_one_fewer_do_not(
    count: int, leaves: int
) -> None:
    moments = {"count": count, "sum": -0.5 * count, "sum_squares": 0.3 * count}
    raw = Arrays.pack(
        {f"labs.{name}": np.array([float(value)]) for name, value in moments.items()},
        dtype=np.float64,
    )
    left = released_moments(raw, {"patients": 45, "labs": 45}, POLICY).unpack()
    assert {name: float(left[f"labs.{name}"][0]) for name in moments} == {
        "count": leaves,
        "sum": -0.5 * leaves,
        "sum_squares": 0.3 * leaves,
    }


def private_reply() -> Reply:
    """Noised statistics of two outcomes over a single patient."""
    sums = private_evaluation(
        predictions_of(PRIVATE, 1), outcomes_of(PRIVATE, 1), PRIVATE, 3.0, NoiseSource.seeded(0)
    )
    return Reply(kind=TaskKind.EVALUATE, run_id="r", round=1, nonce="n", site="alpha", metrics=sums)


@pytest.fixture
def declared() -> Declared:
    return Declared.of(PRIVATE, update=(), moments=())


def of_outcome(reply: Reply, outcome: str) -> set[str]:
    return {name for name in reply.metrics if name.startswith(f"{outcome}.")}


def released(reply: Reply, declared: Declared, *metrics: str) -> set[str]:
    policy = Policy(allow_without_privacy=True, smallest_group=10, metrics=metrics)
    left = release(reply, policy, declared)
    assert all(left.metrics[name] == reply.metrics[name] for name in left.metrics)
    return set(left.metrics)


@pytest.mark.threat("S0-2")
def test_noised_statistics_leave_whatever_they_say_of_how_many_patients_there_are(
    declared: Declared,
) -> None:
    reply = private_reply()
    assert len(of_outcome(reply, "event")) > 1
    assert released(reply, declared, "*") == set(reply.metrics)


@pytest.mark.threat("S0-2")
def test_an_outcome_that_the_policy_does_not_list_stays_in_a_private_reply_too(
    declared: Declared,
) -> None:
    reply = private_reply()
    listed = of_outcome(reply, "death")
    assert released(reply, declared, *listed) == listed
    assert released(reply, declared) == set()


@pytest.mark.threat("S0-2")
def test_noised_statistics_of_an_outcome_leave_all_together_or_not_at_all(
    declared: Declared,
) -> None:
    reply = private_reply()
    for missing in sorted(of_outcome(reply, "event")):
        listed = {*of_outcome(reply, "death"), *(of_outcome(reply, "event") - {missing})}
        assert released(reply, declared, *listed) == of_outcome(reply, "death")


@pytest.mark.threat("S0-2")
def test_public_counts_of_a_private_reply_are_not_rounded_by_how_small_they_are(
    declared: Declared,
) -> None:
    counts = {"patients": 1, "labs": 1, "vitals": 0}
    reply = replace(private_reply(), counts=counts)
    assert release(reply, POLICY, declared).counts == counts
