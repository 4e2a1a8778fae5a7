"""A small study with personal parts, its patients, and a round as a site does it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.personal import Personal, PersonalStore, named_parameters_of
from client.training import Patients, train
from common.models.patient_model import PatientModel
from common.seeds import seed_of
from common.study import Study

Named = dict[str, NDArray[np.float32]]


def study_of(*, training: dict[str, object] | None = None, **personal: object) -> Study:
    number = {"kind": "numeric", "unit": "years", "range": [-5, 5]}
    return Study.model_validate(
        {
            "study": {"name": "small"},
            "outcomes": {"event": {"kind": "binary", "column": "event", "classes": ["no", "yes"]}},
            "granularities": {
                "labs": {"kind": "tabular", "hidden": [3], "features": {"x": number, "y": number}}
            },
            "model": {"width": 4, "fusion": "concat", "dropout": 0.1},
            "training": {
                "rounds": 3,
                "local_steps": 6,
                "batch_size": 16,
                "learning_rate": 0.1,
                **(training or {}),
            },
            "personal": personal,
        }
    )


def patients_of(num_patients: int = 48, seed: int = 0) -> Patients:
    generator = torch.Generator().manual_seed(seed)
    numeric_BF = torch.randn(num_patients, 2, generator=generator)
    label_B = (numeric_BF[:, 0] + 0.5 * torch.randn(num_patients, generator=generator) > 0).long()
    present_B = torch.ones(num_patients, dtype=torch.bool)
    labs = {
        "present_B": present_B,
        "numeric_BF": numeric_BF,
        "observed_BF": torch.ones_like(numeric_BF, dtype=torch.bool),
        "codes_BK": torch.zeros(num_patients, 0, dtype=torch.long),
    }
    return Patients(
        inputs={"labs": labs},
        outcomes={"event": {"known_B": present_B, "label_B": label_B}},
        device=torch.device("cpu"),
        num_patients=num_patients,
    )


def personal_of(study: Study, folder: Path) -> Personal:
    return Personal(study, PersonalStore(folder), site="alpha")


def a_round(personal: Personal, study: Study, patients: Patients, number: int) -> PatientModel:
    """One round as a site does it, the shared model starting anew; returns what is left of it."""
    model = PatientModel(study)
    personal.put_local(model, number)
    start = named_parameters_of(model)
    seed = seed_of(study.training.seed, "alpha", number)
    train(model, patients, study, seed=seed)
    personal.after_training(model, start, patients, number)
    return model


def own_of(folder: Path, round_number: int) -> Named:
    """The site's own model in the store."""
    named = PersonalStore(folder).load(round_number)
    return {k.removeprefix("own."): v for k, v in named.items() if k.startswith("own.")}


def distance(one: Named, other: Named) -> float:
    return float(sum(np.square(one[name] - other[name]).sum() for name in one)) ** 0.5


def assert_equal(one: Named, other: Named) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == np.float32
        assert value.tobytes() == other[name].tobytes()
