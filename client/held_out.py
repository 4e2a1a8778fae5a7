"""Who is held out of training, and who is in which fold of inner validation.

Letters of shapes: B patients.
"""

import hashlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error
from common.plan import Evaluation


def split(
    table: pd.DataFrame, ids: "pd.Series[str]", plan: Evaluation, file: str, *, needs_all: bool
) -> tuple[NDArray[np.bool_], list[Finding]]:
    """Who is held out: by the split column where there is one, else by a hash of the id.

    Args:
        needs_all: an empty cell is an error; otherwise such a patient is held out.
    """
    if plan.split_column not in table.columns:
        place_B = _places(ids, plan.split_seed, "test")
        return place_B < plan.test_fraction, []
    column = table[plan.split_column]
    where = f"{file}, column {plan.split_column}"
    is_empty_B = column.isna()
    num_other = int((~column.isin(["train", "test"]) & (needs_all | ~is_empty_B)).sum())
    findings = []
    if num_other:
        found = f"{num_other} other values"
        findings.append(error(where, "train or test for every patient", found, "Fix the column."))
    return (column.eq("test").fillna(False) | is_empty_B).to_numpy(dtype=np.bool_), findings


def fold_of(ids: "pd.Series[str]", plan: Evaluation) -> NDArray[np.int64]:
    """The fold of each patient, 0…folds-1, for inner validation."""
    return (_places(ids, plan.split_seed, "fold") * plan.folds).astype(np.int64)


def _places(ids: "pd.Series[str]", seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each patient that depends on nothing but the id, seed and purpose."""
    key = seed.to_bytes(8, "big") + purpose.encode()
    digests = (hashlib.blake2b(i.encode(), key=key, digest_size=6).digest() for i in ids)
    return np.array([int.from_bytes(digest, "big") / 2**48 for digest in digests])
