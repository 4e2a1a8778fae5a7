"""Named arrays as one flat vector."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.arrays import Arrays, Block, Manifest, l2_norm, size_of, slices_of
from tests.unit.builders import arrays, manifests


@given(arrays())
def test_unpacking_is_the_inverse_of_packing(whole: Arrays) -> None:
    assert Arrays.pack(whole.unpack(), dtype=whole.flat.dtype.type) == whole


@given(manifests())
def test_slices_cover_the_vector_once_in_order(manifest: Manifest) -> None:
    places = [n for _, place in slices_of(manifest) for n in range(size_of(manifest))[place]]
    assert places == list(range(size_of(manifest)))
    assert [block for block, _ in slices_of(manifest)] == list(manifest)


def test_a_scalar_has_one_element_and_an_empty_block_none() -> None:
    assert Block(name="a", shape=()).size == 1
    assert Block(name="a", shape=(3, 0)).size == 0
    assert size_of(()) == 0


@pytest.mark.parametrize("shape", [(5,), (7,), (2, 3), ()])
def test_a_vector_that_does_not_fit_its_manifest_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a vector of 6 elements, found shape"):
        Arrays(manifest=(Block(name="a", shape=(2, 3)),), flat=np.zeros(shape))


def test_arrays_cannot_be_written_to() -> None:
    named = {"a": np.zeros((2, 3), dtype=np.float32)}
    packed = Arrays.pack(named)
    with pytest.raises(ValueError, match="read-only"):
        packed.flat[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        packed.unpack()["a"][0] = 1.0
    named["a"][0] = 1.0
    assert not packed.flat.any()


def test_packing_leaves_the_callers_array_writable() -> None:
    mine = np.zeros(3)
    Arrays(manifest=(Block(name="a", shape=(3,)),), flat=mine)
    mine[0] = 1.0


@pytest.mark.parametrize(("value", "is_finite"), [(1.0, True), (np.nan, False), (np.inf, False)])
def test_one_element_makes_the_whole_not_finite(value: float, is_finite: bool) -> None:
    assert Arrays.pack({"a": np.zeros(3), "b": np.array([0.0, value])}).is_finite() is is_finite


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_the_norm_is_the_root_of_the_sum_of_squares(values: list[float]) -> None:
    exact = math.sqrt(math.fsum(x**2 for x in values))
    assert Arrays.pack({"a": np.array(values)}).norm == pytest.approx(exact, rel=1e-12)


def test_the_squares_of_float32_do_not_overflow() -> None:
    largest = np.full(4, np.finfo(np.float32).max)
    assert l2_norm(largest) == pytest.approx(2 * float(largest[0]))


def test_nothing_is_finite() -> None:
    assert Arrays.pack({}).is_finite()


def test_arrays_are_equal_bit_for_bit() -> None:
    one = Arrays.pack({"a": np.array([0.0, np.nan])})
    assert one == Arrays.pack({"a": np.array([0.0, np.nan])})
    assert one != Arrays.pack({"a": np.array([-0.0, np.nan])})
    assert one != Arrays.pack({"a": np.array([0.0, np.nan])}, dtype=np.float64)
    assert one != Arrays.pack({"b": np.array([0.0, np.nan])})
    assert one != Arrays.pack({"a": np.array([[0.0, np.nan]])})
    assert Arrays.pack({}) != Arrays.pack({}, dtype=np.float64)
    assert one != "a"


@given(arrays())
def test_bytes_of_arrays_are_made_once_and_change_nothing(whole: Arrays) -> None:
    before = whole.flat.copy()
    data = whole.to_bytes()
    assert whole.to_bytes() is data
    assert np.shares_memory(whole.flat, np.frombuffer(data, dtype=np.uint8)) or not data
    assert whole == Arrays(manifest=whole.manifest, flat=before)
    assert not whole.flat.flags.writeable
