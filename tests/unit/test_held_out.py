"""Who patients are, and who of them is held out."""

import subprocess
import sys

import pandas as pd

from client.data import pseudonym
from common.study_file import override
from tests.unit.data_cases import read


def test_ids_become_pseudonyms_that_are_equal_where_the_ids_are(
    new_site, patients, tiny_study
) -> None:
    cohort, _ = read(new_site(), tiny_study)
    assert cohort is not None
    ids = patients()["patient_id"]
    assert cohort.pseudonym_B.tolist() == [pseudonym(i) for i in ids]
    assert len(set(cohort.pseudonym_B)) == 60
    assert not any(i in p for i in ids for p in cohort.pseudonym_B)
    assert cohort.test.pseudonym_B.tolist() == [pseudonym(i) for i in ids[3::4]]


def test_pseudonyms_of_another_process_are_others() -> None:
    code = "from client.data import pseudonym; print(pseudonym('p0001'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.strip()) == len(pseudonym("p0001"))
    assert done.stdout.strip() != pseudonym("p0001")


def test_the_split_column_decides_who_is_held_out(new_site, patients, tiny_study) -> None:
    cohort, _ = read(new_site(), tiny_study)
    assert cohort is not None
    assert (cohort.is_test_B == (patients()["split"] == "test")).all()


def test_without_a_split_column_a_patient_stays_on_one_side_when_rows_are_added(
    new_site, patients, tiny_study
) -> None:
    table = patients(400).drop(columns="split")
    before, _ = read(new_site(table), tiny_study)
    more = pd.concat([patients(800).drop(columns="split").iloc[400:], table])
    after, _ = read(new_site(more), tiny_study)
    assert before is not None
    assert after is not None
    assert (after.is_test_B[400:] == before.is_test_B).all()
    # 400 draws at .25: 100 held out on average, standard deviation 8.7.
    assert 65 <= before.is_test_B.sum() <= 135


def test_another_split_seed_holds_out_others(new_site, patients, tiny_study) -> None:
    folder = new_site(patients(400).drop(columns="split"))
    one, _ = read(folder, tiny_study)
    other, _ = read(folder, override(tiny_study, evaluation__split_seed=1))
    assert one is not None
    assert other is not None
    assert (one.is_test_B != other.is_test_B).any()


def test_a_validation_fold_leaves_the_held_out_patients_out_and_the_folds_share_the_others(
    new_site, patients, tiny_study
) -> None:
    table = patients(200)
    folder = new_site(table)
    num_training = int((table["split"] == "train").sum())
    held_out = set(table.loc[table["split"] == "test", "steps_per_day"])
    validated: list[float] = []
    for fold in range(5):
        study = override(tiny_study, evaluation__validation_fold=fold)
        cohort, _ = read(folder, study)
        assert cohort is not None
        assert len(cohort) == num_training
        seen = cohort.arrays["lifestyle"]["numeric_BF"][:, 0]
        assert not held_out & {int(v) for v in seen} - set(
            table.loc[table["split"] == "train", "steps_per_day"]
        )
        validated += cohort.test.arrays["lifestyle"]["numeric_BF"][:, 0].tolist()
    expected = table.loc[table["split"] == "train", "steps_per_day"].tolist()
    assert sorted(validated) == sorted(float(v) for v in expected)
