"""The plan of a private run: enough noise, never too little, and charges that agree with it."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StudyError
from common.plan import Evaluation
from common.privacy.accounting import epsilon_of
from common.privacy.calibration import with_least_noise
from common.privacy.events import Charge, Gaussian, Part, Unprotected
from common.privacy.plan import check_private, describe, plan_of, split_of
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, study_of

DELTA = 1e-4
PUBLIC = {"method": "public_range"}


def private_study(*, normalisation: str = "federated", **fields: Any) -> Study:
    """The small study under mode "patient"; `fields` of training, the others of privacy."""
    training = {"rounds": 10, "local_epochs": 1, "batch_size": 16}
    for key in ("rounds", "batch_size"):
        training[key] = fields.pop(key, training[key])
    given = {"delta": DELTA, **({} if "noise_multiplier" in fields else {"epsilon": 3.0}), **fields}
    return study_of(
        training=training,
        privacy={"mode": "patient", **given},
        normalisation={"method": normalisation},
    )


def cost_of(sigma: float, rate: float = 1.0, count: int = 1) -> float:
    event = Gaussian(noise_multiplier=sigma, sample_rate=rate, count=count)
    return epsilon_of([Charge(event=event)], DELTA)


@settings(max_examples=8)
@given(
    epsilon=st.floats(0.01, 200.0),
    cohort_size=st.integers(1, 500),
    rounds=st.integers(1, 40),
    batch_size=st.integers(4, 64),
    spare_rounds=st.integers(0, 3),
    normalisation=st.sampled_from(["federated", "public_range"]),
)
def test_the_whole_run_costs_at_most_the_target_and_not_much_less(
    epsilon: float, cohort_size: int, **fields: Any
) -> None:
    study = private_study(epsilon=epsilon, **fields)
    plan = plan_of(study, cohort_size=cohort_size)
    assert plan.epsilon == epsilon_of(plan.whole(), plan.delta)
    assert plan.epsilon <= epsilon
    training = [charge for charge in plan.whole() if charge.part is Part.TRAIN]
    assert epsilon_of(training, plan.delta) <= epsilon
    if plan.noise_multiplier > 0.01:
        assert epsilon_of(training, plan.delta) >= 0.98 * epsilon


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("cohort_size", [5, 46, 5000])
def test_the_smallest_and_largest_epsilon_are_met(epsilon: float, cohort_size: int) -> None:
    plan = plan_of(private_study(epsilon=epsilon), cohort_size=cohort_size)
    assert 0.98 * epsilon <= plan.epsilon <= epsilon


@pytest.mark.parametrize("normalisation", ["federated", "public_range"])
def test_not_even_the_evaluation_costs_more_than_a_tiny_target(normalisation: str) -> None:
    plan = plan_of(private_study(epsilon=0.004, normalisation=normalisation), cohort_size=300)
    assert plan.epsilon <= 0.004


def test_a_cap_below_the_target_of_the_study_is_the_target() -> None:
    plan = plan_of(private_study(epsilon=3.0), cohort_size=100, epsilon_cap=0.5)
    assert 0.49 <= plan.epsilon <= 0.5
    laxer = plan_of(private_study(epsilon=3.0), cohort_size=100, epsilon_cap=50.0)
    assert laxer == plan_of(private_study(epsilon=3.0), cohort_size=100)


def test_whole_is_an_enrolment_every_round_and_spare_round_and_one_evaluation() -> None:
    study = private_study(rounds=4, spare_rounds=2)
    plan = plan_of(study, cohort_size=40)
    # 40 patients in batches of 16: 3 steps a round.
    steps = Gaussian(noise_multiplier=plan.noise_multiplier, sample_rate=0.4, count=3)
    assert plan.moments_noise_multiplier is not None
    moments = Gaussian(noise_multiplier=plan.moments_noise_multiplier)
    evaluation = Gaussian(noise_multiplier=plan.evaluation_noise_multiplier)
    split = split_of(study.evaluation)
    train = Charge(event=steps, part=Part.TRAIN, split=split)
    assert plan.charges_of("query") == (Charge(event=moments, part=Part.TRAIN, split=split),)
    assert plan.charges_of("train") == (train,)
    assert plan.charges_of("evaluate") == (Charge(event=evaluation, part=Part.TEST, split=split),)
    rounds = replace(train, event=replace(steps, count=6 * 3))
    assert plan.whole() == (*plan.charges_of("query"), rounds, *plan.charges_of("evaluate"))


def test_a_kind_of_task_that_there_is_not_is_an_error() -> None:
    with pytest.raises(ValueError, match="kind of task"):
        plan_of(private_study(), cohort_size=40).charges_of("predict")


@pytest.mark.parametrize(
    ("cohort_size", "batch_size", "rate", "expected", "steps"),
    [
        (100, 16, 0.16, 16.0, 7),
        (16, 16, 1.0, 16.0, 1),
        (10, 16, 1.0, 10.0, 1),
        (1, 16, 1.0, 1.0, 1),
        (101, 1, 1 / 101, 1.0, 101),
    ],
)
def test_the_sample_rate_is_the_batch_over_the_public_number_of_patients(
    cohort_size: int, batch_size: int, rate: float, expected: float, steps: int
) -> None:
    plan = plan_of(private_study(batch_size=batch_size), cohort_size=cohort_size)
    assert plan.sample_rate == pytest.approx(rate, rel=1e-12)
    assert plan.expected_batch_size == pytest.approx(expected, rel=1e-12)
    assert plan.steps_per_round == steps


def test_moments_cost_at_most_their_share_and_none_are_released_of_public_ranges() -> None:
    plan = plan_of(private_study(epsilon=2.0, statistics_share=0.2), cohort_size=100)
    assert plan.moments_noise_multiplier is not None
    assert 0.98 * 0.4 <= cost_of(plan.moments_noise_multiplier) <= 0.4
    without = plan_of(private_study(normalisation="public_range", epsilon=2.0), cohort_size=100)
    assert without.moments_noise_multiplier is None
    assert without.charges_of("query") == ()
    assert without.noise_multiplier < plan.noise_multiplier


def test_held_out_patients_pay_as_much_as_those_in_training() -> None:
    plan = plan_of(private_study(epsilon=2.0), cohort_size=100)
    assert 0.98 * 2.0 <= cost_of(plan.evaluation_noise_multiplier) <= 2.0
    assert plan.epsilon <= 2.0


def test_no_noise_is_below_the_floor_of_the_policy() -> None:
    study = private_study(epsilon=100.0)
    free = plan_of(study, cohort_size=100)
    assert free.moments_noise_multiplier is not None
    assert max(free.noise_multiplier, free.evaluation_noise_multiplier) < 4.0
    plan = plan_of(study, cohort_size=100, min_noise_multiplier=4.0)
    assert plan.noise_multiplier == 4.0
    assert plan.evaluation_noise_multiplier == 4.0
    assert plan.moments_noise_multiplier == 4.0
    assert plan.epsilon < free.epsilon
    low = plan_of(study, cohort_size=100, min_noise_multiplier=free.noise_multiplier / 2)
    assert low.noise_multiplier == pytest.approx(free.noise_multiplier, rel=0.01)


def test_the_noise_that_a_study_gives_is_used_and_the_rest_follows_from_it() -> None:
    plan = plan_of(private_study(noise_multiplier=2.0), cohort_size=100)
    assert plan.noise_multiplier == 2.0
    assert plan.moments_noise_multiplier is not None
    alone = cost_of(2.0, plan.sample_rate, 11 * plan.steps_per_round)
    assert 0.98 * 0.1 * alone <= cost_of(plan.moments_noise_multiplier) <= 0.1 * alone
    training = [charge for charge in plan.whole() if charge.part is Part.TRAIN]
    assert plan.epsilon == epsilon_of(training, DELTA) > alone
    assert 0.98 * plan.epsilon <= cost_of(plan.evaluation_noise_multiplier) <= plan.epsilon


def test_the_noise_that_a_study_gives_is_a_floor_under_a_lower_cap_and_a_higher_floor() -> None:
    study = private_study(noise_multiplier=2.0)
    free = plan_of(study, cohort_size=100)
    capped = plan_of(study, cohort_size=100, epsilon_cap=free.epsilon / 2)
    assert 0.98 * free.epsilon / 2 <= capped.epsilon <= free.epsilon / 2
    assert capped.noise_multiplier > 2.0
    barely = plan_of(study, cohort_size=100, epsilon_cap=0.999 * free.epsilon)
    assert barely.epsilon <= 0.999 * free.epsilon
    assert barely.noise_multiplier >= 2.0
    assert plan_of(study, cohort_size=100, min_noise_multiplier=3.0).noise_multiplier == 3.0
    assert plan_of(study, cohort_size=100, min_noise_multiplier=1.0).noise_multiplier == 2.0


def test_noise_that_costs_nothing_still_leaves_an_evaluation_that_can_be_paid() -> None:
    study = private_study(noise_multiplier=9000.0, batch_size=1, rounds=1, statistics_share=0.5)
    plan = plan_of(study, cohort_size=1)
    assert cost_of(plan.noise_multiplier, plan.sample_rate, 2 * plan.steps_per_round) == 0.0
    assert plan.epsilon <= 0.02
    assert math.isfinite(plan.evaluation_noise_multiplier)


def test_a_target_that_no_sane_noise_meets_is_an_error_that_says_so() -> None:
    study = private_study(epsilon=0.01, rounds=100_000, delta=1e-9)
    with pytest.raises(StudyError, match="Allow a larger epsilon"):
        plan_of(study, cohort_size=10)


@pytest.mark.parametrize("cap", [0.0, -1.0, math.nan])
def test_a_budget_that_is_spent_is_an_error(cap: float) -> None:
    with pytest.raises(StudyError, match="some epsilon to be left"):
        plan_of(private_study(), cohort_size=10, epsilon_cap=cap)


@pytest.mark.parametrize(
    ("cohort_size", "floor"), [(0, 0.0), (10, -1.0), (10, math.nan), (10, math.inf)]
)
def test_a_cohort_or_floor_that_makes_no_sense_is_an_error(cohort_size: int, floor: float) -> None:
    with pytest.raises(ValueError, match="cohort_size of 1 or more"):
        plan_of(private_study(), cohort_size=cohort_size, min_noise_multiplier=floor)


@pytest.mark.parametrize(
    "privacy",
    [{"mode": "none"}, {"mode": "site", "epsilon": 1.0, "delta": 1e-3}],
)
def test_without_privacy_for_patients_the_plan_is_none_and_every_charge_unprotected(
    privacy: dict[str, Any],
) -> None:
    plan = plan_of(study_of(privacy=privacy, normalisation=PUBLIC), cohort_size=40)
    assert (plan.mode, plan.epsilon, plan.noise_multiplier) == ("none", math.inf, 0.0)
    for kind in ("query", "train", "evaluate"):
        assert [charge.event for charge in plan.charges_of(kind)] == [Unprotected()]
    assert epsilon_of(plan.whole(), DELTA) == math.inf


def test_the_split_is_a_digest_of_what_decides_who_is_held_out() -> None:
    base = Evaluation()
    assert len(split_of(base)) == 16
    assert int(split_of(base), 16) >= 0
    assert split_of(Evaluation(score_bins=50)) == split_of(base)
    others = [
        Evaluation(split_column="part"),
        Evaluation(test_fraction=0.3),
        Evaluation(split_seed=1),
        Evaluation(validation_fold=0),
        Evaluation(validation_fold=1),
        Evaluation(validation_fold=1, folds=4),
    ]
    assert len({split_of(e) for e in [base, *others]}) == 7


COX = {"death": {**MORE_OUTCOMES["death"], "loss": "cox"}}
PATIENT = {"mode": "patient", "epsilon": 1.0, "delta": DELTA}
SITE = {"mode": "site", "epsilon": 1.0, "delta": DELTA}


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"privacy": PATIENT, "outcomes": COX}, "outcomes.death.loss: .*compares patients"),
        ({"privacy": PATIENT, "training": {"balance": "resample"}}, "class_weights"),
        ({"privacy": PATIENT, "model": {"site_intercept_sd": 0.5}}, "local_blocks"),
        ({"privacy": SITE, "normalisation": {"method": "federated"}}, "public_range"),
        (
            {"privacy": SITE, "normalisation": PUBLIC, "strategy": {"combine": "median"}},
            "strategy.combine",
        ),
    ],
)
def test_a_study_that_cannot_be_private_is_refused_with_the_reason(
    sections: dict[str, Any], reason: str
) -> None:
    study = study_of(**sections)
    with pytest.raises(StudyError, match=reason):
        check_private(study)
    with pytest.raises(StudyError, match=reason):
        plan_of(study, cohort_size=40)
    if sections["privacy"] is PATIENT:
        check_private(study_of(**{**sections, "privacy": {"mode": "none"}}))


def test_every_reason_is_told_at_once() -> None:
    study = study_of(
        privacy=PATIENT,
        outcomes=COX,
        training={"balance": "resample"},
        model={"site_intercept_sd": 1},
    )
    with pytest.raises(StudyError, match=r"(?s)found 3 .*cox.*balance.*site_intercept_sd"):
        check_private(study)


def test_studies_that_can_be_private_pass() -> None:
    check_private(study_of(privacy=PATIENT, outcomes={"death": MORE_OUTCOMES["death"]}))
    check_private(study_of(privacy=SITE, normalisation=PUBLIC))
    check_private(study_of())


def test_a_plan_is_described_with_its_adjacency_and_all_that_epsilon_depends_on() -> None:
    plan = plan_of(private_study(epsilon=3.0), cohort_size=100)
    lines = dict(describe(plan))
    assert lines["adjacency"] == "add or remove one patient"
    assert lines["noise multiplier"] == f"{plan.noise_multiplier:g}"
    assert lines["steps"] == "77 (10 + 1 spare rounds of 7)"
    assert lines["sample rate"] == "0.16 (Poisson)"
    assert {"epsilon", "delta", "clip", "accountant"} <= set(lines)
    assert dict(describe(plan_of(study_of(), cohort_size=40)))["epsilon"] == "infinite"
    public = private_study(epsilon=3.0, normalisation="public_range")
    described = dict(describe(plan_of(public, cohort_size=100)))
    assert described["noise of moments"] == "none are released"


def test_an_event_that_is_quiet_enough_is_left_as_it_is() -> None:
    event = Gaussian(noise_multiplier=30.0)
    assert with_least_noise(event, 1.0, DELTA) == event
