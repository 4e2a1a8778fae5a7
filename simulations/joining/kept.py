"""Finished pieces on disk, so that an interrupted command goes on where it stopped.

A file is named after all that its numbers depend on: study, seed, data and code. It holds metrics
on resamples and counts, never a patient's prediction or outcome.
"""

import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_atomically
from common.study import Study
from simulations.joining.resample import People
from simulations.joining.training import Measured, Piece
from simulations.versions import code_version, data_version

_ABOUT = "about"


def version_of(sites: Path) -> str:
    """A short hash of the site folders' files (names, sizes, times) and of the code that is run."""
    return hashlib.sha256(f"{code_version()} {data_version(sites)}".encode()).hexdigest()[:12]


def path_of(piece: Piece, study: Study, *, folder: Path, version: str) -> Path:
    """Where the numbers of a piece are kept.

    Args:
        study: with the seed of the piece.
    """
    key = hashlib.sha256(f"{piece.name} {study.hash} {version}".encode()).hexdigest()[:12]
    return folder / f"seed-{piece.seed}-{piece.kind.replace(' ', '-')}-{key}.npz"


def save(measured: Measured, path: Path) -> None:
    """Writes the numbers of a piece to a file, which appears whole or not at all."""
    names = [(arm, site) for arm, by_site in measured.values.items() for site in by_site]
    about: dict[str, Any] = {
        "names": names,
        "reasons": measured.reasons,
        "people": {site: asdict(people) for site, people in measured.people.items()},
    }
    arrays = {str(n): measured.values[arm][site] for n, (arm, site) in enumerate(names)}
    buffer = io.BytesIO()
    about_text = np.asarray(json.dumps(about))
    np.savez_compressed(buffer, allow_pickle=False, **{_ABOUT: about_text, **arrays})
    write_atomically(path, buffer.getvalue(), durable=False)


def load(path: Path) -> Measured:
    """What `save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        about = json.loads(str(arrays[_ABOUT]))
        values: dict[str, dict[str, Any]] = {arm: {} for arm in about["reasons"]}
        for n, (arm, site) in enumerate(about["names"]):
            values[arm][site] = arrays[str(n)]
    return Measured(
        values=values,
        reasons=about["reasons"],
        people={site: People(**fields) for site, fields in about["people"].items()},
    )
