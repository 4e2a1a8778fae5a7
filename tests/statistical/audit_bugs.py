"""Bugs of private training and of accounting, put into the real code, and what the audit says.

The list was fixed before the audit was measured on it. The table of docs/attacks.md is printed by
`python -m tests.statistical.audit_bugs` (20 seeds of correct code, every bug with 3 seeds, under
two plans; some minutes of one core), and the one of claims by the same with `claims`.

Letters of shapes: P trainable parameters.
"""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from client import dp_training
from client.per_patient import clipped_gradient_sum
from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Gaussian
from common.privacy.mechanisms import NoiseSource, poisson_sample
from common.privacy.plan import PrivacyPlan, plan_of
from common.study import Study
from common.study_file import override
from simulations.attacks import gaussian_audit, one_run_audit
from simulations.attacks.canary_training import CanaryScores, canary_scores
from simulations.attacks.finding import Finding
from tests.unit.builders import study_of
from tests.unit.mutants import every_other_step_without_noise, inner_step, scaled_noise

Floats = NDArray[np.float64]
Patch = pytest.MonkeyPatch
CONFIDENCE = 0.999
COHORT = 200
NUM_CANARIES = 10_000


def _as_it_is(_: Patch) -> None:
    pass


def _claimed(plan: PrivacyPlan) -> PrivacyPlan:
    return plan


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One way to be wrong.

    Attributes:
        put_in: what the code does in place of what it should.
        claim: what is told of the plan in place of the truth.
        is_counted: whether it is one of the twelve that the issue counts.
    """

    name: str
    put_in: Callable[[Patch], None] = _as_it_is
    claim: Callable[[PrivacyPlan], PrivacyPlan] = _claimed
    is_counted: bool = True


def audited_study(*, batch_size: int) -> Study:
    """Epsilon 8 over 24 steps in 6 rounds; everybody in every step, or a tenth of the patients."""
    return study_of(
        training={"rounds": 5, "local_epochs": None, "local_steps": 4, "batch_size": batch_size},
        privacy={"mode": "patient", "epsilon": 8.0, "delta": 1e-5},
        normalisation={"method": "public_range"},
    )


STUDIES = {
    "all patients": audited_study(batch_size=COHORT),
    "a tenth": audited_study(batch_size=20),
}


def scores_of(bug: Bug | None, study: Study, seed: int) -> tuple[PrivacyPlan, CanaryScores]:
    """What the code claims, and the traces that it leaves."""
    plan = plan_of(study, cohort_size=COHORT)
    if bug is None:
        return plan, canary_scores(study, plan, num_canaries=NUM_CANARIES, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        bug.put_in(patch)
        scores = canary_scores(study, plan, num_canaries=NUM_CANARIES, seed=seed)
    return bug.claim(plan), scores


def audit(bug: Bug | None, study: Study, seed: int) -> Finding:
    """What the Gaussian audit says."""
    plan, scores = scores_of(bug, study, seed)
    return gaussian_audit.finding_of(scores, plan, target="a test", confidence=CONFIDENCE)


def _clip_times(factor: float) -> Callable[[Patch], None]:
    def clipped(*args: Any, max_grad_norm: float) -> list[Tensor]:
        return clipped_gradient_sum(*args, max_grad_norm=factor * max_grad_norm)

    return lambda patch: patch.setattr(dp_training, "clipped_gradient_sum", clipped)


def _noise_divided_twice(patch: Patch) -> None:
    def mean(sum_P: Floats, plan: PrivacyPlan, source: NoiseSource) -> Floats:
        scale = plan.noise_multiplier * plan.max_grad_norm / plan.expected_batch_size
        return (sum_P + scale * source.normal(len(sum_P))) / plan.expected_batch_size

    patch.setattr(dp_training, "_noised_mean", mean)


def _noise_reused(patch: Patch) -> None:
    """Every round draws from the same stream, from its beginning."""
    real = NoiseSource.seeded
    patch.setattr(NoiseSource, "seeded", classmethod(lambda _, __: real(7)))


def _twice_sampled(patch: Patch) -> None:
    """Everybody has two chances to be in a step."""

    def sample(source: NoiseSource, num: int, rate: float) -> NDArray[np.int64]:
        both = (poisson_sample(source, num, rate) for _ in range(2))
        return np.sort(np.concatenate(list(both)))

    patch.setattr(dp_training, "poisson_sample", sample)


def _shuffled(patch: Patch) -> None:
    """Epochs: everybody once, in batches, where samples should be independent."""
    left: list[int] = []

    def batch(source: NoiseSource, num: int, rate: float) -> NDArray[np.int64]:
        size = round(rate * num)
        if len(left) < size:
            left[:] = np.argsort(source.uniform(num)).tolist()
        taken, left[:] = left[:size], left[size:]
        return np.array(sorted(taken), dtype=np.int64)

    patch.setattr(dp_training, "poisson_sample", batch)


def _told(**changes: Callable[[PrivacyPlan], float]) -> Callable[[PrivacyPlan], PrivacyPlan]:
    """The plan with the epsilon of another history of training."""

    def claim(plan: PrivacyPlan) -> PrivacyPlan:
        steps = plan.steps_per_round * (plan.num_rounds + plan.spare_rounds)
        history: dict[str, Any] = {
            "noise_multiplier": plan.noise_multiplier,
            "sample_rate": plan.sample_rate,
            "count": steps,
        }
        history |= {name: change(plan) for name, change in changes.items()}
        told = epsilon_of([Charge(event=Gaussian(**history))], plan.delta)
        return replace(plan, epsilon=told, sample_rate=history["sample_rate"])

    return claim


BUGS = (
    Bug(name="noise × .8", put_in=scaled_noise(0.8)),
    Bug(name="noise × .5", put_in=scaled_noise(0.5)),
    Bug(name="no noise", put_in=scaled_noise(0.0)),
    Bug(name="clip × 2, noise for × 1", put_in=_clip_times(2.0)),
    Bug(name="no clip", put_in=_clip_times(1e6)),
    Bug(name="noise divided by the batch twice", put_in=_noise_divided_twice),
    Bug(name="plain gradient beside the noised one", put_in=inner_step),
    Bug(name="every other step without noise", put_in=every_other_step_without_noise),
    Bug(name="noise repeated in each round", put_in=_noise_reused),
    Bug(
        name="accounting begins anew in each round",
        claim=_told(count=lambda plan: plan.steps_per_round),
    ),
    Bug(
        name="a round is charged as one step",
        claim=_told(count=lambda plan: plan.num_rounds + plan.spare_rounds),
    ),
    Bug(
        name="sample rate told as half",
        claim=_told(sample_rate=lambda plan: plan.sample_rate / 2),
    ),
    Bug(name="noise × .9", put_in=scaled_noise(0.9), is_counted=False),
    Bug(name="patients drawn twice", put_in=_twice_sampled, is_counted=False),
    Bug(name="shuffled epochs for independent samples", put_in=_shuffled, is_counted=False),
)


def table(num_clean: int = 20, num_seeds: int = 3) -> Iterator[str]:
    """The lines of the table of docs/attacks.md."""
    yield "| plan | code | claimed | bound at 99.9 %, by seed | caught | one-run audit caught |"
    yield "|---|---|---:|---|---:|---:|"
    for name, study in STUDIES.items():
        clean = [audit(None, study, seed) for seed in range(num_clean)]
        bounds = [_known(finding) for finding in clean]
        alarms = sum(finding.succeeded for finding in clean)
        yield (
            f"| {name} | correct, {num_clean} seeds | {clean[0].epsilon_claimed:.2f} | "
            f"{min(bounds):.2f} to {max(bounds):.2f} | {alarms} of {num_clean} | |"
        )
        for bug in BUGS:
            yield _row(name, bug, study, num_seeds)


def _row(name: str, bug: Bug, study: Study, num_seeds: int) -> str:
    findings, others = [], []
    for seed in range(num_seeds):
        plan, scores = scores_of(bug, study, seed)
        named = {"target": "a test", "confidence": CONFIDENCE}
        findings.append(gaussian_audit.finding_of(scores, plan, **named))  # type: ignore[arg-type]
        others.append(one_run_audit.finding_of(scores, plan, **named))  # type: ignore[arg-type]
    shown = ", ".join(f"{_known(finding):.2f}" for finding in findings)
    star = "" if bug.is_counted else " *"
    return (
        f"| {name} | {bug.name}{star} | {findings[0].epsilon_claimed:.2f} | {shown} | "
        f"{sum(f.succeeded for f in findings)} of {num_seeds} | "
        f"{sum(f.succeeded for f in others)} of {num_seeds} |"
    )


def _known(finding: Finding) -> float:
    bound = finding.epsilon_lower_bound
    return math.nan if bound is None else bound


def claims(num_seeds: int = 5) -> Iterator[str]:
    """How close both bounds come to a claim that is true; mean and deviation over seeds."""
    yield "| claimed (delta 1e-5) | Gaussian audit | one-run audit, of what is claimed at 1e-9 |"
    yield "|---:|---:|---:|"
    for epsilon in (0.5, 1.0, 2.0, 4.0, 8.0):
        study = override(STUDIES["all patients"], privacy__epsilon=epsilon)
        by_audit: list[list[Finding]] = [[], []]
        for seed in range(num_seeds):
            plan, scores = scores_of(None, study, seed)
            for found, audit_of in zip(by_audit, (gaussian_audit, one_run_audit), strict=True):
                found.append(
                    audit_of.finding_of(scores, plan, target="a test", confidence=CONFIDENCE)
                )
        texts = []
        for found in by_audit:
            bounds = np.array([_known(finding) for finding in found])
            texts.append(f"{bounds.mean():.2f} ± {bounds.std(ddof=1):.2f}")
        yield f"| {epsilon:g} | {texts[0]} | {texts[1]} of {by_audit[1][0].epsilon_claimed:.2f} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in claims() if "claims" in sys.argv else table():
        print(line, flush=True)  # noqa: T201
