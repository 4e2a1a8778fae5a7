"""Studies and batches that the tests of the patient model share."""

from collections.abc import Iterator

from torch import Tensor

from common.arrays import Arrays
from common.models.contract import Batch
from common.study import Study
from tests.unit.builders import study_of

FUSIONS = ["attention", "gated_sum", "concat", "graph"]
GRANULARITIES = ["labs", "vitals", "lifestyle"]


def study_with(fusion: str, **model: object) -> Study:
    """A study with this fusion, and other keys of its model."""
    return study_of(model={"fusion": fusion, **model})


def copy_of(batch: Batch) -> dict[str, dict[str, Tensor]]:
    """The batch in arrays of its own, to be changed."""
    return {name: {k: v.clone() for k, v in part.items()} for name, part in batch.items()}


def names_of(whole: Arrays) -> Iterator[str]:
    """The names of the blocks, in their order."""
    return (block.name for block in whole.manifest)
