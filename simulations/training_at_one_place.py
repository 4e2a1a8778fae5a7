"""A study's model, trained at one place: on all patients, or on those of one hospital alone.

The same rounds, steps and seeds as a federation has, without one.
"""

from collections.abc import Callable, Sequence

import torch

from client.data import Cohort, concatenate
from client.dp_training import train_privately
from client.normalise import moments_of
from client.training import to_device, train
from common.arrays import Arrays
from common.errors import StudyError
from common.models.patient_model import PatientModel, load_state, state_of, trainable_manifest
from common.normalisation import normalisation_of
from common.privacy.mechanisms import NoiseSource
from common.privacy.plan import plan_of
from common.seeds import seed_of
from common.study import Study
from common.study_file import override
from common.tail_average import TailAverage


def train_centrally(study: Study, patients: Cohort, *, site: str) -> PatientModel:
    """The study's model, trained on these patients at one place, round after round.

    Normalised by these patients' own moments where the study's normalisation is federated.

    Raises:
        StudyError: the study has frozen encoders.
    """
    refuse_frozen(study)
    model = PatientModel(study)
    if study.normalisation.method == "federated":
        named = state_of(model).unpack()
        named |= normalisation_of(study, moments_of(patients, study))
        load_state(model, Arrays.pack(named))
    on_device = to_device(patients, torch.device("cpu"))

    def train_round(round_number: int) -> None:
        train(model, on_device, study, seed=seed_of(study.training.seed, site, round_number))

    return _after_rounds(model, study, train_round)


def train_privately_alone(study: Study, patients: Cohort, *, site: str) -> PatientModel:
    """The study's model, trained on one hospital's patients alone, with the study's privacy.

    A hospital that trains for itself owes its patients the same when it gives the model away. It
    is normalised by the public ranges, and repeatable, so that it protects nobody here.
    """
    model = PatientModel(study)
    plan = plan_of(study, cohort_size=max(len(patients), 1))
    on_device = to_device(patients, torch.device("cpu"))

    def train_round(round_number: int) -> None:
        seed = seed_of(study.training.seed, site, round_number)
        source = NoiseSource.seeded(seed_of(seed, "noise"))
        train_privately(model, on_device, study, plan, source=source, seed=seed)

    return _after_rounds(model, study, train_round)


def _after_rounds(
    model: PatientModel, study: Study, train_round: Callable[[int], None]
) -> PatientModel:
    """The model after all rounds, or the mean of the last ones, as the study would release it."""
    average = TailAverage.of(study, trainable_manifest(model))
    tail = average.start()
    for round_number in range(study.training.rounds):
        train_round(round_number)
        if average.takes(round_number + 1):
            tail = average.add(tail, state_of(model), round_number=round_number + 1)
    load_state(model, average.released(tail, state_of(model)))
    return model


def refuse_frozen(study: Study) -> None:
    """Nothing, if every encoder is trained.

    Raises:
        StudyError: some are frozen; they would stay as they were drawn, because the arms start
            from no other model.
    """
    if study.model.frozen:
        raise StudyError(
            "Expected a study that trains every encoder, found model.frozen = "
            f"{', '.join(study.model.frozen)} in '{study.name}'. Comparisons start from no other "
            "model: train these encoders here, or use `wardround simulate --init-from`."
        )


def train_pooled(study: Study, cohorts: Sequence[Cohort]) -> PatientModel:
    """The study's model, trained on all sites' patients at one place with the work of all sites."""
    train = concatenate([cohort.train for cohort in cohorts])
    return train_centrally(_with_work_of(study, len(cohorts)), train, site="pooled")


def _with_work_of(study: Study, num_sites: int) -> Study:
    """The study with the local steps of all sites together, where it counts work in steps."""
    if study.training.local_steps is None:
        return study
    return override(study, training__local_steps=study.training.local_steps * num_sites)
