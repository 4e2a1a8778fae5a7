"""A study's private training audited with canaries alone, before any hospital runs it."""

from typing import Protocol

from common.privacy.plan import PrivacyPlan, plan_of
from common.study import Study
from simulations.attacks.canary_training import CanaryScores, canary_scores
from simulations.attacks.finding import Finding
from simulations.attacks.gaussian_audit import NUM_CANARIES

CONFIDENCE = 0.999


class Judge(Protocol):
    """What the traces of canaries say about a claim: `finding_of` of one of the canary audits."""

    def __call__(
        self, scores: CanaryScores, plan: PrivacyPlan, *, target: str, confidence: float
    ) -> Finding:
        """The finding; the bound holds at `confidence`."""


def audit_study(
    study: Study,
    judge: Judge,
    *,
    cohort_size: int,
    seed: int,
    confidence: float = CONFIDENCE,
    num_canaries: int = NUM_CANARIES,
) -> Finding:
    """The audit of one hospital's private training as the study plans it.

    Guarantees:
        - Equal arguments give equal findings.

    Args:
        cohort_size: public number of training patients of the hospital, which the plan follows.
        confidence: of the bound, one-sided; 1 - confidence is the chance of a false alarm at most.

    Raises:
        StudyError: the study cannot be private, or no noise is enough.
    """
    plan = plan_of(study, cohort_size=cohort_size)
    scores = canary_scores(study, plan, num_canaries=num_canaries, seed=seed)
    target = f"training at a hospital of {cohort_size:,} patients, canaries alone"
    return judge(scores, plan, target=target, confidence=confidence)
