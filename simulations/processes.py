"""Which disease process a study is simulated with: one that fits any study, and the named ones.

A study file is all that is needed: its granularities and outcomes decide what there is to draw. Two
of the shipped studies ask for something special, and are named in `PROCESSES`, in no other place.

Letters of shapes: L latent dimensions.
"""

from collections.abc import Callable, Mapping
from itertools import cycle

import numpy as np

from common.errors import StudyError
from common.granularities import ImagesGranularity, SeriesGranularity
from common.outcomes import ClassOutcome, RegressionOutcome
from common.seeds import seed_of
from common.study import Study
from simulations.disease import (
    DiseaseProcess,
    Driver,
    Floats,
    InteractionDriver,
    LinearDriver,
    Treatment,
    View,
)

DRIVER_SPREAD = 2.0  # the standard deviation of every linear driver
_SEVERITY_PART = 0.35  # of a driver's variance


def process_of(study: Study, seed: int) -> DiseaseProcess:
    """The disease process of a study; it depends on the study's names and the seed alone."""
    return PROCESSES.get(study.name, severity_process)(study, seed)


def severity_process(study: Study, seed: int) -> DiseaseProcess:
    """Severity, of which every granularity shows a little, and facets that few show.

    Of the granularities in the order of the study, i shows the facets i and i + 1 (of as many as
    there are granularities, and three at least). So neighbours overlap in one facet, and no
    granularity shows the whole. Every outcome rises with severity, and depends on each facet with a
    weight and sign of its own.
    """
    num_facets = _num_facets(study)
    views = {
        name: _severity_view(num_facets, place, np.random.default_rng(_seed(study, seed, name)))
        for place, name in enumerate(study.granularities)
    }
    drivers = {name: _severity_driver(study, seed, name) for name in study.outcomes}
    return DiseaseProcess(views=views, drivers=drivers)


def treatment_process(study: Study, seed: int) -> DiseaseProcess:
    """The severity process, and a randomised treatment whose effect depends on severity and facets.

    The first outcome must be a regression, whose range holds the transformed response.

    Raises:
        StudyError: it is none, or its range does not hold 0.
    """
    process = severity_process(study, seed)
    target, outcome = next(iter(study.outcomes.items()))
    if not isinstance(outcome, RegressionOutcome) or not outcome.range[0] < 0 < outcome.range[1]:
        raise StudyError(
            f"Expected a regression with a range around 0 as the first outcome of {study.name}, "
            f"found {target}. Its column holds the transformed response of a treatment."
        )
    limit = min(-outcome.range[0], outcome.range[1])
    effect = _severity_driver(study, seed, target, intercept=0.05 * limit, spread=0.1 * limit)
    baseline = _severity_driver(study, seed, "baseline", spread=0.03 * limit)
    treatment = Treatment(
        target=target, limit=limit, baseline=baseline, effect=effect, noise=0.03 * limit
    )
    return DiseaseProcess(
        views=process.views, drivers={**process.drivers, target: effect}, treatment=treatment
    )


def interaction_process(study: Study, seed: int) -> DiseaseProcess:
    """Outcomes with classes that the first images and the first series tell of, only together.

    Each granularity shows a facet of its own and nothing else. An outcome with classes depends on
    whether the facets of the images and of the series have the same sign: an exclusive or. The
    other outcomes are what is measured of one of the two alone, in turn: of the images, the series.

    Raises:
        StudyError: the study lacks images or series.
    """
    names = list(study.granularities)
    places = []
    for kind in (ImagesGranularity, SeriesGranularity):
        found = [i for i, g in enumerate(study.granularities.values()) if isinstance(g, kind)]
        if not found:
            raise StudyError(
                f"Expected images and a series in the study {study.name}, found "
                f"{', '.join(names)}. Its outcome is visible in both together."
            )
        places.append(1 + found[0])
    views = {}
    for place, name in enumerate(names, start=1):
        # In every summary, so that whatever an encoder takes up first of a file tells of it.
        loading_KL = np.zeros((3, 1 + len(names)))
        loading_KL[:, place] = 1.0
        views[name] = View(loading_KL=loading_KL, noise_K=np.full(3, 0.5))
    together = InteractionDriver(first=places[0], second=places[1], strength=2.5)
    alone = cycle(
        LinearDriver(weight_L=DRIVER_SPREAD * np.eye(1 + len(names))[place]) for place in places
    )
    drivers: dict[str, Driver] = {
        name: together if isinstance(outcome, ClassOutcome) else next(alone)
        for name, outcome in study.outcomes.items()
    }
    return DiseaseProcess(views=views, drivers=drivers)


# By the name of the study; all others are of the severity process.
PROCESSES: Mapping[str, Callable[[Study, int], DiseaseProcess]] = {
    "demo-treatment": treatment_process,
    "demo-fracture": interaction_process,
}


def _num_facets(study: Study) -> int:
    return max(3, len(study.granularities))


def _seed(study: Study, seed: int, name: str) -> int:
    return seed_of(seed, study.name, "process", name)


def _severity_view(num_facets: int, place: int, random: np.random.Generator) -> View:
    """Three summaries: severity with some of two facets, and the two facets, rotated."""
    facets = [1 + place % num_facets, 1 + (place + 1) % num_facets]
    angles = random.uniform(0, 2 * np.pi, size=2)
    loading_KL = np.zeros((3, 1 + num_facets))
    loading_KL[0, 0] = 0.8
    loading_KL[0, facets] = 0.6 * np.array([np.cos(angles[0]), np.sin(angles[0])])
    loading_KL[1, facets] = [np.cos(angles[1]), np.sin(angles[1])]
    loading_KL[2, facets] = [-np.sin(angles[1]), np.cos(angles[1])]
    return View(loading_KL=loading_KL, noise_K=np.array([0.8, 0.5, 0.5]))


def _severity_driver(
    study: Study, seed: int, name: str, *, intercept: float = 0.0, spread: float = DRIVER_SPREAD
) -> LinearDriver:
    random = np.random.default_rng(_seed(study, seed, f"outcome {name}"))
    num_facets = _num_facets(study)
    facets_L: Floats = random.uniform(0.5, 1.5, num_facets) * random.choice([-1.0, 1.0], num_facets)
    facets_L *= np.sqrt((1 - _SEVERITY_PART) / (facets_L @ facets_L))
    weight_L = np.concatenate([[np.sqrt(_SEVERITY_PART)], facets_L])
    return LinearDriver(weight_L=spread * weight_L, intercept=intercept)
