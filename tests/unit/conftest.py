"""A tiny study and the folders of its hospitals, for the tests of the hospital side."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch

from client.config import load_site_config
from client.egress import Declared
from client.site import Site
from common.normalisation import moments_manifest
from common.study import Study
from common.study_file import override, study_from_toml, study_to_toml, with_patient_privacy
from simulations.site_folder import write_site_folder
from tests.unit.consortium import join
from tests.unit.egress_cases import UPDATE
from tests.unit.private_site_cases import BUDGET, DELTA, EPSILON

# Two granularities, so that one can be absent; a missing code; a category with a number's name.
_STUDY = """
[study]
name = "tiny"
[outcomes.event]
column = "event"
kind = "binary"
classes = ["0", "1"]
[granularities.labs]
kind = "tabular"
hidden = [4]
max_unusable_fraction = 0.1
[granularities.labs.features]
age_years = { kind = "numeric", unit = "years", range = [18, 100] }
cholesterol_mg_dl = { kind = "numeric", unit = "mg/dl", range = [60, 500], missing_codes = [0] }
vessels = { kind = "categorical", categories = ["0", "1", "2"] }
[granularities.lifestyle]
kind = "tabular"
hidden = [4]
[granularities.lifestyle.features]
smoker = { kind = "categorical", categories = ["never", "current"] }
steps_per_day = { kind = "numeric", unit = "steps/day", range = [0, 40000] }
[evaluation]
score_bins = 10
[model]
width = 4
[training]
rounds = 3
local_epochs = 1
batch_size = 16
learning_rate = 0.1
"""

# Bit-equal results are claimed for one thread; and two processes share two cores here.
torch.set_num_threads(1)

SiteWriter = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_study() -> Study:
    return study_from_toml(_STUDY)


@pytest.fixture(scope="session")
def patients() -> Callable[..., pd.DataFrame]:
    """Sixty patients with everything observed; 45 to train on and 15 held out."""

    def table(num_patients: int = 60, seed: int = 0) -> pd.DataFrame:
        random = np.random.default_rng(seed)
        age = random.integers(20, 90, num_patients)
        return pd.DataFrame(
            {
                "patient_id": [f"p{i:04d}" for i in range(num_patients)],
                "split": ["test" if i % 4 == 3 else "train" for i in range(num_patients)],
                "event": (age + random.normal(0, 10, num_patients) > 55).astype(int),
                "age_years": age,
                "cholesterol_mg_dl": random.integers(100, 300, num_patients),
                "vessels": random.integers(0, 3, num_patients),
                "smoker": random.choice(["never", "current"], num_patients),
                "steps_per_day": random.integers(0, 20000, num_patients),
            }
        )

    return table


@pytest.fixture(scope="session")
def new_site(
    tmp_path_factory: pytest.TempPathFactory, patients: Callable[..., pd.DataFrame]
) -> SiteWriter:
    """Writes a new site folder and returns it.

    `table` is a data frame, or the bytes of `patients.csv`; `site` and `policy` are keys that
    replace those of `site.toml`, and None removes one.
    """

    def write(
        table: pd.DataFrame | bytes | None = None,
        *,
        name: str = "alpha",
        site: dict[str, object] | None = None,
        policy: dict[str, object] | None = None,
    ) -> Path:
        folder = tmp_path_factory.mktemp("hospital") / name
        write_site_folder(folder, site=name, dataset_id="d", patients=patients(), source="A test.")
        # Not as a simulated site's: a hospital's table may lack what every table must have.
        if isinstance(table, pd.DataFrame):
            table = table.to_csv(index=False).encode()
        if table is not None:
            (folder / "patients.csv").write_bytes(table)
        _amend(folder / "site.toml", {"site": site or {}, "policy": policy or {}})
        return folder

    return write


def _amend(path: Path, changes: dict[str, dict[str, object]]) -> None:
    sections = tomllib.loads(path.read_text(encoding="utf-8"))
    for section, keys in changes.items():
        merged = sections[section] | keys
        sections[section] = {key: value for key, value in merged.items() if value is not None}
    path.write_text(tomli_w.dumps(sections), encoding="utf-8")


@pytest.fixture(scope="session")
def private(tiny_study: Study) -> Study:
    public = override(tiny_study, normalisation__method="public_range")
    return with_patient_privacy(public, epsilon=EPSILON, delta=DELTA)


@pytest.fixture(scope="session")
def site_dir(new_site: SiteWriter) -> Path:
    """The folder of the site alpha, which no test may change."""
    return new_site()


@pytest.fixture
def open_site(tmp_path: Path, tiny_study: Study):
    """Opens a simulated site, whose books are in `tmp_path / "state"`."""

    def open_it(folder: Path, study: Study = tiny_study, **options: object) -> Site:
        return Site.simulated(folder, study, state_dir=tmp_path / "state", **options)

    return open_it


@pytest.fixture(scope="session")
def standing_site(
    site_dir: Path, tiny_study: Study, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """One site for the many examples of hypothesis; an answer does not depend on those before."""
    state_dir = tmp_path_factory.mktemp("standing")
    return Site.simulated(site_dir, tiny_study, state_dir=state_dir)


@pytest.fixture
def open_real(new_site: Callable[..., Path]):
    """Opens a real site for studies that its policy accepts; closes it after the test."""
    opened: list[Site] = []

    def open_it(*studies: Study, folder: Path | None = None, **policy: Any) -> Site:
        hashes = [study.hash for study in studies]
        folder = folder or new_site(policy={**BUDGET, **policy, "accepted_studies": hashes})
        state = load_site_config(folder).state_dir
        (state / "studies").mkdir(parents=True, exist_ok=True)
        for study in studies:
            path = state / "studies" / f"{study.hash}.toml"
            path.write_text(study_to_toml(study), encoding="utf-8")
        join(folder)
        opened.append(Site.open(folder))
        opened[-1].folder = folder  # type: ignore[attr-defined]  # for the tests alone
        return opened[-1]

    yield open_it
    for site in opened:
        site.close()


@pytest.fixture
def declared(tiny_study: Study) -> Declared:
    """What the site of the tiny study has declared."""
    return Declared.of(tiny_study, update=UPDATE, moments=moments_manifest(tiny_study))
