"""Dealing: who goes to which part, by a hash of the id alone, in parts of nearly equal size.

A hash by itself would leave some of 186 hospitals without a held-out patient; dealing the ids in
the order of their hashes keeps every part of every stratum within one of the others.
"""

import hashlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def deal(
    ids: "pd.Series[str]", strata: "pd.Series[str]", *, num_parts: int, purpose: str
) -> NDArray[np.int64]:
    """The part, 0…num_parts-1, of each id; ids that repeat stay together.

    Guarantees:
        - Within a stratum, sizes differ by at most one, counted in different ids.
        - The order of the rows does not matter.
        - Over all strata, too, sizes differ by at most one: each stratum goes on where the one
          before it ended.

    Args:
        ids: what is dealt, such as patients or hospitals.
        strata: of each row; all rows of an id have the same.
        purpose: ids are dealt in another way for another purpose.
    """
    cards = pd.DataFrame({"id": ids.astype(str), "stratum": strata.astype(str)}).drop_duplicates()
    cards["place"] = [_hash_of(i, purpose) for i in cards["id"]]
    cards = cards.sort_values(["stratum", "place"])
    part_of = dict(zip(cards["id"], np.arange(len(cards)) % num_parts, strict=True))
    return ids.astype(str).map(part_of).to_numpy(dtype=np.int64)


def _hash_of(text: str, purpose: str) -> bytes:
    return hashlib.blake2b(text.encode(), key=purpose.encode(), digest_size=8).digest()
