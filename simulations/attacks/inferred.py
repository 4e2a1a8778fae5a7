"""Attribute inference against the models of simulated federations, with and without privacy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from client.config import load_site_config
from client.data import read_cohort, usable_cohort
from client.training import Patients, to_device
from common.model_file import load_model
from common.models.patient_model import PatientModel
from common.study import Study
from common.study_file import override, with_patient_privacy, without_privacy
from simulations.attacks.attribute_inference import (
    Attribute,
    Told,
    attribute_of,
    hits_of,
    infer,
    median_of,
    values_of,
)
from simulations.attacks.exposure import DELTA, Protection, protections
from simulations.cohort import SiteEffects, write_cohort
from simulations.simulate import Simulation, simulate

ATTRIBUTE = "attribute inference"
_HOSPITALS, _PATIENTS = 2, 200
_TOLD: tuple[Told, ...] = ("outcomes", "predictions")
# An attack, and the name of a protection.
Key = tuple[str, str]
# The figures of one seed.
Measured = dict[Key, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class _People:
    """The attacked patients, and those of the attacker.

    Attributes:
        trained, held_out: of the hospitals, with the attribute of each.
        known: of the attacker, with theirs.
    """

    attribute: Attribute
    trained: Sequence[tuple[Patients, NDArray[np.int64]]]
    held_out: Sequence[tuple[Patients, NDArray[np.int64]]]
    known: tuple[Patients, NDArray[np.int64]]

    def hits(
        self,
        model: PatientModel,
        told: Told,
        attacked: Sequence[tuple[Patients, NDArray[np.int64]]],
    ) -> tuple[list[float], list[float]]:
        """For each attacked patient: guessed by the attack, and by the marginals."""
        right: list[float] = []
        usual: list[float] = []
        for patients, values in attacked:
            guessed = infer(model, patients, *self.known, self.attribute, told=told)
            hit, marginal = hits_of(guessed, values, self.known[1])
            right += hit.tolist()
            usual += marginal.tolist()
        return right, usual


def infer_attributes(
    study: Study, epsilon: float, seed: int, folder: Path, measured: Measured
) -> dict[Key, list[float]]:
    """Adds the figures to `measured`; returns who was guessed, less who was by the marginals.

    Nothing, where the study has no table beside another granularity.
    """
    attribute = attribute_of(study)
    if attribute is None:
        return {}
    plain = override(without_privacy(study), training__seed=seed)
    people = _people(plain, attribute, folder, seed)
    gains = {}
    for protection in protections(epsilon):
        if protection.clips:
            continue
        model = _trained(plain, protection, folder)
        for told in _TOLD:
            right, usual = people.hits(model, told, people.trained)
            held_out, _ = people.hits(model, told, people.held_out)
            key = (f"{ATTRIBUTE} from {told}", protection.name)
            measured[key] = {
                "guessed right": fmean(right),
                "by the marginals": fmean(usual),
                "guessed right, held out": fmean(held_out),
            }
            gains[key] = [a - b for a, b in zip(right, usual, strict=True)]
    return gains


def _people(study: Study, attribute: Attribute, folder: Path, seed: int) -> _People:
    names = [f"hospital-{i + 1}" for i in range(_HOSPITALS)]
    effects = [
        SiteEffects(name=n, num_patients=_PATIENTS, granularity_missing=0.0, cell_missing=0.0)
        for n in (*names, "attacker")
    ]
    sites = write_cohort(study, effects[:-1], folder / "hospitals", seed=seed)
    (own,) = write_cohort(study, effects[-1:], folder / "attackers", seed=seed)
    known = _patients(own, study, "train")
    median = median_of(known, attribute, study)

    def with_values(patients: Patients) -> tuple[Patients, NDArray[np.int64]]:
        return patients, values_of(patients, attribute, study, median=median)

    return _People(
        attribute=attribute,
        trained=[with_values(_patients(site, study, "train")) for site in sites],
        held_out=[with_values(_patients(site, study, "test")) for site in sites],
        known=with_values(known),
    )


def _patients(folder: Path, study: Study, part: str) -> Patients:
    cohort = usable_cohort(*read_cohort(load_site_config(folder), study))
    return to_device(cohort.train if part == "train" else cohort.test, torch.device("cpu"))


def _trained(study: Study, protection: Protection, folder: Path) -> PatientModel:
    """The model of an ordinary simulated run over the hospitals."""
    if protection.epsilon is not None:
        study = with_patient_privacy(study, epsilon=protection.epsilon, delta=DELTA)
    run = folder / f"run-{protection.name}"
    simulate(Simulation(study=study, sites=folder / "hospitals", out=run))
    return load_model(study, run)
