"""Membership inference against the models of simulated hospitals, with and without privacy."""

from collections.abc import Sequence
from pathlib import Path

from client.config import load_site_config
from client.data import Cohort, read_cohort, usable_cohort
from common.study import Study
from common.study_file import override, with_patient_privacy, without_privacy
from simulations.attacks.exposure import Protection
from simulations.attacks.inferred import Measured
from simulations.attacks.membership import attack_membership
from simulations.cohort import SiteEffects, write_cohort

TOLD = "told members"
_HOSPITALS, _PATIENTS = 2, 200


def attack_members(
    study: Study,
    arms: Sequence[Protection],
    *,
    seed: int,
    num_models: int,
    folder: Path,
    measured: Measured,
) -> None:
    """Adds what LiRA and the loss threshold reach against each arm to `measured`.

    Two hospitals of 150 training patients each; a model is trained on half of them by the study's
    own plan. Whether an attack told members is judged as `tells_members` says.

    Args:
        num_models: 4 or more; all but one are the shadows of each.

    Raises:
        StudyError: the study cannot be private, or cannot be trained anew.
    """
    plain = override(without_privacy(study), training__seed=seed)
    hospitals = _hospitals(plain, folder, seed)
    for arm in arms:
        attacked = plain
        if arm.epsilon is not None:
            attacked = with_patient_privacy(plain, epsilon=arm.epsilon, delta=arm.delta)
        found = attack_membership(
            attacked, hospitals, num_models=num_models, seed=seed, jobs=1, target=arm.name
        )
        for finding in found:
            measured[finding.attack, arm.name] = {
                "AUC": finding.measures["auc"],
                "hits at 1 % false alarms": finding.measures["tpr_at_0.01"],
                TOLD: float(finding.succeeded),
            }


def _hospitals(study: Study, folder: Path, seed: int) -> dict[str, Cohort]:
    effects = [
        SiteEffects(
            name=f"hospital-{number + 1}",
            num_patients=_PATIENTS,
            granularity_missing=0.0,
            cell_missing=0.0,
        )
        for number in range(_HOSPITALS)
    ]
    sites = write_cohort(study, effects, folder / "members", seed=seed)
    return {
        site.name: usable_cohort(*read_cohort(load_site_config(site), study)).train
        for site in sites
    }
