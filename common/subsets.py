"""All subsets of a study's granularities, in the one order in which they are listed everywhere."""

from collections.abc import Sequence
from itertools import combinations
from typing import TypeVar

T = TypeVar("T")


def subsets_of(items: Sequence[T]) -> list[tuple[T, ...]]:
    """All subsets, the empty one first, small ones before large ones, the whole one last.

    >>> subsets_of(["labs", "notes"])
    [(), ('labs',), ('notes',), ('labs', 'notes')]
    """
    return [subset for size in range(len(items) + 1) for subset in combinations(items, size)]
