"""A study trained once more across hospitals in memory: what an attacker's shadow models are.

The product's own local training, aggregation and server optimizer, without messages and books: the
model is what a run of these patients would have sent around, but for samples and noise, which are
drawn anew, and for small groups, of which policies tell nothing in counts and moments.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from client.data import Cohort
from client.dp_training import train_privately
from client.normalise import moments_of
from client.private_statistics import private_moments
from client.training import Patients, to_device, train
from common.arrays import Arrays
from common.errors import StudyError
from common.models.patient_model import (
    PatientModel,
    load_state,
    parameters_of,
    state_of,
    trainable_manifest,
)
from common.normalisation import add_moments, normalisation_of
from common.privacy.mechanisms import NoiseSource
from common.privacy.plan import PrivacyPlan, plan_of
from common.privacy.sections import PatientPrivacy, SitePrivacy
from common.seeds import seed_of
from common.study import Study
from common.tail_average import TailAverage
from server.aggregation import SiteUpdate, add_to_parameters, aggregate, combine_of
from server.optimizer import OptimizerState, step


def check_retrainable(study: Study) -> None:
    """Nothing, if `retrained` can do what a run of the study does.

    Raises:
        StudyError: the study starts from another model, or the coordinator adds the noise.
    """
    if study.model.frozen:
        raise StudyError(
            f"Expected a study that trains every encoder, found model.frozen in '{study.name}': "
            "where these encoders come from is not known here. Audit a study that trains them."
        )
    if isinstance(study.privacy, SitePrivacy):
        raise StudyError(
            f"Expected privacy of patients or none, found mode 'site' in '{study.name}'. It "
            "promises nothing to a patient, and audits of hospitals do not exist yet."
        )


def retrained(
    study: Study,
    hospitals: Mapping[str, Cohort],
    *,
    seed: int,
    cohort_sizes: Mapping[str, int] = MappingProxyType({}),
) -> PatientModel:
    """The shared model that the study would release, trained on these patients.

    It starts from the weights that the study's own seed draws, which are public. A hospital without
    a patient takes no part; blocks that stay at home are carried on, and left as they began in what
    is returned, as they never leave.

    Args:
        hospitals: training patients by the name of their hospital.
        seed: of samples, dropout and noise.
        cohort_sizes: the public number of patients that a hospital's plan of privacy follows; how
            many there are, where there is none.

    Raises:
        StudyError: see `check_retrainable`.
    """
    check_retrainable(study)
    torch.set_num_threads(1)
    sites = [
        _Site(study, name, cohort, seed, cohort_sizes.get(name, len(cohort)))
        for name, cohort in sorted(hospitals.items())
        if len(cohort)
    ]
    model = PatientModel(study)
    state = _normalised(study, state_of(model), sites)
    manifest = trainable_manifest(model)
    optimizer = OptimizerState.start(study.strategy, len(parameters_of(model).flat))
    combine = combine_of(study.strategy.combine, study.strategy.trimmed_fraction)
    average = TailAverage.of(study, manifest)
    tail = average.start()
    for round_number in range(study.training.rounds):
        updates = []
        for site in sites:
            load_state(model, state)
            updates.append(site.update_of(model, round_number))
        combined = aggregate(
            updates,
            combine,
            equal_weights=study.strategy.weights == "equal",
            min_sites=min(study.strategy.min_sites_per_block, len(sites)),
        )
        move_P, optimizer = step(
            study.strategy, optimizer, combined.update.flat, combined.trained_P
        )
        state = add_to_parameters(state, manifest, move_P)
        tail = average.add(tail, state, round_number=round_number + 1)
    load_state(model, average.released(tail, state))
    return model


class _Site:
    """One hospital's patients in memory, with the blocks that stay there."""

    def __init__(
        self, study: Study, name: str, cohort: Cohort, seed: int, cohort_size: int
    ) -> None:
        self._study, self._name = study, name
        self._seed = seed_of(study.training.seed, "shadow", seed, name)
        self._patients: Patients = to_device(cohort, torch.device("cpu"))
        self._plan: PrivacyPlan = plan_of(study, cohort_size=cohort_size)
        self._local: dict[str, torch.Tensor] = {}
        self._exact = moments_of(cohort, study)
        self._counts = _weights(study, name, cohort.counts())

    @property
    def moments(self) -> Arrays:
        """The moments for normalisation, with noise where patients are protected."""
        noise = self._plan.moments_noise_multiplier
        if not isinstance(self._study.privacy, PatientPrivacy) or noise is None:
            return self._exact
        source = NoiseSource.seeded(seed_of(self._seed, "moments"))
        return private_moments(self._exact, self._study, noise, source)

    def update_of(self, model: PatientModel, round_number: int) -> SiteUpdate:
        """What this hospital sends in a round; it trains the model in place."""
        own = {n: p for n, p in model.named_parameters() if n in model.local_blocks}
        with torch.no_grad():
            for name, value in self._local.items():
                own[name].copy_(value)
        before = parameters_of(model)
        seed = seed_of(self._seed, round_number)
        if self._plan.mode == "patient":
            source = NoiseSource.seeded(seed_of(seed, "noise"))
            train_privately(
                model, self._patients, self._study, self._plan, source=source, seed=seed
            )
        else:
            train(model, self._patients, self._study, seed=seed)
        self._local = {name: value.detach().clone() for name, value in own.items()}
        after = parameters_of(model)
        update = Arrays(manifest=before.manifest, flat=after.flat - before.flat)
        return SiteUpdate(site=self._name, update=update, counts=self._counts)


def _weights(study: Study, site: str, counts: Mapping[str, int]) -> Mapping[str, int]:
    """Counts of patients; under privacy the public weight of what the hospital has at all."""
    if not isinstance(study.privacy, PatientPrivacy):
        return counts
    weight = study.privacy.weight_of(site)
    return {name: weight if count else 0 for name, count in counts.items()}


def _normalised(study: Study, state: Arrays, sites: Sequence[_Site]) -> Arrays:
    if study.normalisation.method != "federated":
        return state
    named = state.unpack()
    named |= normalisation_of(study, add_moments(site.moments for site in sites))
    return Arrays.pack({name: np.asarray(value) for name, value in named.items()})
