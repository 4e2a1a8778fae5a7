"""Dealing ids to parts."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.datasets.dealing import deal


@given(
    st.lists(st.integers(0, 2000), min_size=1, max_size=60, unique=True),
    st.integers(1, 7),
    st.data(),
)
def test_sizes_differ_by_at_most_one_in_each_stratum_and_over_all(numbers, num_parts, data) -> None:
    ids = pd.Series([f"p{n}" for n in numbers])
    strata = pd.Series([f"s{n % 3}" for n in numbers])
    part_B = deal(ids, strata, num_parts=num_parts, purpose="a test")
    for chosen in [np.full(len(ids), True), *(strata == s for s in strata.unique())]:
        sizes = np.bincount(part_B[chosen], minlength=num_parts)
        assert sizes.max() - sizes.min() <= 1
    order = data.draw(st.permutations(range(len(ids))))
    again_B = deal(ids.iloc[order], strata.iloc[order], num_parts=num_parts, purpose="a test")
    assert (again_B == part_B[order]).all()


def test_rows_of_one_id_stay_together() -> None:
    ids = pd.Series([f"h{i % 10}" for i in range(50)])
    part_B = deal(ids, pd.Series(["all"] * 50), num_parts=5, purpose="a test")
    assert pd.Series(part_B).groupby(ids).nunique().eq(1).all()


def test_another_purpose_deals_in_another_way() -> None:
    ids, strata = pd.Series([f"p{i}" for i in range(40)]), pd.Series(["all"] * 40)
    one, other = (deal(ids, strata, num_parts=4, purpose=p) for p in ("one", "other"))
    assert (one != other).any()


@pytest.mark.parametrize("dtype", ["int64", "str"])
def test_numbers_and_their_text_are_dealt_alike(dtype) -> None:
    ids = pd.Series(range(10)).astype(dtype)
    expected = deal(ids.astype("str"), ids.astype("str"), num_parts=3, purpose="a test")
    assert (deal(ids, ids, num_parts=3, purpose="a test") == expected).all()
