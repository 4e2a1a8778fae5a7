"""What may leave: one test for each guarantee of `release`, and for each way to break it."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.egress import Declared, release
from client.policy import Policy
from common.arrays import Arrays, Block
from common.errors import RefusalCode
from common.messages import Reply, TaskKind
from common.metrics.evaluation import statistics_of, to_flat
from common.normalisation import moments_manifest
from common.study import Study
from common.study_file import override
from tests.unit.builders import study_of
from tests.unit.egress_cases import ENOUGH, POLICY, UPDATE, code_of, moments, reply, sums

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
