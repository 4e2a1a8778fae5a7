"""Transfer: a study starts from the encoders of another one, or of a folder of weights.

Block by block: what belongs to one granularity or outcome, or to the fusion, is taken as a whole or
not at all, and the journal says which and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Arrays
from common.errors import RunError
from common.model_file import read_model, study_of_model
from common.models.patient_model import SHARED, block_owner
from common.study import Study

# What a section may change without changing what its encoder takes in or means.
_HARMLESS = {"augment", "max_unusable_fraction", "max_images", "masked_words", "weight"}
Named = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a study starts from.

    Attributes:
        model: parameters and normalisation, some of them from the source.
        taken: the granularities and outcomes ("patients": the fusion) that come from the source.
        left: the others, with the reason.
    """

    model: Arrays
    taken: frozenset[str]
    left: Mapping[str, str]


def transfer(study: Study, initial: Arrays, source: Path) -> Transfer:
    """The initial model of `study`, with every block of the model in `source` that fits.

    Guarantees:
        - An owner (granularity, outcome, fusion) is taken only if all its arrays are there in the
          same shapes and, where the source has its study, its section there says the same; of the
          fusion: its kind, heads and edges, and the order of granularities where it has one.
        - The normalisation of a granularity is taken with its encoder, which was trained behind it.

    Raises:
        RunError: `source` holds no readable model, or nothing in it fits.
        StudyError: the study in `source` is malformed.
    """
    named, given = dict(initial.unpack()), read_model(source)
    sections = _sections(study)
    other = study_of_model(source)
    others = None if other is None else _sections(other)
    left = {}
    owners = dict.fromkeys(block_owner(name) for name in named)
    for owner in owners:
        names = [name for name in named if block_owner(name) == owner]
        reason = _mismatch(names, named, given)
        if not reason and others is not None:
            reason = "" if sections[owner] == others.get(owner) else "described otherwise there"
        if reason:
            left[owner] = reason
        else:
            named |= {name: given[name] for name in names}
    taken = frozenset(owners) - frozenset(left)
    if not taken:
        reasons = "; ".join(f"{owner}: {reason}" for owner, reason in left.items())
        raise RunError(
            f"Expected a model in {source} of which something fits this study, found none "
            f"({reasons}). Name the granularities and encoders alike."
        )
    return Transfer(model=Arrays.pack(named), taken=taken, left=left)


def _mismatch(names: list[str], named: Named, given: Named) -> str:
    absent = [name for name in names if name not in given]
    if len(absent) == len(names):
        return "not there"
    if absent:
        return "built otherwise there"
    if any(named[name].shape != given[name].shape for name in names):
        return "of other shapes there"
    return ""


def _sections(study: Study) -> dict[str, dict[str, Any]]:
    parts = study.granularities | study.outcomes
    return {SHARED: _fusion(study)} | {
        name: section.model_dump(mode="json", exclude=_HARMLESS) for name, section in parts.items()
    }


def _fusion(study: Study) -> dict[str, Any]:
    """What the arrays of the fusion mean, beyond their shapes."""
    plan = study.model
    meaning: dict[str, Any] = {"fusion": plan.fusion}
    if plan.fusion == "attention":
        meaning["num_heads"] = plan.num_heads
    if plan.fusion in ("concat", "graph"):
        meaning["granularities"] = list(study.granularities)
    if plan.fusion == "graph":
        meaning["edges"] = {frozenset(edge) for edge in plan.edges}
    return meaning
