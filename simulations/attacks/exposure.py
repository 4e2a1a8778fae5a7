"""What an attacker is given: updates that simulated patients' hospitals really send.

The setting is the attacker's best within what a study may say: one step of plain gradient descent
on the patients who are attacked and nobody else, with a learning rate of 1. Whatever is attacked
here has passed `client.site.Site.answer`, the door of a hospital. Simulated patients alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.audit import AuditLog, audit_path
from client.charging import Unledgered
from client.config import load_site_config
from client.data import read_cohort, usable_cohort
from client.prepared import prepare
from client.site import Site
from client.training import Patients, to_device
from client.trust import Simulated
from client.work import PrivateWork
from common.arrays import Arrays
from common.code_version import code_fingerprint
from common.contract import validate
from common.errors import RunError, StudyError
from common.messages import OK, Task, TaskKind
from common.privacy.mechanisms import NoiseSource
from common.privacy.plan import plan_of
from common.seeds import seed_of
from common.study import Study
from common.study_file import override, with_patient_privacy, without_privacy
from simulations.cohort import SiteEffects, simulate_site
from simulations.site_folder import write_site_folder

DELTA = 1e-4
# Noise that `train_privately` accepts, and that is lost in rounding.
_SILENT = 1e-9


@dataclass(frozen=True, kw_only=True)
class Protection:
    """How far the hospital that is attacked protects its patients.

    Attributes:
        name: for tables.
        epsilon: None without noise; else one step may spend all of it.
        clips: whether each patient's gradient is clipped, where there is no noise.
        delta: of a private one.
    """

    name: str
    epsilon: float | None = None
    clips: bool = False
    delta: float = DELTA

    @property
    def is_clipping(self) -> bool:
        """Whether no patient can move the update by more than the clip."""
        return self.clips or self.epsilon is not None


PLAIN = Protection(name="no privacy")
CLIPPED = Protection(name="clipped only", clips=True)


def protections(epsilon: float) -> tuple[Protection, ...]:
    """No privacy; clipping alone; and privacy, all of whose epsilon one step may spend."""
    return PLAIN, CLIPPED, Protection(name=f"epsilon {epsilon:g}", epsilon=epsilon)


def exposed(study: Study, *, batch_size: int, seed: int) -> Study:
    """The study as an attacker would wish it: one step, nothing drawn at random, no own blocks.

    The normalisation is that of the public ranges, so that no epsilon goes to anything else.

    Args:
        seed: of the first weights, and of a simulated site's noise.

    Raises:
        StudyError: it cannot be changed so.
    """
    table = without_privacy(study).model_dump(mode="json", exclude_none=True)
    table["training"] = {
        "rounds": 1,
        "local_steps": 1,
        "batch_size": batch_size,
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "seed": seed,
    }
    table["strategy"] = {"name": "fedavg"}
    table["normalisation"] = {"method": "public_range"}
    table.pop("personal", None)
    table["model"] |= {
        "dropout": 0.0,
        "granularity_dropout": 0.0,
        "site_intercept_sd": 0.0,
        "frozen": [],
    }
    for granularity in table["granularities"].values():
        granularity.pop("augment", None)
    where = f"study '{study.name}' as it is attacked"
    return validate(table, Study, StudyError, where=where)


def protected(study: Study, protection: Protection) -> Study:
    """The study with what the hospital does to protect its patients. Raises `StudyError`."""
    if not protection.is_clipping:
        return without_privacy(study)
    epsilon = protection.epsilon or 1.0
    private = with_patient_privacy(study, epsilon=epsilon, delta=protection.delta)
    return override(private, privacy__spare_rounds=0)


def write_exposed(
    study: Study, folder: Path, *, num_patients: int, seed: int, keep: int | None = None
) -> Path:
    """The folder of one simulated hospital whose patients have everything, all to train on.

    Its policy lets so few take part, and be counted: in a larger hospital, a step of a small batch
    shows the same.

    Args:
        keep: the number of patients to write, of the `num_patients` that are simulated.
    """
    effects = SiteEffects(
        name="attacked", num_patients=num_patients, granularity_missing=0.0, cell_missing=0.0
    )
    site = simulate_site(study, effects, seed=seed)
    # The earlier of the kept ones are theirs: all tables name patients.
    patients = site.patients.head(keep or num_patients).assign(
        **{study.evaluation.split_column: "train"}
    )
    kept = set(patients["patient_id"])
    tables = {
        name: r.table[r.table["patient_id"].isin(kept)]
        for name, r in site.renderings.items()
        if r.table is not None
    }
    images = {
        name: {
            Path(file).name: r.images[Path(file).name] for file in tables[name]["file"].to_list()
        }
        for name, r in site.renderings.items()
        if r.images
    }
    return write_site_folder(
        folder,
        site=effects.name,
        dataset_id=f"simulated-{study.name}-{seed}-attacked",
        patients=patients,
        tables=tables,
        images=images,
        min_patients=1,
        smallest_group=1,
        source=f"Simulated patients of the study {study.name}, seed {seed}.",
    )


def patients_in(folder: Path, study: Study) -> Patients:
    """The training patients of a folder, as the site's own code reads them: the attacker's goal."""
    cohort = usable_cohort(*read_cohort(load_site_config(folder), study)).train
    return to_device(cohort, torch.device("cpu"))


def update_sent(
    folder: Path, study: Study, protection: Protection, model: Arrays, *, state: Path
) -> Arrays:
    """The update that leaves the site's door when the coordinator sends `model`, and asks once.

    Guarantees:
        - It is what `Site.answer` returns, with the site's noise and after its rules of release.
        - Equal arguments give equal updates.

    Args:
        study: as `protected` gives it.
        state: a folder for the site's books, of this call alone.

    Raises:
        RunError: the site refuses the task; the code is told.
    """
    task = Task(
        kind=TaskKind.TRAIN,
        run_id="attack",
        round=0,
        nonce="attack",
        study_hash=study.hash,
        code=code_fingerprint(),
        arrays=model,
    )
    site = _site(folder, study, protection, state)
    try:
        reply = site.answer(task)
    finally:
        site.close()
    if reply.status != OK or reply.arrays is None:
        raise RunError(
            f"Expected the attacked hospital to answer, found the refusal '{reply.status}'. "
            "Nothing can be recovered from it."
        )
    return reply.arrays


def _site(folder: Path, study: Study, protection: Protection, state: Path) -> Site:
    """The site as simulations open it; where it only clips, with a plan whose noise is nothing."""
    if not protection.clips:
        return Site.simulated(folder, study, state_dir=state)
    config = replace(load_site_config(folder), state_dir=state)
    prepared = prepare(config, study, device=torch.device("cpu"), is_simulated=True)
    plan = replace(prepared.plan, noise_multiplier=_SILENT)
    work = PrivateWork(
        replace(prepared, plan=plan),
        site=config.name,
        observer=None,
        sources=lambda round_number, kind: NoiseSource.seeded(
            seed_of(study.training.seed, round_number, kind)
        ),
    )
    return Site(
        config=config,
        works={study.hash: work},
        charging=Unledgered(),
        audit=AuditLog(audit_path(state), durable=False),
        trust=Simulated(),
    )


def gradients_of(update: Arrays, num_patients: int) -> Mapping[str, NDArray[np.float64]]:
    """The sum of the patients' gradients by block, float64: minus the update, times how many."""
    return {n: -num_patients * v.astype(np.float64) for n, v in update.unpack().items()}


def noise_sd(study: Study, protection: Protection) -> float:
    """Of each number of the gradient of a single patient: an attacker has it from the study."""
    if protection.epsilon is None:
        return 0.0
    plan = plan_of(study, cohort_size=1)
    return plan.noise_multiplier * plan.max_grad_norm
