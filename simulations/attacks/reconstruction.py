"""All attacks that read patients out of one update, against simulated hospitals, seed by seed.

Every update that is attacked has left a site's door (`exposure.update_sent`). What an attack may
know beside it comes from simulated patients of another hospital. Pure in its arguments and seeds.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.arrays import Arrays
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from simulations.attacks import analytic_inversion, gradient_inversion, imprint
from simulations.attacks.exposure import (
    Protection,
    exposed,
    gradients_of,
    noise_sd,
    patients_in,
    protected,
    update_sent,
    write_exposed,
)
from simulations.attacks.first_layer import (
    FirstLayer,
    Public,
    Records,
    first_layer,
    records_of,
    recovery,
)
from simulations.attacks.inferred import Key, Measured

IMAGES = "gradient inversion of images"
TABLES = "analytic inversion of tables"
IMPRINT = "imprint of a malicious coordinator"
_PUBLIC_PATIENTS = 200
_IMPRINT_BATCH = 16
_TABLE_BATCHES = (1, 2, 8, 32)
Grey = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A simulated patient's image, what others look like, and what was found by protection."""

    original: Grey
    mean: Grey
    found: Mapping[str, Grey]


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """What the attacks of one seed reached.

    Attributes:
        gains: by attack and protection, for each attacked patient: guessed by the attack, less
            guessed by the marginals.
    """

    seed: int
    measured: Measured
    gallery: Gallery | None = None
    gains: Mapping[Key, Sequence[float]] = field(default_factory=dict)


def reconstruct(
    study: Study, arms: Sequence[Protection], *, seed: int, own_encoder: bool = False
) -> Reconstructions:
    """The figures of all attacks that the study's granularities allow, with patients of `seed`.

    Guarantees:
        - Equal arguments give equal figures; an arm's do not depend on which others there are.
        - No patient but simulated ones is attacked.

    Args:
        arms: how far the hospital protects its patients: each is attacked.
        own_encoder: images are attacked as the study reads them, and not by the encoder that tells
            most.

    Raises:
        StudyError: the study cannot be private.
    """
    torch.set_num_threads(1)
    measured: Measured = {}
    with tempfile.TemporaryDirectory(prefix="wardround-attacks-") as place:
        folder = Path(place)
        gallery = _images(study, arms, seed, folder, measured, own_encoder=own_encoder)
        _tables(study, arms, seed, folder, measured)
    return Reconstructions(seed=seed, measured=measured, gallery=gallery)


def _images(
    study: Study,
    arms: Sequence[Protection],
    seed: int,
    folder: Path,
    measured: Measured,
    *,
    own_encoder: bool,
) -> Gallery | None:
    name = gradient_inversion.images_granularity(study)
    if name is None:
        return None
    attacked = exposed(study, batch_size=1, seed=seed)
    if not own_encoder:
        attacked = gradient_inversion.with_telling_encoder(attacked, name)
    site = write_exposed(attacked, folder / "image", num_patients=1, seed=seed)
    public = write_exposed(attacked, folder / "images", num_patients=50, seed=seed + 10_000)
    album = gradient_inversion.Album.of(_first_images(public, attacked, name))
    original = _first_images(site, attacked, name)[0] / 255.0
    mean_db = gradient_inversion.psnr_db(album.mean_HW, original)
    found = {}
    for protection in arms:
        private = protected(attacked, protection)
        state = folder / f"image-{protection.name}"
        update = update_sent(
            site, private, protection, state_of(PatientModel(private)), state=state
        )
        image = gradient_inversion.invert(
            gradients_of(update, 1), private, name, album, noise_sd=noise_sd(private, protection)
        )
        found[protection.name] = image
        found_db = gradient_inversion.psnr_db(image, original)
        measured[IMAGES, protection.name] = {
            "PSNR, dB": found_db,
            "PSNR of the mean image, dB": mean_db,
            "recovered": float(gradient_inversion.is_recovered(found_db, mean_db)),
        }
    return Gallery(original=original, mean=album.mean_HW, found=found)


def _first_images(folder: Path, study: Study, name: str) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = patients_in(folder, study).inputs[name]["images_BNHW"][:, 0].numpy()
    return images


def _tables(
    study: Study, arms: Sequence[Protection], seed: int, folder: Path, measured: Measured
) -> None:
    layer = first_layer(study)
    if layer is None:
        return
    whole = exposed(study, batch_size=1, seed=seed)
    others = write_exposed(
        whole, folder / "public", num_patients=_PUBLIC_PATIENTS, seed=seed + 10_000
    )
    known = records_of(patients_in(others, whole), layer, whole)
    public = Public.of(known)
    for protection in arms:
        figures: dict[str, float] = {}
        for size in _TABLE_BATCHES:
            batch = _Batch.of(study, protection, size, seed, folder, layer)
            guesses = analytic_inversion.invert(batch.ask(batch.model), layer)
            reached = recovery(guesses, batch.truth, public)
            figures[f"recovered of {size}"] = reached.recovered
            if size == 1:
                figures["error of 1, sd"] = reached.best_error
        measured[TABLES, protection.name] = figures
        if layer.second is not None:
            batch = _Batch.of(study, protection, _IMPRINT_BATCH, seed, folder, layer)
            measured[IMPRINT, protection.name] = _imprint(
                batch, layer, public, known, is_clipped=protection.is_clipping, seed=seed
            )


def _imprint(
    batch: "_Batch",
    layer: FirstLayer,
    public: Public,
    known: Records,
    *,
    is_clipped: bool,
    seed: int,
) -> dict[str, float]:
    sent = imprint.crafted(batch.model, layer, public, is_clipped=is_clipped, seed=seed)
    guesses = imprint.read_imprint(batch.ask(sent), layer, public)
    # As many records of other patients: what would be found by chance.
    num_units = sent.unpack()[layer.bias].size
    others = Records(values_NF=known.values_NF[:num_units], codes_NK=known.codes_NK[:num_units])
    return {
        f"recovered of {_IMPRINT_BATCH}": recovery(guesses, batch.truth, public).recovered,
        "by chance": recovery(others, batch.truth, public).recovered,
    }


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """The patients of one step at a hospital, and how to ask it for their update."""

    truth: Records
    model: Arrays
    ask: Callable[[Arrays], Arrays]

    @classmethod
    def of(
        cls,
        study: Study,
        protection: Protection,
        size: int,
        seed: int,
        folder: Path,
        layer: FirstLayer,
    ) -> "_Batch":
        plain = exposed(study, batch_size=size, seed=seed)
        site = write_exposed(plain, folder / f"batch-{size}", num_patients=size, seed=seed)
        private = protected(plain, protection)

        def ask(model: Arrays) -> Arrays:
            with tempfile.TemporaryDirectory(dir=folder) as state:
                return update_sent(site, private, protection, model, state=Path(state))

        truth = records_of(patients_in(site, plain), layer, plain)
        return cls(truth=truth, model=state_of(PatientModel(private)), ask=ask)
