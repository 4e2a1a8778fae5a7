"""Subsets in their order."""

from hypothesis import given
from hypothesis import strategies as st

from common.subsets import subsets_of


def test_three_granularities_by_hand() -> None:
    assert subsets_of("abc") == [
        (),
        ("a",),
        ("b",),
        ("c",),
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
        ("a", "b", "c"),
    ]


@given(num=st.integers(0, 8))
def test_there_are_two_to_the_power_of_the_items_and_all_differ(num: int) -> None:
    subsets = subsets_of(range(num))
    assert len(subsets) == len(set(subsets)) == 2**num
    assert subsets[0] == ()
    assert subsets[-1] == tuple(range(num))
    assert [len(s) for s in subsets] == sorted(len(s) for s in subsets)
