"""What attacks recover from updates that left a hospital's own door, and what privacy leaves them.

Five seeds and all granularities: `wardround experiment attacks demo`, whose figures are in
docs/attacks.md.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.site import Site
from common.code_version import code_fingerprint
from common.errors import RunError
from common.messages import Task, TaskKind
from common.models.patient_model import PatientModel, state_of
from common.study import Study
from common.study_file import load_study, override, with_patient_privacy, without_granularity
from simulations.attacks import analytic_inversion, gradient_inversion, imprint
from simulations.attacks.exposure import (
    PLAIN,
    Protection,
    exposed,
    gradients_of,
    noise_sd,
    patients_in,
    protected,
    protections,
    update_sent,
    write_exposed,
)
from simulations.attacks.first_layer import Public, Records, first_layer, records_of, recovery
from simulations.cohort import SiteEffects, write_cohort

EPSILON = 8.0
NONE, CLIPPED, PRIVATE = protections(EPSILON)
SEED = 1
# The search finds this patient's image from its first start; another's may take ten.
IMAGE_SEED = 3


def study_with(*kept: str) -> Study:
    """The demo study with these granularities alone."""
    study = load_study("demo")
    for name in [name for name in study.granularities if name not in kept]:
        study = without_granularity(study, name)
    return study


@pytest.fixture(scope="module")
def tables() -> Study:
    return study_with("labs", "lifestyle")


@pytest.fixture(scope="module")
def known(tables: Study, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Records of patients of the attacker's own."""
    folder = tmp_path_factory.mktemp("known")
    site = write_exposed(tables, folder / "site", num_patients=200, seed=10_001)
    layer = first_layer(tables)
    assert layer is not None
    return records_of(patients_in(site, tables), layer, tables)


def analytic(
    study: Study, known: Records, protection: Protection, size: int, folder: Path
) -> float:
    """The part of `size` patients of a step whose record is read from their update."""
    attacked = exposed(study, batch_size=size, seed=SEED)
    layer = first_layer(attacked)
    assert layer is not None
    site = write_exposed(attacked, folder / "site", num_patients=size, seed=SEED)
    study = protected(attacked, protection)
    model = state_of(PatientModel(study))
    update = update_sent(site, study, protection, model, state=folder / "state")
    truth = records_of(patients_in(site, attacked), layer, attacked)
    return recovery(analytic_inversion.invert(update, layer), truth, Public.of(known)).recovered


@pytest.mark.threat("S0-1")
@pytest.mark.parametrize(
    ("protection", "size", "expected"),
    [(NONE, 1, 1.0), (CLIPPED, 1, 1.0), (NONE, 32, 0.0), (PRIVATE, 1, 0.0), (PRIVATE, 32, 0.0)],
    ids=lambda value: value.name if isinstance(value, Protection) else str(value),
)
def test_the_record_of_one_patient_is_in_an_update_unless_there_is_noise(
    tables: Study,
    known: Records,
    protection: Protection,
    size: int,
    expected: float,
    tmp_path: Path,
) -> None:
    assert analytic(tables, known, protection, size, tmp_path) == expected


@pytest.mark.threat("S0-1")
def test_a_batch_of_one_at_an_ordinary_hospital_shows_that_patient(
    tables: Study, tmp_path: Path
) -> None:
    effects = SiteEffects(name="large", num_patients=100, cell_missing=0.0)
    (folder,) = write_cohort(tables, [effects], tmp_path / "sites", seed=SEED)
    study = exposed(tables, batch_size=1, seed=SEED)
    update = update_sent(
        folder, study, PLAIN, state_of(PatientModel(study)), state=tmp_path / "state"
    )
    layer = first_layer(study)
    assert layer is not None
    truth = records_of(patients_in(folder, study), layer, study)
    guesses = analytic_inversion.invert(update, layer)
    num_patients = len(truth)
    assert num_patients > 50
    found = recovery(guesses, truth, Public.of(truth)).recovered
    assert found == pytest.approx(1 / num_patients)


def imprinted(study: Study, known: Records, protection: Protection, folder: Path) -> float:
    attacked = exposed(study, batch_size=16, seed=SEED)
    layer = first_layer(attacked)
    assert layer is not None
    site = write_exposed(attacked, folder / "site", num_patients=16, seed=SEED)
    study, public = protected(attacked, protection), Public.of(known)
    model = state_of(PatientModel(study))
    sent = imprint.crafted(model, layer, public, is_clipped=protection != NONE, seed=SEED)
    update = update_sent(site, study, protection, sent, state=folder / "state")
    guesses = imprint.read_imprint(update, layer, public)
    truth = records_of(patients_in(site, attacked), layer, attacked)
    return recovery(guesses, truth, public).recovered


@pytest.mark.threat("S1-2")
def test_a_crafted_model_reads_patients_out_of_a_batch_unless_there_is_noise(
    tables: Study, known: Records, tmp_path: Path
) -> None:
    assert imprinted(tables, known, NONE, tmp_path / "none") >= 0.25
    assert imprinted(tables, known, CLIPPED, tmp_path / "clipped") > 0.0
    assert imprinted(tables, known, PRIVATE, tmp_path / "private") == 0.0


@pytest.mark.threat("S1-2")
def test_the_door_cannot_tell_a_crafted_model_from_an_honest_one(
    tables: Study, known: Records, tmp_path: Path
) -> None:
    effects = SiteEffects(name="ordinary", num_patients=100)
    (folder,) = write_cohort(tables, [effects], tmp_path / "sites", seed=SEED)
    study = with_patient_privacy(tables, epsilon=EPSILON, delta=1e-4)
    layer = first_layer(study)
    assert layer is not None
    model = state_of(PatientModel(study))
    sent = imprint.crafted(model, layer, Public.of(known), is_clipped=True, seed=SEED)
    task = Task(
        kind=TaskKind.TRAIN,
        run_id="run",
        round=0,
        nonce="n",
        study_hash=study.hash,
        code=code_fingerprint(),
        arrays=sent,
    )
    site = Site.simulated(folder, study, state_dir=tmp_path / "state")
    assert site.answer(task).status == "ok"


def test_an_encoder_without_a_hidden_layer_cannot_be_imprinted(
    tables: Study, known: Records
) -> None:
    layer = first_layer(tables)
    assert layer is not None
    model = state_of(PatientModel(tables))
    with pytest.raises(ValueError, match="hidden layer"):
        imprint.crafted(
            model, replace(layer, second=None), Public.of(known), is_clipped=False, seed=0
        )


@pytest.fixture(scope="module")
def pictures() -> Study:
    attacked = exposed(study_with("imaging"), batch_size=1, seed=IMAGE_SEED)
    return gradient_inversion.with_telling_encoder(attacked, "imaging")


@pytest.mark.threat("S0-1")
@pytest.mark.parametrize("protection", [CLIPPED, PRIVATE], ids=lambda p: p.name)
def test_the_image_of_one_patient_is_in_a_clipped_update_unless_there_is_noise(
    pictures: Study, protection: Protection, tmp_path: Path
) -> None:
    site = write_exposed(pictures, tmp_path / "site", num_patients=1, seed=IMAGE_SEED)
    others = write_exposed(pictures, tmp_path / "others", num_patients=50, seed=10_000 + IMAGE_SEED)

    def images(folder: Path) -> np.ndarray:
        return patients_in(folder, pictures).inputs["imaging"]["images_BNHW"][:, 0].numpy()

    album = gradient_inversion.Album.of(images(others))
    study = protected(pictures, protection)
    model = state_of(PatientModel(study))
    update = update_sent(site, study, protection, model, state=tmp_path / "state")
    found = gradient_inversion.invert(
        gradients_of(update, 1),
        study,
        "imaging",
        album,
        noise_sd=noise_sd(study, protection),
    )
    original = images(site)[0] / 255
    found_db = gradient_inversion.psnr_db(found, original)
    mean_db = gradient_inversion.psnr_db(album.mean_HW, original)
    assert gradient_inversion.is_recovered(found_db, mean_db) == (protection is CLIPPED)
    # The limit of the table of threats: no better than saying what images look like.
    assert (found_db <= mean_db + 1) == (protection is PRIVATE)


def test_equal_arguments_give_equal_updates(tables: Study, tmp_path: Path) -> None:
    attacked = exposed(tables, batch_size=2, seed=SEED)
    site = write_exposed(attacked, tmp_path / "site", num_patients=2, seed=SEED)
    study = protected(attacked, PRIVATE)
    model = state_of(PatientModel(study))
    once, again = (
        update_sent(site, study, PRIVATE, model, state=tmp_path / name) for name in ("a", "b")
    )
    assert once == again


def test_a_refusal_ends_the_attack_in_its_code(tables: Study, tmp_path: Path) -> None:
    attacked = exposed(tables, batch_size=1, seed=SEED)
    site = write_exposed(attacked, tmp_path / "site", num_patients=1, seed=SEED)
    other = override(attacked, model__width=8)
    model = state_of(PatientModel(other))
    with pytest.raises(RunError, match="arrays_mismatch"):
        update_sent(site, attacked, PLAIN, model, state=tmp_path / "state")
