"""Attacks that never ran, with measures that are easy to work out by hand."""

import numpy as np

from simulations.attacks.inferred import ATTRIBUTE
from simulations.attacks.reconstruction import IMAGES, IMPRINT, Gallery, Reconstructions

FROM_OUTCOMES = f"{ATTRIBUTE} from outcomes"


def seed_with(seed: int, *, recovered: float, gain: float) -> Reconstructions:
    """What one seed's attacks measured, of a picture, an imprint and an attribute."""
    grey = np.full((4, 4), 0.5)
    return Reconstructions(
        seed=seed,
        measured={
            (IMAGES, "no privacy"): {"PSNR, dB": 30.0 + seed, "recovered": recovered},
            (IMPRINT, "no privacy"): {"recovered of 16": 0.25, "by chance": 0.25},
            (FROM_OUTCOMES, "no privacy"): {"guessed right": 0.5 + gain},
        },
        gallery=Gallery(original=grey, mean=grey / 2, found={"no privacy": grey}),
        gains={(FROM_OUTCOMES, "no privacy"): [gain] * 10},
    )
