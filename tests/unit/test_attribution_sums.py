"""Sums of attributions at a hospital: worked by hand, and who stands behind each of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.attribution_sums import attribution_sums, column_sums
from client.attributions import Attributions, attributions
from client.explain.attributions import judge_of
from client.policy import Policy
from common.metrics.attributions import (
    ABSOLUTE,
    DIRECTED,
    PATIENTS,
    SIGNED,
    bound_of,
    columns_of,
    means_of,
    raise_if_impossible,
)
from common.metrics.statistics import EvaluationSums
from common.study_file import with_patient_privacy
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
)
from tests.unit.builders import MORE_OUTCOMES, study_of
from tests.unit.explain_cases import cohort_of, subject_of

Floats = Any


def sums_of(
    values: dict[Any, list[float]],
    *,
    has: dict[Any, list[bool]] | None = None,
    above: dict[Any, list[float]] | None = None,
    groups: tuple[Any, ...] = (),
    bound: float = 8.0,
) -> dict[Any, dict[str, float]]:
    """The sums of each column, from each patient's attributions by feature; others are 0."""
    num_patients = len(next(iter(values.values())))
    features = [key for key in KEYS if key[1] is not None]
    nothing = [0.0] * num_patients
    value_BF = np.array([values.get(key, nothing) for key in features]).T
    score_B = value_BF.sum(axis=1)
    found = Attributions(
        features=tuple(features),  # type: ignore[arg-type]
        value_BF=value_BF,
        baseline_B=np.zeros(num_patients),
        score_B=score_B,
        pixels={},
        num_steps=32,
    )
    everybody = [True] * num_patients
    sums = column_sums(
        found,
        {key: np.array((has or {}).get(key, everybody)) for key in KEYS},
        {key: np.array((above or {}).get(key, [1.0] * num_patients)) for key in features},
        STUDY,
        bound=bound,
        groups=groups,
        smallest_group=SMALLEST,
    )
    raise_if_impossible(sums, bound)
    assert [(c.granularity, c.feature) for c in columns_of(STUDY)] == KEYS
    return {key: {n: float(v[f]) for n, v in sums.sums.items()} for f, key in enumerate(KEYS)}


NOTHING = {PATIENTS: 0.0, ABSOLUTE: 0.0, SIGNED: 0.0, DIRECTED: 0.0}


def test_sums_worked_by_hand() -> None:
    found = sums_of(
        {GLUCOSE: [1.0, 2.0, 1.0, -1.0, -2.0, -1.0], SMOKES: [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]},
        above={GLUCOSE: [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]},
    )
    # Values above the baseline raise the score, those below lower it: all 8 go along.
    assert found[GLUCOSE] == {PATIENTS: 6, ABSOLUTE: 8, SIGNED: 0, DIRECTED: 8}
    assert found[SMOKES] == {PATIENTS: 6, ABSOLUTE: 6, SIGNED: 6, DIRECTED: 0}
    # Of the granularity 2, 3, 2, 0, -1 and 0; what it adds is what its features add.
    assert found[LABS] == {PATIENTS: 6, ABSOLUTE: 8, SIGNED: 6, DIRECTED: 0}
    # Nobody's prediction rests on it, which is no secret.
    assert found[PULSE] == {PATIENTS: 6, ABSOLUTE: 0, SIGNED: 0, DIRECTED: 0}


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize(("num_have", "is_told"), [(2, False), (3, True)])
def test_a_feature_that_few_patients_have_is_not_told(num_have: int, is_told: bool) -> None:
    has = [n < num_have for n in range(9)]
    found = sums_of({STEPS: [float(h) for h in has]}, has={STEPS: has, LIFESTYLE: has})
    assert (found[STEPS] != NOTHING) is is_told
    assert (found[LIFESTYLE] != NOTHING) is is_told


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize(
    ("values", "is_told"),
    [
        ([1.0, 1.0, 0, 0, 0, 0], False),  # two of many are attributed anything
        ([1.0, 1.0, 1.0, 0, 0, 0], True),
        ([6.0, 1.0, 1.0, 1.0, 1.0, 1.0], False),  # one is more than half of 11
        ([5.0, 1.0, 1.0, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1e-12, 1e-12, 1e-12, 1e-12], False),  # nobody to hide behind
        ([1.0, 1.0, 0.006, 0.006, 0.006, 0.006], False),
        ([1.0, 1.0, 0.007, 0.007, 0.007, 0.007], True),  # a hundredth of the mean of 3 largest
        ([0.1] * 30, True),
    ],
)
def test_a_sum_behind_which_few_or_mostly_one_stand_is_not_told(values, is_told: bool) -> None:
    assert (sums_of({PULSE: values})[PULSE] != NOTHING) is is_told


@pytest.mark.threat("S0-2")
def test_a_granularity_is_the_sum_of_its_features_that_are_told() -> None:
    glucose = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    found = sums_of(
        {GLUCOSE: glucose, SMOKES: [4.0, 4.0, 0, 0, 0, 0]},
        has={SMOKES: [True, True, False, False, False, False]},
    )
    assert found[SMOKES] == NOTHING
    # No difference of the two tells of the smokers.
    assert found[LABS][SIGNED] == found[GLUCOSE][SIGNED] == sum(glucose)


@pytest.mark.threat("S0-2")
def test_the_size_of_a_granularity_does_not_tell_of_few_whose_features_oppose() -> None:
    glucose, smokes = [1.0] * 9, [0.75] * 9
    nobody = sums_of({GLUCOSE: glucose, SMOKES: smokes})
    for num_opposed in (1, 2):
        some = [-0.75] * num_opposed + smokes[num_opposed:]
        assert sums_of({GLUCOSE: glucose, SMOKES: some}) == nobody
    enough = sums_of({GLUCOSE: glucose, SMOKES: [-0.75] * 3 + smokes[3:]})
    assert enough[LABS][ABSOLUTE] == 6 * 1.75 + 3 * 0.25


@pytest.mark.threat("S0-2")
@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_patients=st.integers(3, 12))
def test_sizes_of_features_less_that_of_their_granularity_are_never_of_few(
    data, num_patients: int
) -> None:
    sizes = st.lists(
        st.sampled_from([-8.0, -1.0, 0.0, 1.0, 8.0]), min_size=num_patients, max_size=num_patients
    )
    glucose, smokes = (np.array(data.draw(sizes)) for _ in range(2))
    found = sums_of({GLUCOSE: glucose.tolist(), SMOKES: smokes.tolist()})
    if NOTHING in (found[LABS], found[GLUCOSE], found[SMOKES]):
        return
    lost_B = np.abs(glucose) + np.abs(smokes) - np.minimum(np.abs(glucose + smokes), 8.0)
    if 0 < np.count_nonzero(lost_B) < SMALLEST:
        told = found[GLUCOSE][ABSOLUTE] + found[SMOKES][ABSOLUTE] - found[LABS][ABSOLUTE]
        assert told == 0


@pytest.mark.threat("S0-2")
def test_a_granularity_that_is_cut_to_the_bound_for_few_is_not_told() -> None:
    one = [8.0] + [1.0] * 11
    found = sums_of({GLUCOSE: one, SMOKES: one}, bound=8.0)
    assert found[GLUCOSE][ABSOLUTE] == found[SMOKES][ABSOLUTE] == 19
    assert found[LABS] == NOTHING


@pytest.mark.threat("S0-2")
def test_no_patient_counts_more_than_the_bound() -> None:
    found = sums_of({PULSE: [100.0, 8.0, 8.0, 8.0, 1.0]}, bound=8.0)
    assert found[PULSE][ABSOLUTE] == 33
    assert bound_of(STUDY.outcomes["event"]) == 8.0
    several = study_of(outcomes=MORE_OUTCOMES).outcomes
    low, high = several["stay"].range
    assert bound_of(several["stay"]) == high - low
    assert bound_of(several["death"]) == 1.0


@pytest.mark.threat("S0-2")
def test_few_whose_score_goes_the_other_way_are_told_as_the_others() -> None:
    mostly_raised = sums_of({PULSE: [1.0, 1.0, 1.0, 1.0, -1.0, -1.0]})[PULSE]
    assert mostly_raised[SIGNED] == mostly_raised[ABSOLUTE] == 6
    both = sums_of({PULSE: [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]})[PULSE]
    assert (both[SIGNED], both[ABSOLUTE]) == (0, 6)
    # Of neither kind are enough: nothing is told of signs.
    of_neither = sums_of({PULSE: [1.0, 1.0, -1.0, -1.0]})[PULSE]
    assert (of_neither[SIGNED], of_neither[ABSOLUTE]) == (0, 4)
    # One makes up most of what is lowered: 4 of 6.
    of_one = sums_of({PULSE: [2.0, 2.0, 2.0, -1.0, -1.0, -4.0]})[PULSE]
    assert of_one[SIGNED] == of_one[ABSOLUTE]


@pytest.mark.threat("S0-2")
@settings(max_examples=60, deadline=None)
@given(
    patients=st.lists(
        st.tuples(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), st.sampled_from([1.0, -1.0])),
        min_size=4,
        max_size=16,
    )
)
def test_what_is_told_of_signs_is_never_about_few(patients) -> None:
    """Each number told is a sum over a set of patients, as are half of sums and differences."""
    value_B, above_B = (np.array(column) for column in zip(*patients, strict=True))
    found = sums_of({PULSE: value_B.tolist()}, above={PULSE: above_B.tolist()})[PULSE]
    size_B = np.abs(value_B)
    if size_B.sum() == 0 or found == NOTHING:
        return
    raised = (found[ABSOLUTE] + found[SIGNED]) / 2
    along = (found[ABSOLUTE] + found[DIRECTED]) / 2
    above = size_B[above_B > 0].sum()
    true = {"raised": size_B[value_B > 0].sum(), "along": size_B[value_B * above_B > 0].sum()}
    for told, name, chosen_B in (
        (raised, "raised", value_B > 0),
        (along, "along", value_B * above_B > 0),
    ):
        few = [0 < np.count_nonzero(size_B[b]) < SMALLEST for b in (chosen_B, ~chosen_B)]
        if any(few):
            # Not the true part, but for all of them, or none, or half: or by way of the other.
            assert told != true[name] or told in (found[ABSOLUTE] / 2, above)


@pytest.mark.threat("S0-2")
def test_sums_are_told_to_a_128th() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 1.5, 20)
    told = sums_of({PULSE: values.tolist()})[PULSE][ABSOLUTE]
    assert told != values.sum()
    assert told == pytest.approx(values.sum(), rel=1 / 256)
    assert (told * 8) % 1 == 0  # 16 to 32 in steps of an eighth


# Of a real model.

POLICY = Policy(allow_without_privacy=True, smallest_group=5)


def _told(policy: Policy = POLICY, study=ASKED, **fields: Any) -> tuple[Any, Any]:
    subject = subject_of(study, **fields)
    outcomes = subject.test.cohort.outcomes
    sums = attribution_sums(judge_of(subject), outcomes, members={}, told={}, policy=policy)
    return subject, sums


def test_sums_are_over_the_patients_whose_outcome_is_known() -> None:
    test = cohort_of(ASKED, 40, seed=2, unknown=0.4)
    subject, sums = _told(test=test)
    assert list(sums) == list(ASKED.outcomes)
    columns = [(c.granularity, c.feature) for c in columns_of(ASKED)]
    for name, told in sums.items():
        index = np.flatnonzero(test.outcomes[name]["known_B"])
        assert 5 <= len(index) < 40
        found = attributions(judge_of(subject), name, index)
        most = bound_of(ASKED.outcomes[name])
        by_feature = dict(zip(found.features, found.value_BF.T, strict=True))
        for key, value_B in by_feature.items():
            f = columns.index(key)
            if told.sums[PATIENTS][f]:
                expected = np.abs(np.clip(value_B, -most, most)).sum()
                assert told.sums[ABSOLUTE][f] == pytest.approx(expected, rel=1 / 256)
                assert told.sums[PATIENTS][f] <= len(index)
        assert np.count_nonzero(told.sums[PATIENTS]) > len(columns) / 2


def _of_outcomes_without(unknown: list[int], has: bool, **groups: Any) -> Any:
    """The sums where one outcome is not known of some, who have all of "labs" or nothing of it.

    All others have all of it.
    """
    subject = subject_of(ASKED)
    outcomes = {
        name: labels | {"known_B": np.ones(40, dtype=bool)}
        for name, labels in subject.test.cohort.outcomes.items()
    }
    outcomes["stay"]["known_B"][unknown] = False
    judge = judge_of(subject)
    labs = judge.patients.inputs["labs"]
    for key in ("observed_BF", "present_B"):
        labs[key][:] = True
        labs[key][unknown] = has
    return attribution_sums(
        judge, outcomes, **({"members": {}, "told": {}} | groups), policy=POLICY
    )


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize("unknown", [[7], [7, 8, 9, 10]])
def test_two_outcomes_do_not_tell_of_the_few_of_whom_one_is_not_known(unknown) -> None:
    worlds = [_of_outcomes_without(unknown, has) for has in (True, False)]
    for outcome in ASKED.outcomes:
        one, other = (world[outcome].sums for world in worlds)
        assert one[PATIENTS].max() == 40 - len(unknown)
        for name in one:
            assert one[name].tolist() == other[name].tolist()
    # As many as make up a group are told of.
    enough = _of_outcomes_without([*range(5)], True)
    assert [enough[o].sums[PATIENTS].max() for o in ("event", "stay")] == [40, 35]


@pytest.mark.threat("S0-2")
def test_means_are_over_everybody_where_groups_are_told_of_a_few_more() -> None:
    has_sex = np.arange(40) < 20
    groups = {
        "members": {"sex": {"sex:0": has_sex}},
        "told": {"sex:0": {"event": EvaluationSums(sums={})}},
    }
    for unknown, is_over_everybody in (([7], True), ([], False)):
        found = _of_outcomes_without(unknown, False, **groups)["event"].sums[PATIENTS]
        assert (set(found) <= {0, 39}) is is_over_everybody


def test_nothing_is_worked_out_that_the_policy_or_the_privacy_of_patients_forbids() -> None:
    listed = Policy(allow_without_privacy=True, smallest_group=5, metrics=("confusion",))
    assert _told(listed)[1] == {}
    one = (*listed.metrics, "attributions.event.attributed_patients")
    assert list(_told(listed.model_copy(update={"metrics": one}))[1]) == ["event"]
    private = with_patient_privacy(
        study_of(evaluation={"attributions": True}), epsilon=3, delta=1e-4
    )
    assert _told(study=private)[1] == {}
    assert _told(study=study_of())[1] == {}
    few = cohort_of(ASKED, 4, seed=2)
    assert _told(test=few)[1] == {}


def test_means_follow_from_merged_sums() -> None:
    one = EvaluationSums(sums={PATIENTS: np.array([10.0, 0.0]), ABSOLUTE: np.array([5.0, 0.0])})
    other = EvaluationSums(
        sums={
            PATIENTS: np.array([30.0, 0.0]),
            ABSOLUTE: np.array([3.0, 0.0]),
            DIRECTED: np.array([-3.0, 0.0]),
        }
    )
    merged = means_of(one + other)
    assert merged["mean_absolute"][0] == 8 / 40
    assert np.isnan(merged["mean_absolute"][1])
    # One hospital kept it back: a mean over some would pass for one over all.
    assert np.isnan(merged["direction"]).all()
    assert means_of(other)["direction"][0] == -1
