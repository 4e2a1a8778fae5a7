"""What may leave: one test for each guarantee of `release`, and for each way to break it."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.egress import Declared, release
from client.policy import Policy
from client.withholding import released_counts, released_moments
from common.arrays import Arrays, Block
from common.errors import Refusal, RefusalCode
from common.messages import Reply, TaskKind
from common.metrics.classification import ClassStatistics
from common.metrics.evaluation import statistics_of, to_flat
from common.normalisation import moments_manifest
from common.study import Study
from common.study_file import override
from tests.unit.builders import study_of

POLICY = Policy(allow_without_privacy=True, smallest_group=10, max_update_norm=100.0)
UPDATE = (
    Block(name="encoders.labs.hidden.weight", shape=(2, 2)),
    Block(name="encoders.lifestyle.hidden.weight", shape=(3,)),
    Block(name="heads.event.linear.bias", shape=(1,)),
)
ENOUGH = {"patients": 45, "labs": 45, "lifestyle": 45, "event": 45}


@pytest.fixture
def declared(tiny_study) -> Declared:
    return Declared.of(tiny_study, update=UPDATE, moments=moments_manifest(tiny_study))


def sums(num_patients: int, outcome: str = "event") -> dict[str, tuple[float, ...]]:
    scores_B = np.linspace(0, 1, num_patients)
    scores_BC = np.stack([1 - scores_B, scores_B], axis=1)
    labels = {
        "known_B": np.ones(num_patients, dtype=np.bool_),
        "label_B": np.arange(num_patients) % 2,
    }
    statistics = ClassStatistics(num_classes=2, score_bins=10)
    return to_flat({outcome: statistics.sums_of(scores_BC, labels)})


def reply(kind: TaskKind = TaskKind.TRAIN, **fields: object) -> Reply:
    update = Arrays(manifest=UPDATE, flat=np.arange(1, 9, dtype=np.float32))
    honest = {
        TaskKind.TRAIN: {"arrays": update, "counts": ENOUGH, "metrics": sums(15)},
        TaskKind.EVALUATE: {"metrics": sums(15)},
        TaskKind.ENROL: {"counts": ENOUGH},
    }[kind]
    return Reply(kind=kind, run_id="r", round=1, nonce="n", site="alpha", **(honest | fields))


def moments(tiny_study, count: float) -> Arrays:
    manifest = moments_manifest(tiny_study)
    named = {b.name: np.full(b.shape, count if b.name.endswith("count") else 0.5) for b in manifest}
    return Arrays.pack(named, dtype=np.float64)


def code_of(out: Reply, declared: Declared, policy: Policy = POLICY) -> str:
    with pytest.raises(Refusal) as caught:
        release(out, policy, declared)
    return caught.value.refusal_code


# Only declared counts, statistics and arrays leave, in their declared shapes, finite.


@pytest.mark.parametrize("kind", [TaskKind.TRAIN, TaskKind.EVALUATE])
def test_an_honest_reply_leaves_as_it_is(declared, kind: TaskKind) -> None:
    assert release(reply(kind), POLICY, declared) == reply(kind)


def test_honest_moments_leave_as_they_are(declared, tiny_study) -> None:
    out = reply(TaskKind.ENROL, arrays=moments(tiny_study, 45))
    left = release(out, POLICY, declared)
    assert left.arrays is not None
    assert left.arrays.manifest == out.arrays.manifest
    assert left.arrays.flat.tobytes() == out.arrays.flat.tobytes()


def arrays(manifest: tuple[Block, ...], dtype: type = np.float32) -> Arrays:
    size = sum(block.size for block in manifest)
    return Arrays(manifest=manifest, flat=np.ones(size, dtype=dtype))


@pytest.mark.threat("S0-2", "I-1")
@pytest.mark.parametrize(
    "out",
    [
        reply(arrays=None),
        reply(arrays=arrays(UPDATE[:2])),
        reply(arrays=arrays(UPDATE[::-1])),
        reply(arrays=arrays((*UPDATE, Block(name="patients", shape=(60, 5))))),
        reply(arrays=arrays((replace(UPDATE[0], shape=(4,)), *UPDATE[1:]))),
        reply(arrays=arrays(UPDATE, np.float64)),
        reply(TaskKind.EVALUATE, arrays=arrays(UPDATE)),
        reply(TaskKind.ENROL, arrays=arrays(UPDATE)),
        reply(TaskKind.ENROL),
        reply(counts=ENOUGH | {"women": 20}),
        reply(counts=ENOUGH | {"labs": -1}),
        reply(metrics=sums(15) | {"mean_age": (54.0,)}),
        reply(metrics=sums(15) | {"event.loss_sum": (1.0, 54.0)}),
        reply(metrics=sums(15) | {"event.loss_sum": ()}),
        reply(metrics=sums(15) | {"event.loss_sum": (float("nan"),)}),
        reply(metrics=sums(15) | {"loss_sum": (1.0,)}),
        reply(metrics=sums(15, "death")),
        reply(metrics=sums(15, "personal.event")),
        reply(metrics=sums(15) | {"event.mean_age": (54.0,)}),
        reply(metrics=sums(15) | {"seconds_training": (1.0, 2.0)}),
    ],
    ids=range(20),
)
def test_nothing_that_is_not_declared_leaves(declared, out: Reply) -> None:
    assert code_of(out, declared) == RefusalCode.EGRESS_BLOCKED


def test_no_moments_leave_where_the_study_does_not_ask_for_them(tiny_study) -> None:
    study = override(tiny_study, normalisation__method="public_range")
    declared = Declared.of(study, update=UPDATE, moments=moments_manifest(study))
    out = reply(TaskKind.ENROL, arrays=moments(study, 45))
    assert code_of(out, declared) == RefusalCode.EGRESS_BLOCKED
    assert release(reply(TaskKind.ENROL), POLICY, declared) == reply(TaskKind.ENROL)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_update_leaves_that_is_not_finite(declared, value: float) -> None:
    flat = np.ones(8, dtype=np.float32)
    flat[3] = value
    out = reply(arrays=Arrays(manifest=UPDATE, flat=flat))
    assert code_of(out, declared) == RefusalCode.UPDATE_NOT_FINITE


@pytest.mark.threat("S0-2")
@given(name=st.text(max_size=10), values=st.lists(st.floats(), max_size=3))
def test_no_statistic_leaves_under_a_name_that_is_not_declared(
    tiny_study, name: str, values: list[float]
) -> None:
    declared = Declared.of(tiny_study, update=UPDATE, moments=moments_manifest(tiny_study))
    if name not in declared.metrics:
        assert code_of(reply(metrics={name: tuple(values)}), declared) == "egress_blocked"


# A refusal carries a code and nothing else.


@pytest.mark.threat("I-1")
@given(kind=st.sampled_from(list(TaskKind)), code=st.sampled_from(list(RefusalCode)))
def test_a_refusal_carries_a_code_and_nothing_else(
    tiny_study, kind: TaskKind, code: RefusalCode
) -> None:
    declared = Declared.of(tiny_study, update=UPDATE, moments=moments_manifest(tiny_study))
    left = release(reply(kind, status=code.value), POLICY, declared)
    assert (left.arrays, left.counts, left.metrics) == (None, {}, {})
    assert left.status == code.value


# A count of 1 to smallest_group - 1 leaves as 0, and the update of that granularity's encoder as
# zeros; statistics over so few held-out patients do not leave.


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
def test_only_the_statistics_on_the_list_of_the_policy_leave(declared) -> None:
    policy = Policy(allow_without_privacy=True, metrics=("loss_sum", "num_patients"))
    metrics = sums(15) | {"seconds_evaluation": (0.1,)}
    left = release(reply(TaskKind.EVALUATE, metrics=metrics), policy, declared)
    assert set(left.metrics) == {"event.loss_sum", "event.num_patients"}


# The same of two outcomes, and of the site's own model.

TWO = {
    "event": {"column": "event", "kind": "binary", "classes": ["no", "yes"]},
    "death": {"column": "death", "kind": "binary", "classes": ["no", "yes"]},
}


@pytest.fixture
def two_outcomes() -> Declared:
    study = study_of(outcomes=TWO, personal={"fine_tune_steps": 1})
    return Declared.of(override(study, evaluation__score_bins=10), update=UPDATE, moments=())


@pytest.mark.parametrize(
    ("metrics", "leave"),
    [
        (("*",), ["event.confusion", "death.confusion", "personal.event.confusion"]),
        (
            ("num_patients", "confusion"),
            ["event.confusion", "death.confusion", "personal.event.confusion"],
        ),
        (("num_patients", "event.confusion"), ["event.confusion"]),
        (("event.num_patients", "confusion"), ["event.confusion"]),
        (("num_patients", "personal.event.confusion"), ["personal.event.confusion"]),
        (("num_patients", "birth.confusion"), []),
    ],
)
def test_a_statistic_is_allowed_by_its_plain_name_of_every_outcome_or_of_one(
    two_outcomes: Declared, metrics: tuple[str, ...], leave: list[str]
) -> None:
    policy = Policy(allow_without_privacy=True, metrics=metrics)
    worked = sums(15) | sums(15, "death") | sums(15, "personal.event")
    left = release(reply(TaskKind.EVALUATE, metrics=worked), policy, two_outcomes).metrics
    assert sorted(name for name in left if name.endswith("confusion")) == sorted(leave)
    assert all(left[name] == worked[name] for name in left)


def test_an_outcome_known_of_few_held_out_patients_is_withheld_and_the_others_are_not(
    two_outcomes: Declared,
) -> None:
    worked = sums(15) | sums(9, "death") | sums(15, "personal.event")
    left = release(reply(TaskKind.EVALUATE, metrics=worked), POLICY, two_outcomes).metrics
    assert left == sums(15) | sums(15, "personal.event")


def test_an_allow_list_cannot_widen_what_is_declared(declared) -> None:
    policy = Policy(allow_without_privacy=True, metrics=("*", "mean_age"))
    out = reply(metrics={"mean_age": (54.0,)})
    assert code_of(out, declared, policy) == RefusalCode.EGRESS_BLOCKED


# The L2 norm of an update is at most max_update_norm.


@pytest.mark.threat("S0-1")
@given(
    flat=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8
    ),
    bound=st.floats(1e-6, 1e6),
)
def test_the_norm_of_an_update_is_at_most_the_bound_and_its_direction_stays(
    tiny_study, flat: list[float], bound: float
) -> None:
    declared = Declared.of(tiny_study, update=UPDATE, moments=moments_manifest(tiny_study))
    policy = Policy(allow_without_privacy=True, max_update_norm=bound)
    update = Arrays(manifest=UPDATE, flat=np.asarray(flat, dtype=np.float32))
    left = release(reply(arrays=update), policy, declared).arrays
    assert left is not None
    assert left.norm <= bound
    if update.norm <= bound:
        assert left.flat.tobytes() == update.flat.tobytes()
    else:
        assert left.norm >= bound * (1 - 1e-5)
        scale = bound / update.norm
        assert np.allclose(left.flat, update.flat.astype(np.float64) * scale, rtol=1e-4)


def test_an_update_of_norm_five_is_scaled_to_two_and_a_half_and_this_is_logged(
    declared, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy(allow_without_privacy=True, max_update_norm=2.5)
    update = Arrays(manifest=UPDATE, flat=np.asarray([3, 4, 0, 0, 0, 0, 0, 0], dtype=np.float32))
    with caplog.at_level(logging.WARNING, logger="client.withholding"):
        left = release(reply(arrays=update), policy, declared).arrays
    assert left is not None
    assert left.flat[:2].tolist() == pytest.approx([1.5, 2.0], rel=1e-5)
    assert "max_update_norm" in caplog.text


def test_what_leaves_shares_no_memory_that_the_site_could_change_later(declared) -> None:
    flat = np.full(8, 50.0, dtype=np.float32)
    out = reply(arrays=Arrays(manifest=UPDATE, flat=flat))
    left = release(out, POLICY, declared).arrays
    assert left is not None
    assert not left.flat.flags.writeable


def test_the_declaration_knows_every_statistic_of_an_evaluation(
    declared, tiny_study: Study
) -> None:
    nobody = {name: s.zero() for name, s in statistics_of(tiny_study).items()}
    zero = to_flat(nobody)
    assert {name: len(values) for name, values in zero.items()}.items() <= declared.metrics.items()
    assert set(declared.metrics) - set(zero) == {"seconds_training", "seconds_evaluation"}


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
