"""Hospitals that lack granularities by order: what a federation would be worth if they did.

A data set in which every hospital has everything cannot show what a missing scanner costs. So some
granularities are taken from chosen hospitals' training patients, as if never measured.
Held-out patients keep theirs: what they show is decided where they are predicted.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.data import ArraysByName, Cohort
from client.training import to_device
from client.withholding import released_counts
from common.errors import StudyError
from common.study import Study
from simulations.bench.plain_loop import PlainSite

# Names of granularities by hospital.
Lacking = Mapping[str, frozenset[str]]
NOTHING: Lacking = {}


def lacking_of(texts: Sequence[str]) -> Lacking:
    """What is taken from whom, from texts like "south=vitals,notes".

    Raises:
        StudyError: a text is of another form, or a hospital is named twice.

    >>> {site: sorted(names) for site, names in lacking_of(["south=vitals,notes"]).items()}
    {'south': ['notes', 'vitals']}
    """
    lacking: dict[str, frozenset[str]] = {}
    for text in texts:
        site, _, listed = text.partition("=")
        names = frozenset(name.strip() for name in listed.split(","))
        if not site or not all(names):
            raise StudyError(
                f"Expected --lacking HOSPITAL=GRANULARITY,GRANULARITY, found '{text}'. "
                "Write for instance south=vitals,notes."
            )
        if site in lacking:
            raise StudyError(
                f"Expected each hospital once, found --lacking of '{site}' twice. "
                "Write all that it lacks behind one =, with commas."
            )
        lacking[site] = names
    return lacking


def check_lacking(lacking: Lacking, study: Study, sites: Collection[str]) -> None:
    """Nothing, if the hospitals and the granularities exist, and each hospital keeps one.

    Args:
        sites: the names of all hospitals.

    Raises:
        StudyError: they do not, or it does not.
    """
    names = ", ".join(study.granularities)
    for site, taken in lacking.items():
        unknown = sorted(taken - set(study.granularities))
        if site not in sites:
            raise StudyError(
                f"Expected hospitals among {', '.join(sorted(sites))} to lack something, found "
                f"'{site}'. Correct --lacking."
            )
        if unknown:
            raise StudyError(
                f"Expected granularities of the study ({names}) to be lacking at '{site}', found "
                f"{', '.join(unknown)}. Correct --lacking."
            )
        if len(taken) == len(study.granularities):
            raise StudyError(
                f"Expected '{site}' to keep one of {names}, found all of them lacking. Correct "
                "--lacking."
            )


def as_if_lacking(site: PlainSite, lacking: Lacking) -> PlainSite:
    """The hospital as if none of its training patients had what it is to lack.

    Guarantees:
        - Neither training, normalisation nor the counts that weigh its updates see anything of it.
        - Held-out patients are as they were.
    """
    taken = lacking.get(site.name, frozenset()) & site.cohort.arrays.keys()
    if not taken:
        return site
    cohort = _taken_from_training(site.cohort, taken)
    return replace(
        site,
        counts=released_counts(cohort.train.counts(), site.policy),
        cohort=cohort,
        train=to_device(cohort.train, torch.device("cpu")),
    )


def _taken_from_training(cohort: Cohort, taken: frozenset[str]) -> Cohort:
    """Zero and false everywhere, as what is absent is read: moments do not ask who is present."""
    arrays: dict[str, ArraysByName] = {
        name: {key: _kept(value, cohort.is_test_B) for key, value in named.items()}
        if name in taken
        else named
        for name, named in cohort.arrays.items()
    }
    return replace(cohort, arrays=arrays)


def _kept(value: NDArray[Any], chosen_B: NDArray[np.bool_]) -> NDArray[Any]:
    kept = np.zeros_like(value)
    kept[chosen_B] = value[chosen_B]
    return kept
