"""What leaves of few patients.

A count of 1 to smallest_group - 1 leaves as 0, and the update of that granularity's encoder as
zeros; statistics over so few held-out patients do not leave.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.egress import release
from client.policy import Policy
from client.withholding import released_counts, released_moments
from common.arrays import Arrays
from common.messages import TaskKind
from tests.unit.egress_cases import ENOUGH, POLICY, moments, reply, sums


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize(("count", "leaves"), [(0, 0), (1, 0), (9, 0), (10, 10), (45, 45)])
def test_a_small_count_leaves_as_zero_and_the_update_of_its_encoder_as_zeros(
    declared, count: int, leaves: int
) -> None:
    out = reply(counts=ENOUGH | {"lifestyle": count})
    left = release(out, POLICY, declared)
    assert left.counts == ENOUGH | {"lifestyle": leaves}
    assert left.arrays is not None
    # The update is 1…8; elements 5, 6 and 7 are the lifestyle encoder's.
    withheld = 0 < count < 10
    expected = [1, 2, 3, 4, 0, 0, 0, 8] if withheld else [1, 2, 3, 4, 5, 6, 7, 8]
    assert left.arrays.flat.tolist() == expected


def test_where_all_patients_are_few_the_shared_blocks_are_zeros_too(declared) -> None:
    out = reply(counts={"patients": 9, "labs": 9, "lifestyle": 0, "event": 9})
    left = release(out, POLICY, declared)
    assert left.counts == {"patients": 0, "labs": 0, "lifestyle": 0, "event": 0}
    assert left.arrays is not None
    assert left.arrays.unpack()["heads.event.linear.bias"].tolist() == [0.0]
    assert left.arrays.unpack()["encoders.labs.hidden.weight"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(("count", "leaves"), [(0, 0), (1, 0), (9, 0), (10, 10), (36, 45)])
def test_the_head_of_an_outcome_that_is_known_of_few_leaves_as_zeros(
    declared, count: int, leaves: int
) -> None:
    left = release(reply(counts=ENOUGH | {"event": count}), POLICY, declared)
    assert left.counts == ENOUGH | {"event": leaves}
    assert left.arrays is not None
    # The last of 1…8 is the head's.
    assert left.arrays.flat.tolist() == [1, 2, 3, 4, 5, 6, 7, 0 if 0 < count < 10 else 8]


def test_the_moments_of_a_feature_that_few_patients_have_leave_as_zeros(
    declared, tiny_study
) -> None:
    # Forty-five patients have the granularity; one of them has a cholesterol, and its sum would
    # be that patient's value.
    named = dict(moments(tiny_study, 45).unpack())
    named["labs.count"] = np.array([45.0, 1.0])
    named["labs.sum"] = np.array([3.0, 0.123456])
    named["labs.sum_squares"] = np.array([2.0, 0.0152])
    out = reply(TaskKind.ENROL, arrays=Arrays.pack(named, dtype=np.float64))
    left = release(out, POLICY, declared)
    assert left.arrays is not None
    assert left.arrays.unpack()["labs.count"].tolist() == [45.0, 0.0]
    assert left.arrays.unpack()["labs.sum"].tolist() == [3.0, 0.0]
    assert left.arrays.unpack()["labs.sum_squares"].tolist() == [2.0, 0.0]


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize(("num_patients", "leaves"), [(1, False), (9, False), (10, True)])
def test_statistics_over_a_few_held_out_patients_do_not_leave(
    declared, num_patients: int, leaves: bool
) -> None:
    metrics = sums(num_patients) | {"seconds_evaluation": (0.1,)}
    left = release(reply(TaskKind.EVALUATE, metrics=metrics), POLICY, declared)
    assert left.metrics == (metrics if leaves else {"seconds_evaluation": (0.1,)})


def test_statistics_without_their_number_of_patients_do_not_leave(declared) -> None:
    out = reply(TaskKind.EVALUATE, metrics={"event.loss_sum": (12.0,)})
    assert release(out, POLICY, declared).metrics == {}
    policy = Policy(allow_without_privacy=True, metrics=("loss_sum", "confusion"))
    assert release(reply(TaskKind.EVALUATE), policy, declared).metrics == {}


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize(
    ("labs", "released"),
    # Of 45 patients with a smallest group of 10: 1 to 9 and 36 to 44 would tell of a small group.
    [(0, 0), (1, 0), (9, 0), (10, 10), (35, 35), (36, 45), (44, 45), (45, 45)],
)
def test_neither_those_who_have_a_granularity_nor_those_who_lack_it_are_counted_if_few(
    labs: int, released: int
) -> None:
    policy = Policy(allow_without_privacy=True, smallest_group=10)
    counts = released_counts({"patients": 45, "labs": labs}, policy)
    assert counts == {"patients": 45, "labs": released}


@pytest.mark.parametrize(("count", "leaves"), [(34, 34), (35, 35), (36, 45), (44, 45), (45, 45)])
def test_a_feature_that_few_lack_counts_all_who_have_its_granularity(
    declared, tiny_study, count: int, leaves: int
) -> None:
    named = dict(moments(tiny_study, 45).unpack())
    named["labs.count"] = np.array([45.0, count])
    named["labs.sum"] = np.array([3.0, -0.8 * count])
    named["labs.sum_squares"] = np.array([2.0, (0.8**2 + 0.1**2) * count])
    out = reply(TaskKind.ENROL, arrays=Arrays.pack(named, dtype=np.float64))
    left = release(out, POLICY, declared).arrays
    assert left is not None
    assert left.manifest == out.arrays.manifest
    found = left.unpack()
    assert found["labs.count"].tolist() == [45.0, leaves]
    assert found["labs.sum"][0] == 3.0
    # The normalisation that follows is that of those who have it.
    mean = found["labs.sum"][1] / leaves
    assert mean == pytest.approx(-0.8, abs=0.1 / 64)
    deviation = np.sqrt(found["labs.sum_squares"][1] / leaves - mean**2)
    assert deviation == pytest.approx(0.1, abs=0.1 / 64)


@pytest.mark.threat("S0-2")
@given(
    values=st.lists(st.integers(0, 100), min_size=36, max_size=44),
    num_lacking=st.integers(1, 9),
)
def test_how_many_lack_a_feature_is_not_in_the_digits_of_its_mean(
    values: list[int], num_lacking: int
) -> None:
    # Whole numbers in [0, 100]: their mean times their number is whole, and so tells the number.
    u = (np.array(values) - 50) / 50
    raw = Arrays.pack(
        {
            "labs.count": np.array([float(len(u))]),
            "labs.sum": np.array([u.sum()]),
            "labs.sum_squares": np.array([(u**2).sum()]),
        },
        dtype=np.float64,
    )
    counts = {"patients": len(u) + num_lacking, "labs": len(u) + num_lacking}
    left = released_moments(raw, counts, POLICY).unpack()
    mean, deviation = u.mean(), u.std()
    found = left["labs.sum"] / left["labs.count"]
    assert left["labs.count"].tolist() == [counts["labs"]]
    assert abs(found - mean) <= max(deviation, 2**-10) / 128 + 1e-12
    step = 2.0 ** np.floor(np.log2(max(deviation, 2**-10))) / 64
    assert found / step == pytest.approx(np.round(found / step), abs=1e-6)
    # What the server checks: within the range, for every patient that is counted.
    assert abs(left["labs.sum"]) <= left["labs.count"]
    assert 0 <= left["labs.sum_squares"] <= left["labs.count"] * (1 + 1e-9)
