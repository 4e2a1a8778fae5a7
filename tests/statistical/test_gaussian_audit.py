"""The Gaussian canary audit: no alarm for correct code, an alarm for broken code.

Some seeds and bugs here; the twenty seeds and all bugs where `WARDROUND_HYPOTHESIS` is "full". The
measured table is in docs/attacks.md.
"""

import math
import os

import numpy as np
import pytest

from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Gaussian
from common.privacy.plan import plan_of
from simulations.attacks.canary_training import CanaryScores, canary_scores
from simulations.attacks.gaussian_audit import (
    LEAST_P_VALUE,
    Traces,
    epsilon_lower_bound,
    finding_of,
    normality_of,
    traces_of,
)
from simulations.attacks.study_audit import audit_study
from tests.statistical.audit_bugs import BUGS, COHORT, STUDIES, Bug, audit
from tests.unit.builders import patients_of, study_of

IS_FULL = os.environ.get("WARDROUND_HYPOTHESIS") == "full"
COUNTED = [bug for bug in BUGS if bug.is_counted]
NUM_CLEAN = 20 if IS_FULL else 1
# One bug of noise, one of clip.
SOME = [bug for bug in COUNTED if bug.name in ("noise × .8", "clip × 2, noise for × 1")]
DELTA = 1e-5


def drawn(
    *, sigma: float, rate: float, num_steps: int, seed: int = 0, num_canaries: int = 10_000
) -> CanaryScores:
    """What a perfect mechanism would leave: four rounds of steps, drawn from the definition."""
    random = np.random.default_rng(seed)
    is_in_N = random.uniform(size=num_canaries) < 0.5
    shape = (num_canaries, 4)
    counts = random.binomial(num_steps // 4, rate, shape) * is_in_N[:, None]
    noise = random.normal(scale=sigma * math.sqrt(num_steps / 4), size=shape)
    return CanaryScores(score_NR=counts + noise, is_in_N=is_in_N, num_steps=num_steps)


def bound_of(scores: CanaryScores, rate: float) -> float:
    return epsilon_lower_bound(traces_of(scores), DELTA, sample_rate=rate, confidence=0.999)


@pytest.mark.parametrize("name", STUDIES)
def test_correct_code_raises_no_alarm(name: str) -> None:
    findings = [audit(None, STUDIES[name], seed) for seed in range(NUM_CLEAN)]
    assert not any(finding.succeeded or finding.breaks_claim for finding in findings)
    # Nor is the bound empty: it is a good part of the claim.
    for finding in findings:
        assert finding.epsilon_lower_bound > 0.5 * finding.epsilon_claimed


@pytest.mark.threat("S0-1", "R-1")
@pytest.mark.parametrize("bug", SOME, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_is_caught(bug: Bug) -> None:
    assert audit(bug, STUDIES["all patients"], 0).succeeded


@pytest.mark.skipif(not IS_FULL, reason="all bugs under both plans: WARDROUND_HYPOTHESIS=full")
@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("seed", range(3))
def test_ten_of_twelve_bugs_are_caught(name: str, seed: int) -> None:
    assert len(COUNTED) == 12
    assert sum(audit(bug, STUDIES[name], seed).succeeded for bug in COUNTED) >= 10


@pytest.mark.parametrize(("sigma", "rate", "num_steps"), [(3.0, 1.0, 8), (0.8, 0.1, 40)])
def test_the_bound_is_below_the_truth_and_a_fifth_less_noise_is_above_the_claim(
    sigma: float, rate: float, num_steps: int
) -> None:
    event = Gaussian(noise_multiplier=sigma, sample_rate=rate, count=num_steps)
    truth = epsilon_of([Charge(event=event)], DELTA)
    right = drawn(sigma=sigma, rate=rate, num_steps=num_steps)
    wrong = drawn(sigma=0.8 * sigma, rate=rate, num_steps=num_steps)
    assert 0.5 * truth < bound_of(right, rate) < truth < bound_of(wrong, rate)


def test_a_single_gaussian_has_the_epsilon_of_its_shift() -> None:
    # mu = 2 exactly, no error: sigma = 1/2 over one step, and over four steps of sigma 1.
    expected = epsilon_of([Charge(event=Gaussian(noise_multiplier=0.5))], DELTA)
    for num_steps in (1, 4):
        traces = Traces(
            shift=2.0, shift_error=0.0, excess=0.0, excess_error=0.0, num_steps=num_steps
        )
        bound = epsilon_lower_bound(traces, DELTA, sample_rate=1.0, confidence=0.999)
        assert bound == pytest.approx(expected, rel=2e-3)


def test_no_shift_is_no_bound_and_no_noise_is_an_infinite_one() -> None:
    none = Traces(shift=0.01, shift_error=0.02, excess=0.0, excess_error=0.1, num_steps=9)
    assert epsilon_lower_bound(none, DELTA, sample_rate=0.5, confidence=0.999) == 0.0
    is_in_N = np.arange(100) < 50
    certain = CanaryScores(
        score_NR=np.where(is_in_N, 1.0, 0.0)[:, None], is_in_N=is_in_N, num_steps=1
    )
    assert bound_of(certain, 1.0) == math.inf


def test_noise_that_is_not_normal_is_told_and_gives_no_bound() -> None:
    plan = plan_of(STUDIES["all patients"], cohort_size=COHORT)
    random = np.random.default_rng(0)
    is_in_N = random.uniform(size=10_000) < 0.5
    uniform = random.uniform(-5, 5, (10_000, 1)) + is_in_N[:, None]
    scores = CanaryScores(score_NR=uniform, is_in_N=is_in_N, num_steps=1)
    assert normality_of(scores) < LEAST_P_VALUE
    assert normality_of(drawn(sigma=1.0, rate=1.0, num_steps=4)) > LEAST_P_VALUE
    finding = finding_of(scores, plan, target="a test", confidence=0.999)
    assert finding.epsilon_lower_bound is None
    assert finding.succeeded
    assert not finding.breaks_claim


def test_canaries_among_patients_leave_the_traces_of_canaries_alone() -> None:
    study = study_of(
        training={"rounds": 3, "local_epochs": None, "local_steps": 1, "batch_size": 60},
        privacy={"mode": "patient", "epsilon": 8.0, "delta": DELTA},
        normalisation={"method": "public_range"},
    )
    plan = plan_of(study, cohort_size=60)
    among = canary_scores(study, plan, num_canaries=400, seed=3, patients=patients_of(study, 60))
    assert among.num_steps == 4
    # Everybody is in every step: sqrt(4) over the noise multiplier, within its error (5 of them).
    traces = traces_of(among)
    assert abs(traces.shift - 2 / plan.noise_multiplier) < 5 * traces.shift_error


def test_a_study_without_privacy_has_no_claim_to_break() -> None:
    finding = audit_study(study_of(), finding_of, cohort_size=50, seed=0, num_canaries=200)
    assert finding.epsilon_claimed == finding.epsilon_lower_bound == math.inf
    assert not finding.succeeded
    assert not finding.breaks_claim


def test_equal_seeds_give_equal_findings() -> None:
    study = STUDIES["all patients"]
    one, same, other = (
        audit_study(study, finding_of, cohort_size=COHORT, seed=seed, num_canaries=500)
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one.measures["mu"] != other.measures["mu"]


@pytest.mark.parametrize("confidence", [0.5, 1.0])
def test_a_confidence_out_of_its_range_is_an_error(confidence: float) -> None:
    plan = plan_of(study_of(), cohort_size=50)
    scores = drawn(sigma=1.0, rate=1.0, num_steps=4, num_canaries=50)
    with pytest.raises(ValueError, match="expected a confidence"):
        finding_of(scores, plan, target="a test", confidence=confidence)
