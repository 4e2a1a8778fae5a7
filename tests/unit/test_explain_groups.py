"""Groups of patients: small ones are not judged, and nothing about them is told."""

from dataclasses import replace

import numpy as np
import pytest

from client.data import Cohort
from client.explain.groups import NOT_KNOWN, Group, grouping_features, groups_of
from client.explain.page.judgement import groups_section
from client.explain.tables import groups_csv
from common.errors import StudyError
from common.metrics.classification import ClassStatistics
from common.page.document import Table
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, study_of
from tests.unit.explain_cases import SMALLEST_GROUP, cohort_of, subject_of

STUDY = study_of()


def _with_labs(cohort: Cohort, **arrays: np.ndarray) -> Cohort:
    labs = {**cohort.arrays["labs"], **arrays}
    return replace(cohort, arrays={**cohort.arrays, "labs": labs})


def _groups(num_female: int, num_male: int) -> dict[str, Group]:
    sexes = [1] * num_female + [2] * num_male
    cohort = cohort_of(STUDY, len(sexes), seed=2)
    cohort = _with_labs(cohort, codes_BK=np.array(sexes)[:, None])
    return {g.name: g for g in groups_of(subject_of(STUDY, test=cohort), "event", ["sex"])}


def test_a_group_of_exactly_the_smallest_size_is_judged_and_one_below_is_not() -> None:
    groups = _groups(SMALLEST_GROUP, SMALLEST_GROUP - 1)
    assert groups["female"].num_patients == SMALLEST_GROUP
    assert "AUROC" in groups["female"].measures
    assert groups["male"].num_patients is None
    assert groups["male"].measures == {}
    assert NOT_KNOWN not in groups


def test_of_a_small_group_no_number_is_written() -> None:
    groups = list(_groups(SMALLEST_GROUP, SMALLEST_GROUP - 1).values())
    text = groups_csv({"event": groups})
    assert "female" in text
    assert ",male," not in text
    section = groups_section(subject_of(STUDY), {"event": groups})
    tables = [block for block in section.blocks if isinstance(block, Table)]
    (row,) = [row for table in tables for row in table.rows if row[0] == "male"]
    assert row[1:] == ("too few", "–", "–", "–", "–")


def test_measures_of_a_group_are_those_of_its_patients_alone() -> None:
    groups = _groups(25, 15)
    subject = subject_of(STUDY, test=cohort_of(STUDY, 40, seed=2))
    cohort = _with_labs(subject.test.cohort, codes_BK=np.array([1] * 25 + [2] * 15)[:, None])
    subject = subject_of(STUDY, test=cohort)
    labels = {key: value[:25] for key, value in cohort.outcomes["event"].items()}
    statistics = ClassStatistics(num_classes=2, score_bins=10)
    expected = statistics.exact_metrics(subject.test.predictions["event"][:25], labels)
    found = groups["female"].measures
    assert found["AUROC"].value == pytest.approx(expected["auroc"])
    assert found["accuracy"].value == pytest.approx(expected["accuracy"])
    assert found["observed"].value == pytest.approx(labels["label_B"].mean())


def test_sex_and_age_are_looked_at_where_nobody_asks() -> None:
    assert grouping_features(STUDY, ()) == ["sex", "age_years"]
    assert grouping_features(STUDY, ["smoker", "smoker"]) == ["smoker"]
    with pytest.raises(StudyError, match="found ward"):
        grouping_features(STUDY, ["ward"])


def test_bands_of_age_are_fixed_and_those_of_others_come_from_training_patients() -> None:
    subject = subject_of(STUDY)
    ages = [g.name for g in groups_of(subject, "event", ["age_years"])]
    assert ages[:4] == ["below 40", "40 to below 60", "60 to below 80", "80 and above"]
    other = subject_of(STUDY, test=cohort_of(STUDY, 40, seed=8))
    names = [[g.name for g in groups_of(s, "event", ["glucose"])] for s in (subject, other)]
    assert names[0][:3] == names[1][:3]


def test_patients_of_whom_the_feature_is_not_known_are_a_group() -> None:
    groups = {g.name: g for g in groups_of(subject_of(STUDY), "event", ["sex"])}
    codes_BK = subject_of(STUDY).test.cohort.arrays["labs"]["codes_BK"]
    num_unknown = int((codes_BK[:, 0] == 0).sum())
    assert num_unknown >= SMALLEST_GROUP
    assert groups[NOT_KNOWN].num_patients == num_unknown


@pytest.mark.parametrize("outcomes", [MORE_OUTCOMES, MULTICLASS])
def test_every_kind_of_outcome_is_judged_by_group(outcomes: dict[str, object]) -> None:
    study = study_of(outcomes=outcomes)
    for name in study.outcomes:
        groups = groups_of(subject_of(study), name, ["sex"])
        assert any(group.measures for group in groups)
