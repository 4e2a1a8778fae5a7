"""One accepted study at one site, ready for its tasks: data on the device, model, privacy plan."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from client.config import SiteConfig
from client.data import read_cohort, usable_cohort
from client.egress import Declared
from client.normalise import moments_of
from client.policy import Policy
from client.training import Patients, to_device
from common.arrays import Arrays, Manifest
from common.errors import Refusal, SiteConfigError
from common.models.patient_model import SHARED, PatientModel, state_manifest, trainable_manifest
from common.normalisation import moments_manifest
from common.privacy.plan import PrivacyPlan
from common.privacy.sections import PatientPrivacy
from common.study import Study

# Of a simulation, whose ledger is its own: what its plan costs is the bound.
UNLIMITED = 1e9


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A study and all that answering for it takes.

    Attributes:
        policy: the hospital's, as it applies to this study.
        manifest: of the arrays that a task brings.
        counts: what replies say of patients: how many there are; of a private study a public weight
            for what the hospital has, and 0 for what it lacks altogether.
        cohort_size: the training patients; of a private study the policy's figure.
    """

    study: Study
    policy: Policy
    plan: PrivacyPlan
    model: PatientModel
    manifest: Manifest
    train: Patients
    test: Patients
    counts: Mapping[str, int]
    moments: Arrays
    declared: Declared
    cohort_size: int


def prepare(
    config: SiteConfig, study: Study, *, device: torch.device, is_simulated: bool
) -> Prepared:
    """The study, prepared for its tasks.

    Args:
        is_simulated: what a person must decide before a private study may train at a real site,
            and `site.toml` does not say, is taken from the data and the study: the figure of
            patients, the budget, what the hospital lacks.

    Raises:
        DataError: the data cannot be used; every reason is told.
        StudyError: the study cannot be private, or no noise can give what it promises.
        SiteConfigError: the study has more rounds or steps than the policy allows.
    """
    cohort = usable_cohort(*read_cohort(config, study))
    counts = cohort.train.counts()
    policy, lacks = config.policy, config.lacks
    if is_simulated:
        policy = _decided(policy, study, len(cohort.train))
        lacks |= {name for name, count in counts.items() if count == 0}
    size = len(cohort.train)
    if isinstance(study.privacy, PatientPrivacy):
        size = policy.cohort_size or size
        counts = _public_counts(study.privacy, config.name, counts, lacks)
        _check_limits(policy, study, size)
    model = PatientModel(study).to(device)
    manifests = {"update": trainable_manifest(model), "moments": moments_manifest(study)}
    return Prepared(
        study=study,
        policy=policy,
        plan=policy.plan_of(study, size),
        model=model,
        manifest=state_manifest(model),
        train=to_device(cohort.train, device),
        test=to_device(cohort.test, device),
        counts=counts,
        moments=moments_of(cohort.train, study),
        declared=Declared.of(study, **manifests),
        cohort_size=size,
    )


def _check_limits(policy: Policy, study: Study, num_patients: int) -> None:
    """Nothing, if the policy allows so many rounds and steps: a plan for millions takes hours.

    Raises:
        SiteConfigError: it does not, so that the study should not have been accepted.
    """
    try:
        policy.check_round(study.training.rounds)
        policy.check_steps(study, num_patients)
    except Refusal as refusal:
        raise SiteConfigError(
            f"Expected the policy to allow what the accepted study '{study.name}' asks, found that "
            f"it does not. {refusal} Change the policy, or accept the study no longer."
        ) from None


def _decided(policy: Policy, study: Study, num_patients: int) -> Policy:
    """The policy with what a person would have to decide for a private study."""
    if not isinstance(study.privacy, PatientPrivacy):
        return policy
    decided: dict[str, float] = {"cohort_size": policy.cohort_size or max(num_patients, 1)}
    if policy.epsilon_budget is None:
        decided["epsilon_budget"] = UNLIMITED
        decided["delta_budget"] = max(policy.delta_budget, study.privacy.delta)
    return policy.model_copy(update=decided)


def _public_counts(
    privacy: PatientPrivacy, site: str, names: Collection[str], lacks: frozenset[str]
) -> dict[str, int]:
    weight = privacy.weight_of(site)
    return {name: 0 if name in lacks and name != SHARED else weight for name in names}
