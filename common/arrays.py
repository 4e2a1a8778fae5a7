"""Named arrays as one flat vector: what a model or an update is while it travels.

Flower moves every tensor as two HTTP objects, so parameters travel as one flat array and a manifest
of names and shapes (design, section 2). Both sides, and the aggregation, work on this form.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

# Elements that are squared at a time.
_PIECE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Block:
    """One named array of a manifest."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


Manifest = tuple[Block, ...]


def size_of(manifest: Manifest) -> int:
    """The number of elements of all blocks together."""
    return sum(block.size for block in manifest)


def slices_of(manifest: Manifest) -> Iterator[tuple[Block, slice]]:
    """Each block with the place it has in the flat vector, in order."""
    start = 0
    for block in manifest:
        yield block, slice(start, start + block.size)
        start += block.size


def places_in(whole: Manifest, part: Manifest) -> Iterator[tuple[slice, slice]]:
    """Of each block of `part`, its place in that vector and in the vector of `whole`."""
    places = {block.name: place for block, place in slices_of(whole)}
    for block, place in slices_of(part):
        yield place, places[block.name]


def l2_norm(vector: NDArray[np.floating]) -> float:
    """The L2 norm of a vector, in float64, the same bits on any number of cores.

    Not `np.linalg.norm`: BLAS adds up on all cores, in an order that their number decides, and its
    threads then spin for a while.

    >>> l2_norm(np.array([3.0, 4.0], dtype=np.float32))
    5.0
    """
    # In pieces: beside a large model, its squares as float64 would be twice the model.
    pieces = range(0, len(vector), _PIECE)
    squares = (np.square(vector[i : i + _PIECE], dtype=np.float64).sum() for i in pieces)
    return math.sqrt(sum(squares))


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A flat vector of float32 (models, updates) or float64 (sums), and its manifest.

    Guarantees:
        - `flat` is one-dimensional and read-only, and has as many elements as the manifest says.
        - Arrays are equal if manifest, type and every bit of `flat` are.
    """

    manifest: Manifest
    flat: NDArray[np.floating]

    def __post_init__(self) -> None:
        if self.flat.ndim != 1 or self.flat.size != size_of(self.manifest):
            raise ValueError(
                f"expected a vector of {size_of(self.manifest)} elements, found shape "
                f"{self.flat.shape}"
            )
        view = self.flat.view()
        view.flags.writeable = False
        object.__setattr__(self, "flat", view)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Arrays)
            and self.manifest == other.manifest
            and self.flat.dtype == other.flat.dtype
            and self.flat.tobytes() == other.flat.tobytes()
        )

    __hash__ = None  # type: ignore[assignment]  # large, and nobody's key

    @classmethod
    def pack(cls, named: Mapping[str, NDArray[np.floating]], dtype: type = np.float32) -> "Arrays":
        """The arrays of `named`, concatenated in their order."""
        manifest = tuple(Block(name=k, shape=tuple(v.shape)) for k, v in named.items())
        parts: list[NDArray[np.floating]] = [np.empty(0, dtype=dtype)]
        parts += [np.asarray(v, dtype=dtype).reshape(-1) for v in named.values()]
        flat = np.concatenate(parts)
        return cls(manifest=manifest, flat=flat)

    def unpack(self) -> dict[str, NDArray[np.floating]]:
        """Each block by name, as a read-only view in its shape."""
        return {b.name: self.flat[s].reshape(b.shape) for b, s in slices_of(self.manifest)}

    @cached_property
    def norm(self) -> float:
        """The L2 norm over all blocks."""
        return l2_norm(self.flat)

    def digest(self) -> str:
        """SHA-256, in hex, of the elements as they stand in memory."""
        return hashlib.sha256(self.flat.data).hexdigest()

    def to_bytes(self) -> bytes:
        """The elements, little-endian.

        Guarantees:
            - However often it is asked, there is one copy of them, which `flat` views from then on:
              the messages of an exchange share it.
        """
        return self._bytes

    @cached_property
    def _bytes(self) -> bytes:
        dtype = self.flat.dtype.newbyteorder("<")
        data = np.ascontiguousarray(self.flat, dtype=dtype).tobytes()
        object.__setattr__(self, "flat", np.frombuffer(data, dtype=dtype))
        return data

    def is_finite(self) -> bool:
        """Whether no element is NaN or infinite."""
        return bool(np.isfinite(self.flat).all())
