"""Over whom attributions are summed: no two sets of patients that are told differ by few."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.attribution_sets import denominators, has_of, of_same_patients, signs_of
from client.attribution_sums import explained
from client.attributions import MOST_PATIENTS
from client.explain.attributions import judge_of
from common.metrics.attributions import columns_of
from tests.unit.attribution_cases import (
    ASKED,
    GLUCOSE,
    KEYS,
    LABS,
    LIFESTYLE,
    PULSE,
    SMALLEST,
    SMOKES,
    STEPS,
    STUDY,
    VITALS,
)
from tests.unit.explain_cases import subject_of


def over(has: dict[Any, Any], groups: tuple[Any, ...] = (), num_patients: int = 30) -> Any:
    everybody = np.ones(num_patients, dtype=bool)
    named = {key: has.get(key, everybody) for key in KEYS}
    found = denominators(named, columns_of(STUDY), groups, SMALLEST)
    for key in KEYS:
        assert not (named[key] & ~found[key]).any()
    return {key: int(of_B.sum()) for key, of_B in found.items()}


def first(num: int, num_patients: int = 30) -> Any:
    return np.arange(num_patients) < num


@pytest.mark.threat("S0-2")
def test_where_few_lack_a_feature_the_mean_is_over_them_as_well() -> None:
    assert over({GLUCOSE: first(28)})[GLUCOSE] == 30
    assert over({GLUCOSE: first(27)})[GLUCOSE] == 27
    assert over({LABS: first(20), GLUCOSE: first(18), SMOKES: first(17)}) | {} == {
        LABS: 20,
        GLUCOSE: 20,
        SMOKES: 17,
        VITALS: 30,
        PULSE: 30,
        LIFESTYLE: 30,
        STEPS: 30,
    }


@pytest.mark.threat("S0-2")
def test_two_features_that_nearly_the_same_patients_have_are_counted_as_one() -> None:
    found = over({GLUCOSE: first(15), PULSE: first(16), STEPS: first(20)})
    assert (found[GLUCOSE], found[PULSE], found[STEPS]) == (15, 30, 20)
    # All but a few have either the one or the other.
    apart = over({GLUCOSE: first(15), PULSE: ~first(16)})
    assert (apart[GLUCOSE], apart[PULSE]) == (15, 30)


@pytest.mark.threat("S0-2")
def test_who_has_a_feature_does_not_give_away_a_group_that_is_not_told() -> None:
    # 20 women and 2 men whose sex is known: the men follow from who has it, less the women.
    women = first(20)
    found = over({SMOKES: first(22)}, groups=([women],))
    assert found[SMOKES] == 30
    assert over({SMOKES: first(23)}, groups=([women],))[SMOKES] == 23
    # As a union of two groups, too.
    ages = ([first(10), first(20) & ~first(10)],)
    assert over({SMOKES: first(22)}, groups=ages)[SMOKES] == 30


@pytest.mark.threat("S0-2")
@settings(max_examples=30, deadline=None)
@given(data=st.data(), num_patients=st.integers(4, 24))
def test_no_two_numbers_of_patients_differ_by_few(data, num_patients: int) -> None:
    size = st.lists(st.booleans(), min_size=num_patients, max_size=num_patients)
    has = {key: np.array(data.draw(size)) for key in KEYS}
    for whole, parts in ((LABS, (GLUCOSE, SMOKES)), (VITALS, (PULSE,)), (LIFESTYLE, (STEPS,))):
        for part in parts:
            has[part] &= has[whole]
    groups = [np.array(data.draw(size))]
    found = denominators(has, columns_of(STUDY), [groups], SMALLEST)
    told = [*found.values(), np.ones(num_patients, dtype=bool), np.zeros(num_patients, dtype=bool)]
    for one, other in combinations([*told, groups[0]], 2):
        if one is groups[0] or other is groups[0]:
            small = min(groups[0].sum(), num_patients - groups[0].sum())
            if 0 < small < SMALLEST:
                continue  # client.subgroups tells of no such group
        apart = int((one != other).sum())
        assert apart == 0 or apart >= SMALLEST
        assert apart == num_patients or num_patients - apart >= SMALLEST


def test_of_many_patients_some_are_explained_and_not_all_but_a_few() -> None:
    for num_patients, num_explained in (
        (MOST_PATIENTS, MOST_PATIENTS),
        (MOST_PATIENTS + 1, MOST_PATIENTS - 9),
        (MOST_PATIENTS + 10, MOST_PATIENTS),
        (5 * MOST_PATIENTS, MOST_PATIENTS),
    ):
        known = np.arange(100, 100 + num_patients)
        chosen = explained(known, 10)
        assert len(np.unique(chosen)) == num_explained
        assert set(chosen) <= set(known)
        assert num_patients - num_explained == 0 or num_patients - num_explained >= 10


@pytest.mark.threat("S0-2")
@settings(max_examples=60, deadline=None)
@given(
    several=st.lists(st.sets(st.integers(0, 20)), max_size=5),
    smallest_group=st.integers(1, 8),
)
def test_any_two_outcomes_are_of_the_same_patients_or_of_clearly_others(
    several: list[set[int]], smallest_group: int
) -> None:
    indexes = {str(i): np.array(sorted(one), dtype=np.int64) for i, one in enumerate(several)}
    found = of_same_patients(indexes, smallest_group)
    assert list(found) == list(indexes)
    for name, index in found.items():
        assert set(index) <= set(indexes[name])
    for one, other in combinations(found.values(), 2):
        apart = len(set(one) ^ set(other))
        assert apart == 0 or apart >= smallest_group


def test_who_has_what_and_which_values_are_high() -> None:
    subject = subject_of(ASKED)
    index = np.arange(40)
    has = has_of(subject.test.patients, ASKED, index)
    signs = signs_of(judge_of(subject), index)
    for name, part in ASKED.granularities.items():
        arrays = subject.test.cohort.arrays[name]
        assert (has[name, None] == arrays["present_B"]).all()
        for place, feature in enumerate(part.numeric):
            observed_B = arrays["observed_BF"][:, place] & arrays["present_B"]
            assert (has[name, feature] == observed_B).all()
            low, high = part.numeric[feature].range
            above_B = arrays["numeric_BF"][:, place] >= (low + high) / 2
            assert (signs[name, feature][observed_B] == np.where(above_B, 1, -1)[observed_B]).all()
