"""What one site does in a private run of a study, and what it costs: one frozen plan of both.

The noise of a plan follows from the study, the site's public number of training patients and the
floor of its policy; its charges follow from the plan. Nothing here looks at a patient.
"""

import hashlib
import json
import math
from dataclasses import dataclass, replace

from common.errors import StudyError
from common.outcomes import SurvivalOutcome
from common.plan import Evaluation
from common.privacy.accounting import epsilon_of
from common.privacy.calibration import Demand, Noise, noise_of
from common.privacy.events import Charge, Event, Gaussian, Part, Unprotected
from common.privacy.sections import PatientPrivacy, SitePrivacy
from common.study import Study

ADJACENCY = "add or remove one patient"
ACCOUNTANT = "privacy loss distribution (PLD), rounded up"
_KINDS = ("query", "train", "evaluate")


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What one site does to its patients in one run, under any mode of privacy.

    Guarantees:
        - `whole` is what `charges_of` says of one enrolment, every round (spare ones included) and
          one evaluation, and `epsilon` is what that costs.
        - Under mode "patient", epsilon is at most the study's, and at most the site's cap.
        - Without privacy for patients, every charge is `Unprotected`, and epsilon is infinite.

    Attributes:
        mode: "patient", or "none" where no patient is protected (the study's modes "none" and
            "site").
        epsilon, delta: of the whole run, for adding or removing one patient.
        noise_multiplier: of each step of training, in units of `max_grad_norm`; 0: no noise.
        sample_rate: q, the chance of each patient, independently, to be in a step.
        expected_batch_size: q times the public number of patients; what sums are divided by.
        spare_rounds: the rounds that may be trained once more.
        moments_noise_multiplier: of the moments for normalisation; None: none are released.
        evaluation_noise_multiplier: of the counts of held-out patients' scores, released once.
        split: says who is held out: plans of equal `split` hold out the same patients.
        adjacency: what epsilon is about.
    """

    mode: str
    epsilon: float
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    expected_batch_size: float
    steps_per_round: int
    num_rounds: int
    spare_rounds: int
    moments_noise_multiplier: float | None
    evaluation_noise_multiplier: float
    split: str
    adjacency: str = ADJACENCY

    def charges_of(self, kind: str) -> tuple[Charge, ...]:
        """What one task costs.

        Args:
            kind: "query" (enrolment), "train" (one round) or "evaluate" (after the last round).

        Raises:
            ValueError: another kind.
        """
        if kind not in _KINDS:
            raise ValueError(f"expected a kind of task ({', '.join(_KINDS)}), found '{kind}'")
        part = Part.TEST if kind == "evaluate" else Part.TRAIN
        event: Event
        if self.mode != "patient":
            # A plain run also tells of held-out patients in every round.
            part, event = Part.ALL, Unprotected()
        elif kind == "train":
            event = Gaussian(
                noise_multiplier=self.noise_multiplier,
                sample_rate=self.sample_rate,
                count=self.steps_per_round,
            )
        elif kind == "evaluate":
            event = Gaussian(noise_multiplier=self.evaluation_noise_multiplier)
        elif self.moments_noise_multiplier is None:
            return ()
        else:
            event = Gaussian(noise_multiplier=self.moments_noise_multiplier)
        return (Charge(event=event, part=part, split=self.split),)

    def whole(self) -> tuple[Charge, ...]:
        """All that one run may do: an enrolment, all rounds and the spare ones, an evaluation."""
        num_rounds = self.num_rounds + self.spare_rounds
        rounds = (_times(charge, num_rounds) for charge in self.charges_of("train"))
        return (*self.charges_of("query"), *rounds, *self.charges_of("evaluate"))


def _times(charge: Charge, num_times: int) -> Charge:
    event = charge.event
    if isinstance(event, Gaussian):
        event = replace(event, count=num_times * event.count)
    return replace(charge, event=event)


def plan_of(
    study: Study,
    *,
    cohort_size: int,
    epsilon_cap: float = math.inf,
    min_noise_multiplier: float = 0.0,
) -> PrivacyPlan:
    """The plan of a site with `cohort_size` training patients: the least noise that is enough.

    Guarantees:
        - Its epsilon is never above the target, the smaller of the study's and the cap, and not
          below .98 of it unless a floor of noise says so.
        - No noise multiplier is below `min_noise_multiplier`, nor below one that the study gives.
        - The moments cost at most `statistics_share` of the target; where the study gives the noise
          in place of epsilon, of what training costs.
        - The evaluation, of other patients, costs no more than training and moments together may.

    Edge cases:
        =================================  ========================================================
        fewer patients than a batch        q = 1: every patient is in every step
        the study gives noise_multiplier   it is a floor; more noise is used if the cap is lower
        mode "none" or "site"              the plan "none" for patients: no noise, epsilon infinite
        =================================  ========================================================

    Args:
        cohort_size: the site's frozen, public number of training patients, 1 or more; never a count
            of the day.
        epsilon_cap: what is left of the site's own budget, above 0.
        min_noise_multiplier: the floor of the site's policy, 0 or more.

    Raises:
        StudyError: the study cannot be private (`check_private`), or no sane noise is enough.
        ValueError: an argument is out of its range.
    """
    if cohort_size < 1 or not 0 <= min_noise_multiplier < math.inf:
        raise ValueError(
            "expected a cohort_size of 1 or more and a min_noise_multiplier of 0 or more, found "
            f"{cohort_size} and {min_noise_multiplier}"
        )
    if not epsilon_cap > 0:
        raise StudyError(
            f"Expected some epsilon to be left, found a cap of {epsilon_cap:g}. Raise the budget."
        )
    check_private(study)
    privacy = study.privacy
    rate = min(1.0, study.training.batch_size / cohort_size)
    steps = study.training.steps_of(cohort_size)
    if not isinstance(privacy, PatientPrivacy):
        return _unprotected(study, rate, cohort_size, steps)
    is_normalised = study.normalisation.method == "federated"
    demand = Demand(
        target=privacy.epsilon,
        cap=epsilon_cap,
        delta=privacy.delta,
        sample_rate=rate,
        num_steps=steps * (study.training.rounds + privacy.spare_rounds),
        moments_share=privacy.statistics_share if is_normalised else None,
        training_floor=privacy.noise_multiplier or 0.0,
        floor=min_noise_multiplier,
    )
    plan = _protected(study, privacy, noise_of(demand), rate, cohort_size, steps)
    return replace(plan, epsilon=epsilon_of(plan.whole(), plan.delta))


def _protected(
    study: Study, privacy: PatientPrivacy, noise: Noise, rate: float, cohort_size: int, steps: int
) -> PrivacyPlan:
    """The plan with this noise; what it costs as a whole is not yet in it."""
    return PrivacyPlan(
        mode="patient",
        epsilon=0.0,
        delta=privacy.delta,
        noise_multiplier=noise.training,
        max_grad_norm=privacy.max_grad_norm,
        sample_rate=rate,
        expected_batch_size=rate * cohort_size,
        steps_per_round=steps,
        num_rounds=study.training.rounds,
        spare_rounds=privacy.spare_rounds,
        moments_noise_multiplier=noise.moments,
        evaluation_noise_multiplier=noise.evaluation,
        split=split_of(study.evaluation),
    )


def _unprotected(study: Study, rate: float, cohort_size: int, steps: int) -> PrivacyPlan:
    return PrivacyPlan(
        mode="none",
        epsilon=math.inf,
        delta=0.0,
        noise_multiplier=0.0,
        max_grad_norm=math.inf,
        sample_rate=rate,
        expected_batch_size=rate * cohort_size,
        steps_per_round=steps,
        num_rounds=study.training.rounds,
        spare_rounds=0,
        moments_noise_multiplier=0.0 if study.normalisation.method == "federated" else None,
        evaluation_noise_multiplier=0.0,
        split=split_of(study.evaluation),
    )


def split_of(evaluation: Evaluation) -> str:
    """What decides who is held out, as 16 hexadecimal digits.

    Equal for two plans if and only if each patient's side depends on the same fields.
    """
    fields = evaluation.model_dump(
        include={"split_column", "test_fraction", "split_seed", "folds", "validation_fold"}
    )
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def check_private(study: Study) -> None:
    """Nothing, if the study's mode of privacy can keep what it promises.

    Raises:
        StudyError: something in the study looks at several patients at once, or would be released
            around the mechanism; the text says what, and what to use instead.
    """
    if isinstance(study.privacy, PatientPrivacy):
        faults = _faults_of_patient_privacy(study)
    elif isinstance(study.privacy, SitePrivacy):
        faults = _faults_of_site_privacy(study)
    else:
        faults = []
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise StudyError(
            f"Expected a study that privacy mode '{study.privacy.mode}' allows, found "
            f"{len(faults)} of its settings in '{study.name}' that it does not:\n{listed}"
        )


def _faults_of_patient_privacy(study: Study) -> list[str]:
    faults = [
        f"outcomes.{name}.loss: expected 'discrete_time', found 'cox': the partial likelihood "
        "compares patients with one another, so that clipping the gradient of one bounds nothing."
        for name, outcome in study.outcomes.items()
        if isinstance(outcome, SurvivalOutcome) and outcome.loss == "cox"
    ]
    if study.training.balance != "none":
        faults.append(
            f"training.balance: expected 'none', found '{study.training.balance}': drawing by "
            "class looks at the outcomes of all patients. Use class_weights of the outcome."
        )
    if study.model.site_intercept_sd > 0:
        faults.append(
            f"model.site_intercept_sd: expected 0, found {study.model.site_intercept_sd:g}: the "
            "intercept is fitted to exact outcomes. Use personal.local_blocks = "
            '["heads.*.linear.bias"].'
        )
    return faults


def _faults_of_site_privacy(study: Study) -> list[str]:
    faults = []
    if study.normalisation.method != "public_range":
        faults.append(
            f"normalisation.method: expected 'public_range', found '{study.normalisation.method}': "
            "exact moments of the sites would be released with the model."
        )
    if study.strategy.combine != "mean":
        faults.append(
            f"strategy.combine: expected 'mean', found '{study.strategy.combine}': how far one "
            "site moves it is bounded for the mean of clipped updates alone."
        )
    return faults


def describe(plan: PrivacyPlan) -> list[tuple[str, str]]:
    """Labels and values of a plan, for people."""
    if plan.mode != "patient":
        return [("privacy", "none: no patient is protected"), ("epsilon", "infinite")]
    moments = plan.moments_noise_multiplier
    steps = (plan.num_rounds + plan.spare_rounds) * plan.steps_per_round
    rounds = f"{plan.num_rounds} + {plan.spare_rounds} spare rounds"
    return [
        ("epsilon", f"{plan.epsilon:.4g}"),
        ("delta", f"{plan.delta:g}"),
        ("adjacency", plan.adjacency),
        ("noise multiplier", f"{plan.noise_multiplier:g}"),
        ("noise of moments", "none are released" if moments is None else f"{moments:g}"),
        ("noise of evaluation", f"{plan.evaluation_noise_multiplier:g}"),
        ("clip", f"{plan.max_grad_norm:g}"),
        ("sample rate", f"{plan.sample_rate:.4g} (Poisson)"),
        ("steps", f"{steps} ({rounds} of {plan.steps_per_round})"),
        ("accountant", ACCOUNTANT),
    ]
