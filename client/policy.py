"""The policy: what this hospital allows, whoever asks.

A policy is a floor. The coordinator may ask for something stricter, never for something laxer, and
a missing or malformed policy means that the site does not start.
"""

from math import inf
from typing import Annotated

from pydantic import Field

from common.contract import Section
from common.errors import Refusal, RefusalCode
from common.metrics.evaluation import statistic_of
from common.privacy.plan import PrivacyPlan, plan_of
from common.privacy.sections import Delta, PatientPrivacy
from common.study import Study

Limit = Annotated[int, Field(strict=True, ge=1)]


class Policy(Section):
    """The `[policy]` of `site.toml`. Every field without a default must be decided by a person.

    Attributes:
        allow_without_privacy: whether a study that protects no patient (mode "none" or "site") may
            train here.
        epsilon_budget, delta_budget: the most that these data may ever cost a patient, over all
            runs and studies; without an epsilon_budget no private study trains here.
        epsilon_per_run: the most that one run may cost: where a study asks for more, the site adds
            more noise than the study asks.
        min_noise_multiplier: the least noise, whatever a study asks.
        cohort_size: the number of training patients, as one may tell it; sample rates follow from
            it and not from the data, so that it must not change with every patient.
        accepted_studies: hashes of the effective studies that this hospital has agreed to.
        min_patients: with fewer training patients than this, the site takes no part.
        smallest_group: metrics and counts over fewer patients than this are not sent.
        max_rounds: the last round for which a task is answered.
        max_models_per_round: without privacy, the number of different models for which a round is
            answered, and a run's evaluation; a coordinator that goes back to a checkpoint may need
            a second one.
        max_runs_without_privacy: the number of runs without privacy that these data take part in,
            over all studies.
        max_local_steps: the most optimizer steps in one round, those of its own model included.
        max_update_norm: an update of a larger L2 norm is scaled down to it, and this is logged.
        metrics: names of the evaluation statistics that may leave, plain ("confusion": of any
            outcome) or of one outcome ("event.confusion"); "*" allows all declared ones.
    """

    allow_without_privacy: Annotated[bool, Field(strict=True)]
    epsilon_budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    delta_budget: Delta = 1e-4
    epsilon_per_run: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    min_noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    cohort_size: Limit | None = None
    accepted_studies: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    min_patients: Limit = 50
    smallest_group: Limit = 10
    max_rounds: Limit = 1000
    max_models_per_round: Limit = 3
    max_runs_without_privacy: Limit = 100
    max_local_steps: Limit = 10_000
    max_update_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000.0
    metrics: tuple[str, ...] = ("*",)

    def check_study(self, study: Study, num_patients: int) -> None:
        """Nothing, if this study may train here on this many patients.

        Args:
            num_patients: in training; `cohort_size` for a private study.

        Raises:
            Refusal: with the code of the first rule that is broken.
        """
        self._check_protection(study)
        if isinstance(study.privacy, PatientPrivacy):
            self._check_decided()
            self._check_delta(study.privacy)
        self._check_num_patients(study, num_patients)
        self.check_steps(study, num_patients)

    def plan_of(self, study: Study, cohort_size: int) -> PrivacyPlan:
        """The study's plan for so many training patients, with at least this policy's noise.

        Where a study asks for less than min_noise_multiplier, or for a run that costs more than
        epsilon_per_run, this hospital adds more noise than was asked.

        Threat: S1-1, S0-1.

        Raises `StudyError` as `common.privacy.plan.plan_of` does.
        """
        return plan_of(
            study,
            cohort_size=cohort_size,
            epsilon_cap=self.epsilon_per_run or inf,
            min_noise_multiplier=self.min_noise_multiplier,
        )

    def check_steps(self, study: Study, num_patients: int) -> None:
        """A round takes at most max_local_steps optimizer steps.

        Threat: S1-1. Refuses: STEP_LIMIT.
        """
        num_steps = study.training.steps_of(num_patients)
        # The model of a site's own is trained as much again, or further at the end.
        num_steps = max(
            num_steps * (2 if study.personal.ditto_lambda else 1), study.personal.fine_tune_steps
        )
        if num_steps > self.max_local_steps:
            raise Refusal(
                RefusalCode.STEP_LIMIT,
                f"Expected at most {self.max_local_steps} steps a round, found {num_steps} asked.",
            )

    def _check_protection(self, study: Study) -> None:
        """A study protects each patient, unless allow_without_privacy says that it need not.

        Threat: S1-1, S0-1. Refuses: PRIVACY_REQUIRED.
        """
        if not (isinstance(study.privacy, PatientPrivacy) or self.allow_without_privacy):
            raise Refusal(
                RefusalCode.PRIVACY_REQUIRED,
                "Expected a study that protects each patient, found privacy mode "
                f"'{study.privacy.mode}' in '{study.name}'.",
            )

    def _check_decided(self) -> None:
        """A private study trains only where a person has decided epsilon_budget and cohort_size.

        Threat: S1-1. Refuses: PRIVACY_TOO_WEAK.
        """
        if self.epsilon_budget is None or self.cohort_size is None:
            raise Refusal(
                RefusalCode.PRIVACY_TOO_WEAK,
                "Expected epsilon_budget and cohort_size in [policy], found none: without them "
                "nobody has said what these patients may be charged.",
            )

    def _check_delta(self, privacy: PatientPrivacy) -> None:
        """The delta of a private study is at most delta_budget: no noise would make up for it.

        Threat: S1-1. Refuses: PRIVACY_TOO_WEAK.
        """
        if privacy.delta > self.delta_budget:
            raise Refusal(
                RefusalCode.PRIVACY_TOO_WEAK,
                f"Expected a delta of at most {self.delta_budget:g} (policy.delta_budget), found "
                f"{privacy.delta:g}.",
            )

    def _check_num_patients(self, study: Study, num_patients: int) -> None:
        """There are at least min_patients training patients; with fewer, the site takes no part.

        Threat: S0-1, S0-2. Refuses: TOO_FEW_PATIENTS.
        """
        is_private = isinstance(study.privacy, PatientPrivacy)
        figure = "training patients by cohort_size" if is_private else "training patients"
        if num_patients < self.min_patients:
            raise Refusal(
                RefusalCode.TOO_FEW_PATIENTS,
                f"Expected at least {self.min_patients} {figure} (policy.min_patients), found "
                "fewer.",
            )

    def check_round(self, round_number: int) -> None:
        """No task of a round after max_rounds is answered.

        Threat: S1-5. Refuses: ROUND_LIMIT.
        """
        if round_number > self.max_rounds:
            raise Refusal(
                RefusalCode.ROUND_LIMIT,
                f"Expected a round of at most {self.max_rounds}, found {round_number}.",
            )

    def allows_metric(self, name: str) -> bool:
        """A statistic leaves only if the policy lists it in metrics.

        Threat: S0-2.
        """
        return not {"*", name, statistic_of(name)}.isdisjoint(self.metrics)
