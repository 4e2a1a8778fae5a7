"""All attacks of `wardround experiment attacks` on one set of simulated patients."""

import tempfile
from dataclasses import replace
from pathlib import Path

from common.study import Study
from simulations.attacks.exposure import protections
from simulations.attacks.inferred import infer_attributes
from simulations.attacks.reconstruction import Reconstructions, reconstruct
from simulations.attacks.simulated_members import attack_members


def attack_all(
    study: Study, *, epsilon: float, seed: int, own_encoder: bool, num_shadows: int
) -> Reconstructions:
    """What every attack that the study allows reaches, with patients of `seed`.

    Guarantees:
        - Equal arguments give equal figures.
        - No patient but simulated ones is attacked.

    Args:
        own_encoder: as `reconstruct` takes it.
        num_shadows: models that each target of the membership attack is judged by, 3 or more; 0:
            no membership attack.

    Raises:
        StudyError: the study cannot be private, or cannot be trained anew.
    """
    arms = protections(epsilon)
    found = reconstruct(study, arms, seed=seed, own_encoder=own_encoder)
    measured = dict(found.measured)
    with tempfile.TemporaryDirectory(prefix="wardround-attacks-") as place:
        gains = infer_attributes(study, epsilon, seed, Path(place), measured)
        if num_shadows:
            attack_members(
                study,
                [arm for arm in arms if not arm.clips],
                seed=seed,
                num_models=num_shadows + 1,
                folder=Path(place),
                measured=measured,
            )
    return replace(found, measured=measured, gains=gains)
