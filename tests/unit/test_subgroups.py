"""Groups of patients: what a study may name, who belongs where, and which may be told together."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.subgroups import group_sums, members_of, told_groups
from client.training import Patients
from common.errors import StudyError
from common.metrics.evaluation import declared_sizes, from_flat, statistics_of, to_flat
from common.metrics.statistics import EvaluationSums
from common.metrics.subgroups import (
    group_prefixes,
    group_sizes,
    group_statistics_of,
    groups_from_flat,
    is_of_group,
    splits_of,
)
from common.study import Study
from common.study_file import (
    load_study,
    study_from_toml,
    study_to_toml,
    with_patient_privacy,
    without_granularity,
)
from tests.unit.builders import MORE_OUTCOMES, outcomes_of, predictions_of, study_of

BANDS = {"feature": "age_years", "edges": [45, 65]}
STUDY = study_of(evaluation={"subgroups": ["sex", BANDS]}, outcomes=MORE_OUTCOMES)
SMALLEST = 10


# The study.


def test_a_study_without_groups_is_what_it_was_before_there_were_any() -> None:
    # The hash of the release before; `model_dump` without the key is what it was made of.
    demo = load_study("demo")
    assert demo.hash == "a69b06f512a0d88c8360d9546260989965e9f6a584dbfdbfc666c37fcfb9cb01"
    assert "subgroups" not in demo.model_dump(mode="json")["evaluation"]
    assert study_of(evaluation={"subgroups": []}).hash == study_of().hash


def test_groups_change_the_hash_and_survive_a_file() -> None:
    assert STUDY.hash != study_of(outcomes=MORE_OUTCOMES).hash
    assert study_from_toml(study_to_toml(STUDY)) == STUDY
    long = study_of(evaluation={"subgroups": [{"feature": "sex"}, BANDS]}, outcomes=MORE_OUTCOMES)
    assert long.hash == STUDY.hash


@pytest.mark.parametrize(
    ("subgroups", "told"),
    [
        (["weight"], "tabular granularities"),
        (["event"], "tabular granularities"),
        (["sex", "sex"], "each feature once"),
        ([{"feature": "sex", "edges": [1]}], "no edges of the categories of sex"),
        (["age_years"], "which is numeric"),
        ([{"feature": "age_years", "edges": [65, 45]}], "ascend"),
        ([{"feature": "age_years", "edges": [45, 45]}], "ascend"),
        ([{"feature": "age_years", "edges": [0, 45]}], r"within its range \[0, 100\]"),
        ([{"feature": "age_years", "edges": [45, 100]}], r"within its range \[0, 100\]"),
        ([{"feature": "age_years", "edges": [10, 20, 30, 40, 50, 60, 70, 80]}], "at most 7"),
        ([{"feature": "sex", "name": "x"}], "unknown key"),
        (["sex", BANDS, "smoker", {"feature": "glucose", "edges": [9]}, "x"], "at most 4"),
        ([7], "valid dictionary"),
    ],
)
def test_groups_that_no_study_can_have_are_refused(subgroups: list[object], told: str) -> None:
    text = study_to_toml(study_of())
    assert "[evaluation]" in text
    with pytest.raises(StudyError, match=told):
        study_from_toml(
            text.replace("[evaluation]\n", f"[evaluation]\nsubgroups = {_toml(subgroups)}\n")
        )


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_a_feature_of_more_categories_than_groups_is_refused() -> None:
    many = {"kind": "categorical", "categories": [f"c{i}" for i in range(9)]}
    ward = {"ward": {"kind": "tabular", "features": {"ward_name": many}}}
    with pytest.raises(ValueError, match="at most 8 categories of ward_name"):
        study_of(granularities=ward, evaluation={"subgroups": ["ward_name"]})


def test_a_granularity_that_is_left_out_takes_its_groups_with_it() -> None:
    both = study_of(evaluation={"subgroups": ["sex", "smoker"]})
    assert list(splits_of(without_granularity(both, "lifestyle"))) == ["sex"]
    assert list(splits_of(without_granularity(both, "vitals"))) == ["sex", "smoker"]


# What is declared.


def test_groups_are_named_in_order_and_called_as_people_do() -> None:
    labels = {f: [(g.key, g.label) for g in groups] for f, groups in splits_of(STUDY).items()}
    assert labels == {
        "sex": [("sex:0", "female"), ("sex:1", "male")],
        "age_years": [
            ("age_years:0", "below 45 years"),
            ("age_years:1", "45 to < 65 years"),
            ("age_years:2", "from 65 years on"),
        ],
    }


def test_what_is_declared_of_groups_is_coarser_and_of_a_private_study_nothing() -> None:
    sizes = group_sizes(STUDY)
    assert sizes.items() <= declared_sizes(STUDY).items()
    assert all(is_of_group(name) for name in sizes)
    assert not any(is_of_group(n) for n in declared_sizes(study_of(outcomes=MORE_OUTCOMES)))
    assert sizes["sex:1.event.positives_by_score"] == 20
    assert declared_sizes(STUDY)["event.positives_by_score"] == 200
    of_death = declared_sizes(STUDY)["death.events_by_time_and_risk"]
    assert sizes["sex:1.death.events_by_time_and_risk"] < of_death / 5
    private = with_patient_privacy(
        study_of(evaluation={"subgroups": ["sex"]}), epsilon=3, delta=1e-4
    )
    assert group_sizes(private) == {}
    assert group_prefixes(private) == ()
    assert not any(is_of_group(name) for name in declared_sizes(private))


# Who belongs where.


def patients_with(sexes: list[int], ages: list[float | None]) -> Patients:
    """Patients of these codes of sex (0: unknown) and ages (None: unknown)."""
    num_patients = len(sexes)
    numeric_BF = torch.tensor([[age or 0.0, 5.0] for age in ages], dtype=torch.float32)
    observed_BF = torch.tensor([[age is not None, True] for age in ages])
    labs = {
        "numeric_BF": numeric_BF,
        "observed_BF": observed_BF,
        "codes_BK": torch.tensor(sexes)[:, None],
        "present_B": torch.ones(num_patients, dtype=torch.bool),
    }
    return Patients(
        inputs={"labs": labs}, outcomes={}, device=torch.device("cpu"), num_patients=num_patients
    )


def test_who_belongs_where_worked_by_hand() -> None:
    patients = patients_with([1, 2, 0, 2, 1], [44.9, 45.0, 64.0, 65.0, None])
    found = {
        key: of_B.tolist()
        for groups in members_of(patients, STUDY).values()
        for key, of_B in groups.items()
    }
    no, yes = False, True
    assert found == {
        "sex:0": [yes, no, no, no, yes],
        "sex:1": [no, yes, no, yes, no],
        "age_years:0": [yes, no, no, no, no],
        "age_years:1": [no, yes, yes, no, no],
        "age_years:2": [no, no, no, yes, no],
    }


def test_an_edge_that_no_32_bits_hold_is_at_the_value_itself() -> None:
    study = study_of(evaluation={"subgroups": [{"feature": "age_years", "edges": [0.7]}]})
    members = members_of(patients_with([1, 1], [0.7, 0.6]), study)["age_years"]
    assert members["age_years:1"].tolist() == [True, False]


def test_the_sums_of_a_group_are_those_of_its_patients_alone() -> None:
    num_patients = 90
    predictions, outcomes = predictions_of(STUDY, num_patients), outcomes_of(STUDY, num_patients)
    patients = patients_with([1 + i % 2 for i in range(num_patients)], [50.0] * num_patients)
    members = members_of(patients, STUDY)
    found = group_sums(predictions, outcomes, members, STUDY, SMALLEST)
    # Nobody is below 45 or from 65 on: all are in one band.
    assert found.keys() == {"sex:0", "sex:1", "age_years:1"}
    odd = members["sex"]["sex:1"]
    for name, statistics in group_statistics_of(STUDY).items():
        of_odd = {key: value[odd] for key, value in outcomes[name].items()}
        expected = statistics.sums_of(predictions[name][odd], of_odd)
        assert to_flat({name: found["sex:1"][name]}) == to_flat({name: expected})


def test_only_patients_of_a_known_outcome_make_a_group() -> None:
    study = study_of(evaluation={"subgroups": ["sex"]})
    predictions = predictions_of(study, 40)
    patients = patients_with([1] * 20 + [2] * 20, [50.0] * 40)
    outcomes = outcomes_of(study, 40)
    # Of 20 men, the outcome is known of 9: the women would tell of them by difference.
    outcomes["event"]["known_B"] = np.arange(40) < 29
    members = members_of(patients, study)
    assert group_sums(predictions, outcomes, members, study, SMALLEST) == {}
    outcomes["event"]["known_B"] = np.arange(40) < 30
    assert group_sums(predictions, outcomes, members, study, SMALLEST).keys() == {"sex:0", "sex:1"}


@pytest.mark.threat("S0-2")
def test_groups_of_two_outcomes_do_not_tell_of_the_few_of_whom_one_is_not_known() -> None:
    predictions, outcomes = predictions_of(STUDY, 60), outcomes_of(STUDY, 60)
    for num_unknown, is_told in ((0, True), (1, False), (9, False), (10, True)):
        outcomes["stay"]["known_B"] = np.arange(60) < 60 - num_unknown
        told = []
        for code in (1, 2):
            sexes = [1 + i % 2 for i in range(60 - num_unknown)] + [code] * num_unknown
            members = members_of(patients_with(sexes, [50.0] * 60), STUDY)
            found = group_sums(predictions, outcomes, members, STUDY, SMALLEST)
            told.append({key: set(of_outcome) for key, of_outcome in found.items()})
        # Whether they are women does not decide what is told.
        assert told[0] == told[1]
        assert {"event"} <= told[0]["sex:0"] == told[0]["sex:1"]
        assert ("stay" in told[0]["sex:0"]) is is_told


# Which may be told.


def split(*sizes: int, rest: int = 0) -> dict[str, np.ndarray]:
    """Groups of these sizes, one after the other, and some patients of none."""
    number_B = np.repeat([*range(len(sizes)), -1], [*sizes, rest])
    return {f"f:{i}": number_B == i for i in range(len(sizes))}


@pytest.mark.threat("S0-2")
@pytest.mark.parametrize(
    ("sizes", "rest", "told"),
    [
        ((10, 10), 0, {"f:0", "f:1"}),
        ((10, 9), 0, set()),  # 9 are all less the 10
        ((9, 40, 50), 0, {"f:2"}),  # so that 9 are not told, 40 stay with them
        ((9, 9, 50), 0, {"f:2"}),  # 18 together are no small group
        ((50, 40), 1, {"f:0"}),  # one of whom the feature is not known
        ((50, 40), 10, {"f:0", "f:1"}),
        ((50, 40, 0), 0, {"f:0", "f:1"}),
        ((50, 1, 1), 0, set()),
        ((9,), 0, set()),
        ((0, 0), 0, set()),
        ((10,), 0, {"f:0"}),
    ],
)
def test_no_small_group_is_told_nor_does_one_follow_by_difference(
    sizes: tuple[int, ...], rest: int, told: set[str]
) -> None:
    assert told_groups({"f": split(*sizes, rest=rest)}, sum(sizes) + rest, SMALLEST) == told


def test_groups_are_told_from_the_smallest_group_on_and_not_one_below() -> None:
    for size, is_told in ((SMALLEST, True), (SMALLEST - 1, False)):
        found = told_groups({"f": split(size, 50, rest=20)}, 70 + size, SMALLEST)
        assert ("f:0" in found) is is_told


@pytest.mark.threat("S0-2")
def test_groups_of_two_features_that_are_nearly_the_same_are_not_both_told() -> None:
    # 40 women, 42 smokers, all women among them: both together would tell of 2 men who smoke.
    women = np.arange(100) < 40
    for smokers, is_told in ((np.arange(100) < 42, False), (np.arange(100) < 50, True)):
        members = {
            "sex": {"sex:0": women, "sex:1": ~women},
            "smoker": {"smoker:0": smokers, "smoker:1": ~smokers},
        }
        found = told_groups(members, 100, SMALLEST)
        assert ({"sex:0", "smoker:0"} <= found) is is_told
        assert found
    # The same groups under two names tell nothing more.
    same = {
        "sex": {"sex:0": women, "sex:1": ~women},
        "again": {"again:0": women, "again:1": ~women},
    }
    assert told_groups(same, 100, SMALLEST) == {"sex:0", "sex:1", "again:0", "again:1"}


def groups_strategy(num_patients: int):
    numbers = st.lists(st.integers(-1, 2), min_size=num_patients, max_size=num_patients)
    return st.tuples(numbers, numbers)


@pytest.mark.threat("S0-2")
@settings(max_examples=40, deadline=None)
@given(data=st.data(), num_patients=st.integers(1, 40), smallest=st.integers(2, 8))
def test_an_attacker_who_adds_and_subtracts_isolates_nobody(data, num_patients, smallest) -> None:
    first, second = data.draw(groups_strategy(num_patients))
    members = {
        "a": {f"a:{i}": np.array(first) == i for i in range(3)},
        "b": {f"b:{i}": np.array(second) == i for i in range(3)},
    }
    told = told_groups(members, num_patients, smallest)
    known = [np.ones(num_patients)] + [
        of_B for g in members.values() for k, of_B in g.items() if k in told
    ]
    # Every combination of what is told with weights -1, 0 and 1: none is of a few patients alone.
    for weights in product((-1, 0, 1), repeat=len(known)):
        of_B = np.dot(weights, np.array(known, dtype=float))
        if np.isin(of_B, (0, 1)).all() and told:
            assert not 0 < of_B.sum() < smallest


# From the wire.


def flat_of(
    num_patients: int = 60,
) -> tuple[dict[str, tuple[float, ...]], dict[str, EvaluationSums]]:
    """What a site sends of all its patients and of two groups by sex, and the sums of all."""
    predictions, outcomes = predictions_of(STUDY, num_patients), outcomes_of(STUDY, num_patients)
    whole = {
        name: statistics.sums_of(predictions[name], outcomes[name])
        for name, statistics in statistics_of(STUDY).items()
    }
    patients = patients_with([1 + (i >= 25) for i in range(num_patients)], [50.0] * num_patients)
    groups = group_sums(predictions, outcomes, members_of(patients, STUDY), STUDY, SMALLEST)
    flat = to_flat(whole)
    for key, sums in groups.items():
        flat |= to_flat(sums, model=key)
    return flat, whole


def test_what_is_read_is_what_was_sent() -> None:
    flat, whole = flat_of()
    found = groups_from_flat(STUDY, flat, from_flat(STUDY, flat))
    assert found.keys() == {"sex:0", "sex:1", "age_years:1"}
    assert found["sex:0"]["event"].num_patients == 25
    assert found["sex:1"]["stay"].num_patients == 35
    # All patients, as from all without groups.
    assert to_flat(from_flat(STUDY, flat)) == to_flat(whole)
    both = found["sex:0"]["event"] + found["sex:1"]["event"]
    assert both.sums["confusion"].tolist() == whole["event"].sums["confusion"].tolist()


@pytest.mark.threat("C-1", "C-2")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f | {n: v for n, v in f.items() if n.startswith("x")} | _copied(f, 36),
        lambda f: {n: v for n, v in f.items() if not n.startswith("event.")},
        lambda f: f | {"sex:0.event.num_patients": (24.0,)},
        lambda f: f | {"sex:0.stay.value_sum": (1e6,)},
        lambda f: {n: v for n, v in f.items() if n != "sex:0.event.num_patients"},
    ],
)
def test_groups_that_are_no_part_of_all_patients_are_refused(spoil) -> None:
    flat, _ = flat_of()
    spoilt = spoil(flat)
    with pytest.raises(ValueError, match="expected"):
        groups_from_flat(STUDY, spoilt, from_flat(STUDY, spoilt))


def _copied(flat, size: int):
    """The women are as many as the men, so that there are more than all."""
    assert flat["sex:1.event.num_patients"] == (35.0,)
    return {n.replace("sex:1", "sex:0"): v for n, v in flat.items() if n.startswith("sex:1.event.")}


def test_studies_without_groups_read_none() -> None:
    study: Study = study_of()
    assert groups_from_flat(study, {"sex:0.event.num_patients": (1.0,)}, {}) == {}


def test_as_many_groups_as_a_study_can_name_are_looked_at_for_many_patients() -> None:
    rng = np.random.default_rng(0)
    members = {
        f: {
            f"{f}:{i}": of_B
            for i, of_B in enumerate(rng.integers(8, size=20_000) == np.arange(8)[:, None])
        }
        for f in "abcd"
    }
    assert len(told_groups(members, 20_000, SMALLEST)) == 32
