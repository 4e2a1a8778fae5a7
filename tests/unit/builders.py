"""What many unit tests start from: a small study, batches of patients, tasks and replies."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Message, Metadata, RecordDict
from flwr.app.message import make_message
from hypothesis import strategies as st

from client.training import Patients
from common.arrays import Arrays, Block, Manifest, size_of
from common.code_version import code_fingerprint
from common.messages import Reply, Task, TaskKind
from common.metrics.evaluation import statistics_of
from common.metrics.statistics import EvaluationSums
from common.models.contract import Batch
from common.models.patient_model import PatientModel, state_of
from common.outcomes import ClassOutcome, RegressionOutcome
from common.study import Study

HASH = "0" * 64
# By outcome, then by array name.
Labels = dict[str, dict[str, torch.Tensor]]


def study_table() -> dict[str, Any]:
    """A study as a TOML table: three granularities, one mixed, one of numbers, one of categories.

    A new one at each call, so that a test may spoil it.
    """
    return {
        "study": {"name": "small", "title": "A small study"},
        "outcomes": {"event": {"column": "event", "kind": "binary", "classes": ["no", "yes"]}},
        "granularities": {
            "labs": {
                "kind": "tabular",
                "hidden": [4],
                "features": {
                    "age_years": {"kind": "numeric", "unit": "years", "range": [0, 100]},
                    "glucose": {"kind": "numeric", "unit": "mmol/l", "range": [1, 31]},
                    "sex": {"kind": "categorical", "categories": ["female", "male"]},
                },
            },
            "vitals": {
                "kind": "tabular",
                "hidden": [],
                "features": {
                    "heart_rate_bpm": {"kind": "numeric", "unit": "bpm", "range": [20, 220]},
                },
            },
            "lifestyle": {
                "kind": "tabular",
                "hidden": [3],
                "features": {
                    "smoker": {"kind": "categorical", "categories": ["never", "former", "now"]},
                },
            },
        },
        "model": {"width": 4, "num_heads": 2},
        "training": {"rounds": 3, "local_epochs": 1, "batch_size": 8},
    }


def study_of(**sections: Mapping[str, Any]) -> Study:
    """The small study with fields of some sections replaced: `study_of(model={"width": 8})`.

    An outcome or granularity is replaced whole, or added.
    """
    table = study_table()
    for section, fields in sections.items():
        table[section] = {**table.get(section, {}), **fields}
    return Study.model_validate(table)


MULTICLASS = {
    "event": {"column": "event", "kind": "multiclass", "classes": ["mild", "severe", "critical"]}
}
# Beside the event of the small study: one outcome of every other kind.
MORE_OUTCOMES = {
    "stay": {"kind": "regression", "column": "stay_days", "unit": "days", "range": [0, 20]},
    "death": {
        "kind": "survival",
        "time_column": "followed_days",
        "event_column": "died",
        "unit": "days",
        "cut_points": [30, 90, 365],
    },
}


def batch_of(study: Study, num_patients: int, seed: int = 0) -> Batch:
    """A batch of random patients of a study, about a third of everything missing."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    batch = {}
    for name, granularity in study.granularities.items():
        present_B = uniform(num_patients) < 0.7
        low = torch.tensor([f.range[0] for f in granularity.numeric.values()])
        high = torch.tensor([f.range[1] for f in granularity.numeric.values()])
        numeric_BF = low + (high - low) * uniform(num_patients, len(granularity.numeric))
        sizes = torch.tensor([1 + len(f.categories) for f in granularity.categorical.values()])
        codes_BK = (uniform(num_patients, len(granularity.categorical)) * sizes).long()
        batch[name] = {
            "present_B": present_B,
            "numeric_BF": numeric_BF,
            "observed_BF": (uniform(*numeric_BF.shape) < 0.7) & present_B.unsqueeze(1),
            "codes_BK": torch.where(present_B.unsqueeze(1), codes_BK, 0),
        }
    return batch


def outcomes_of(
    study: Study, num_patients: int, seed: int = 0, *, unknown: float = 0.0
) -> dict[str, dict[str, Any]]:
    """Random outcomes of every kind, as `Cohort.outcomes` holds them.

    Args:
        unknown: the part of the patients of whom an outcome is not known.
    """
    rng = np.random.default_rng(seed)
    outcomes = {}
    for name, outcome in study.outcomes.items():
        known_B = rng.uniform(size=num_patients) >= unknown
        arrays: dict[str, Any] = {"known_B": known_B}
        if isinstance(outcome, ClassOutcome):
            label_B = rng.integers(len(outcome.classes), size=num_patients)
            arrays["label_B"] = np.where(known_B, label_B, -1)
        elif isinstance(outcome, RegressionOutcome):
            value_B = rng.uniform(*outcome.range, num_patients)
            arrays["value_B"] = np.where(known_B, value_B, 0.0).astype(np.float32)
        else:
            time_B = rng.uniform(0, 1.2 * outcome.cut_points[-1], num_patients)
            arrays["time_B"] = np.where(known_B, time_B, 0.0).astype(np.float32)
            arrays["event_B"] = known_B & (rng.uniform(size=num_patients) < 0.5)
        outcomes[name] = arrays
    return outcomes


def predictions_of(study: Study, num_patients: int, seed: int = 0) -> dict[str, Any]:
    """Random predictions of every outcome, as its head makes them."""
    rng = np.random.default_rng(seed)
    predictions = {}
    for name, outcome in study.outcomes.items():
        if isinstance(outcome, ClassOutcome):
            predictions[name] = rng.dirichlet(np.ones(len(outcome.classes)), num_patients)
        elif isinstance(outcome, RegressionOutcome):
            predictions[name] = rng.uniform(*outcome.range, (num_patients, 1))
        else:
            falls_BK = rng.uniform(0.5, 1.0, (num_patients, len(outcome.cut_points)))
            predictions[name] = falls_BK.cumprod(axis=1)
    return predictions


def labels_of(study: Study, num_patients: int, seed: int = 0, *, unknown: float = 0.0) -> Labels:
    """`outcomes_of` as tensors."""
    outcomes = outcomes_of(study, num_patients, seed, unknown=unknown)
    return {
        name: {key: torch.from_numpy(value) for key, value in arrays.items()}
        for name, arrays in outcomes.items()
    }


def patients_of(study: Study, num_patients: int, seed: int = 0) -> Patients:
    """Random patients on the CPU, all of their outcomes known."""
    return Patients(
        inputs=batch_of(study, num_patients, seed),
        outcomes=labels_of(study, num_patients, seed),
        device=torch.device("cpu"),
        num_patients=num_patients,
    )


def evaluation(num_patients: int, study: Study, seed: int = 0) -> dict[str, EvaluationSums]:
    """The sums of random predictions of every outcome, all of them known."""
    predictions = predictions_of(study, num_patients, seed)
    outcomes = outcomes_of(study, num_patients, seed + 1)
    return {
        name: statistics.sums_of(predictions[name], outcomes[name])
        for name, statistics in statistics_of(study).items()
    }


def task_of(study: Study, kind: TaskKind = TaskKind.TRAIN, **fields: object) -> Task:
    """A task of the study as an honest coordinator sends it, with some fields replaced."""
    honest = {
        "run_id": "run",
        "round": 0,
        "nonce": "nonce",
        "study_hash": study.hash,
        "code": code_fingerprint(),
        "arrays": None if kind is TaskKind.ENROL else state_of(PatientModel(study)),
    }
    return Task(kind=kind, **(honest | fields))


def instruction(node_id: int, kind: str = "train", message_id: str = "") -> Message:
    """A message of the server to a node, without Flower's global identity of a task."""
    metadata = Metadata(
        run_id=1,
        message_id=message_id,
        src_node_id=0,
        dst_node_id=node_id,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=3600.0,
        message_type=kind,
    )
    return make_message(metadata=metadata, content=RecordDict())


names = st.text(st.characters(codec="utf-8"), max_size=20)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests of up to five blocks, sizes of zero among them."""
    unique = draw(st.lists(names, max_size=5, unique=True))
    return tuple(Block(name=name, shape=draw(shapes)) for name in unique)


@st.composite
def arrays(
    draw: st.DrawFn, dtypes: Sequence[type[np.floating]] = (np.float32, np.float64)
) -> Arrays:
    """Arrays with any bits, NaN and infinity among them."""
    manifest = draw(manifests())
    dtype = draw(st.sampled_from(dtypes))
    size = size_of(manifest) * np.dtype(dtype).itemsize
    return Arrays(
        manifest=manifest, flat=np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype)
    )


words = st.from_regex(r"[A-Za-z0-9_-]{0,64}", fullmatch=True)
signatures = st.binary(min_size=64, max_size=64).map(bytes.hex)
_headers = {
    "kind": st.sampled_from(TaskKind),
    "run_id": words,
    "round": st.integers(0, 2**63 - 1),
    "nonce": words,
}


def tasks() -> st.SearchStrategy[Task]:
    """Any task that can be written down."""
    return st.builds(
        Task,
        **_headers,
        study_hash=words,
        code=words,
        site=words,
        arrays=st.none() | arrays(),
        signature=st.none() | signatures,
    )


def replies() -> st.SearchStrategy[Reply]:
    """Any reply that can be written down."""
    finite = st.floats(allow_nan=False)
    return st.builds(
        Reply,
        **_headers,
        site=words,
        status=words,
        arrays=st.none() | arrays(),
        counts=st.dictionaries(names, st.integers(0, 2**63 - 1), max_size=4),
        metrics=st.dictionaries(names, st.lists(finite, max_size=4).map(tuple), max_size=4),
        signature=st.none() | signatures,
    )
