"""The model of a run on disk: `model.safetensors`, by parameter name, beside its `study.toml`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.arrays import Arrays
from common.errors import RunError, StudyError
from common.files import write_atomically
from common.models.patient_model import PatientModel, load_state, state_manifest
from common.study import Study
from common.study_file import load_study

MODEL_FILE = "model.safetensors"


def write_model(path: Path, model: Arrays) -> None:
    """The model as one safetensors file: what a user takes home."""
    write_atomically(path, save(model.unpack()), durable=True)


def read_model(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The parameters and normalisation of the model in `folder`, by name.

    The order of the names is the file's own, and not the model's.

    Raises:
        RunError: there is no such file, it is damaged, or it holds no finite float32 arrays.
    """
    path = folder / MODEL_FILE
    try:
        named = load(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"Expected the model of a finished run at {path}, found none. Name the run's folder, "
            "or finish the run with --resume."
        ) from None
    except (OSError, SafetensorError, ValueError, KeyError) as fault:
        raise RunError(
            f"Expected a readable safetensors file at {path}, found {type(fault).__name__}. "
            "Copy it again."
        ) from fault
    if not all(value.dtype.name == "float32" for value in named.values()):
        raise RunError(f"Expected float32 arrays in {path}, found other types. Convert them.")
    if not all(np.isfinite(value).all() for value in named.values()):
        raise RunError(f"Expected finite arrays in {path}, found NaN or infinity.")
    return dict(named)


def load_model(study: Study, folder: Path) -> PatientModel:
    """The study's model with the parameters and normalisation of the model in `folder`.

    Raises:
        RunError: there is none that can be read, or it is of another study.
    """
    model = PatientModel(study)
    named = read_model(folder)
    try:
        load_state(model, Arrays.pack({b.name: named[b.name] for b in state_manifest(model)}))
    except (KeyError, ValueError):
        raise RunError(
            f"Expected the model of the study in {folder}, found another. Copy the run's folder "
            "again."
        ) from None
    return model


def study_of_model(folder: Path) -> Study | None:
    """The study that the model in `folder` is of; None for a folder of bare weights.

    Raises:
        StudyError: there is a `study.toml`, and it is malformed.
    """
    path = folder / "study.toml"
    if not path.is_file():
        return None
    try:
        return load_study(path)
    except StudyError as fault:
        raise StudyError(f"The study of the model in {folder} cannot be read. {fault}") from fault
