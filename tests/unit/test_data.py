"""A site's patients: who is one, and every problem of a folder in one pass."""

import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.config import load_site_config
from client.data import Cohort, read_cohort, usable_cohort
from client.findings import Finding
from common.errors import DataError
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES
from tests.unit.data_cases import read


def errors_of(findings: list[Finding]) -> dict[str, str]:
    return {f.where: f.found for f in findings if f.severity == "error"}


def warnings_of(findings: list[Finding]) -> list[str]:
    return [f.sentence() for f in findings if f.severity == "warning"]


def test_a_clean_folder_has_no_findings(new_site, tiny_study) -> None:
    cohort, findings = read(new_site(), tiny_study)
    assert findings == []
    assert cohort is not None
    assert (len(cohort), len(cohort.train), len(cohort.test)) == (60, 45, 15)
    assert cohort.train.counts() == {"patients": 45, "labs": 45, "lifestyle": 45, "event": 45}


def test_every_problem_is_found_in_one_pass_with_file_column_and_count(
    new_site, patients, tiny_study
) -> None:
    table = patients().astype("object")
    table.loc[[1, 2], "patient_id"] = table.loc[0, "patient_id"]
    table.loc[3, "patient_id"] = None
    table.loc[[4, 5, 6], "split"] = "validation"
    table.loc[[7, 8], "event"] = "perhaps"
    table.loc[[10, 11, 12, 13], "age_years"] = "old"
    table.loc[[14], "age_years"] = "inf"
    table.loc[range(20, 40), "cholesterol_mg_dl"] = 9999
    table.loc[range(40, 60), "vessels"] = "many"
    cohort, findings = read(new_site(table.drop(columns="steps_per_day")), tiny_study)
    assert cohort is None
    file = "patients.csv, column"
    assert [(f.where, f.found) for f in findings if f.severity == "error"] == [
        (f"{file} patient_id", "1 empty"),
        (f"{file} patient_id", "2 rows that repeat an id"),
        (f"{file} event", "2 other values"),
        (f"{file} split", "3 other values"),
        (f"{file} age_years", "4 cells of text"),
        (f"{file} age_years", "1 infinite values"),
        (f"{file} cholesterol_mg_dl", "20 of 60 values outside"),
        (f"{file} vessels", "20 of 60 values unknown"),
    ]
    assert len(warnings_of(findings)) == 1
    assert "no column steps_per_day" in warnings_of(findings)[0]


@pytest.mark.parametrize(
    ("column", "error"),
    [("patient_id", "a column patient_id"), ("event", "the outcome column event")],
)
def test_a_table_without_id_or_outcome_is_an_error(
    new_site, patients, tiny_study, column: str, error: str
) -> None:
    cohort, findings = read(new_site(patients().drop(columns=column)), tiny_study)
    assert cohort is None
    assert any(error in f.expected for f in findings if f.severity == "error")


def test_a_table_without_any_granularity_is_an_error(new_site, patients, tiny_study) -> None:
    table = patients()[["patient_id", "event"]]
    cohort, findings = read(new_site(table), tiny_study)
    assert cohort is None
    assert errors_of(findings) == {"patients.csv": "none for any patient"}


def test_an_outcome_missing_for_everybody_is_an_error(new_site, patients, tiny_study) -> None:
    cohort, findings = read(new_site(patients().assign(event=None)), tiny_study)
    assert cohort is None
    assert errors_of(findings) == {"patients.csv, column event": "none"}


def test_patients_without_an_outcome_are_left_out_with_a_warning(
    new_site, patients, tiny_study
) -> None:
    table = patients().astype({"event": "object"})
    table.loc[[0, 1, 3], "event"] = None
    cohort, findings = read(new_site(table), tiny_study)
    assert cohort is not None
    assert (len(cohort.train), len(cohort.test)) == (43, 14)
    assert "3 patients without one" in warnings_of(findings)[0]


def test_one_class_is_a_warning_and_no_error(new_site, patients, tiny_study) -> None:
    cohort, findings = read(new_site(patients().assign(event=1)), tiny_study)
    assert cohort is not None
    assert errors_of(findings) == {}
    assert [("training" in w, "held-out" in w) for w in warnings_of(findings)] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(("min_patients", "is_error"), [(45, False), (46, True)])
def test_fewer_training_patients_than_the_policy_asks_for_are_an_error(
    new_site, tiny_study, min_patients: int, is_error: bool
) -> None:
    _, findings = read(new_site(policy={"min_patients": min_patients}), tiny_study)
    assert errors_of(findings) == ({"patients.csv": "45"} if is_error else {})


def test_too_few_held_out_patients_are_a_warning(new_site, patients, tiny_study) -> None:
    table = patients().assign(split=["test"] * 3 + ["train"] * 57)
    _, findings = read(new_site(table), tiny_study)
    assert errors_of(findings) == {}
    assert any("No metrics will be sent" in w for w in warnings_of(findings))


def test_ids_are_text_so_leading_zeros_tell_patients_apart(new_site, patients, tiny_study) -> None:
    zeros = patients().assign(patient_id=["7", "07", "007", *(str(i) for i in range(100, 157))])
    cohort, findings = read(new_site(zeros), tiny_study)
    assert findings == []
    assert cohort is not None
    assert len(cohort) == 60


def test_latin_1_is_refused_without_quoting_the_name(new_site, patients, tiny_study) -> None:
    table = patients().astype({"smoker": "object"})
    table.loc[0, "smoker"] = "M\u00fcller"
    cohort, findings = read(new_site(table.to_csv(index=False).encode("latin-1")), tiny_study)
    assert cohort is None
    assert errors_of(findings) == {"patients.csv": "another encoding"}


@pytest.mark.parametrize("dress", ["windows", "bom", "quotes"])
def test_windows_line_endings_a_bom_and_quotes_change_nothing(
    new_site, patients, tiny_study, dress: str
) -> None:
    table = patients()
    content = {
        "windows": table.to_csv(index=False, lineterminator="\r\n").encode(),
        "bom": b"\xef\xbb\xbf" + table.to_csv(index=False).encode(),
        "quotes": table.to_csv(index=False, quoting=1).encode(),
    }[dress]
    plain, _ = read(new_site(table), tiny_study)
    dressed, findings = read(new_site(content), tiny_study)
    assert findings == []
    assert_same_patients(plain, dressed)


def test_the_order_of_columns_does_not_matter(new_site, patients, tiny_study) -> None:
    table = patients()
    plain, _ = read(new_site(table), tiny_study)
    turned, _ = read(new_site(table[table.columns[::-1]]), tiny_study)
    assert_same_patients(plain, turned)


def assert_same_patients(one: Cohort | None, other: Cohort | None) -> None:
    assert one is not None
    assert other is not None
    assert one.is_test_B.tobytes() == other.is_test_B.tobytes()
    assert one.pseudonym_B.tolist() == other.pseudonym_B.tolist()
    for ours, theirs in ((one.arrays, other.arrays), (one.outcomes, other.outcomes)):
        for name, arrays in ours.items():
            for key, value in arrays.items():
                assert value.tobytes() == theirs[name][key].tobytes()


def test_an_unusable_folder_is_one_error_with_all_its_sentences(
    new_site, patients, tiny_study
) -> None:
    table = patients().drop(columns=["patient_id", "event"])
    config = load_site_config(new_site(table))
    with pytest.raises(DataError) as caught:
        usable_cohort(*read_cohort(config, tiny_study))
    assert len(str(caught.value).splitlines()) == 2


def test_a_faulty_id_hides_no_fault_of_another_file(new_site, patients, tiny_study) -> None:
    table = patients().astype("object")
    table.loc[1, "patient_id"] = table.loc[0, "patient_id"]
    table.loc[3, "patient_id"] = None
    folder = new_site(table)
    labs = patients()[["patient_id", "age_years"]].astype("object")
    labs.loc[5, "age_years"] = "old"
    labs.to_csv(folder / "labs.csv", index=False)
    cohort, findings = read(folder, tiny_study)
    assert cohort is None
    assert [(f.where, f.found) for f in findings if f.severity == "error"] == [
        ("patients.csv, column patient_id", "1 empty"),
        ("patients.csv, column patient_id", "1 rows that repeat an id"),
        ("labs.csv, column age_years", "1 cells of text"),
    ]


# Several outcomes.


def several(study: Study) -> Study:
    table = study.model_dump(mode="json", exclude_none=True)
    return Study.model_validate(table | {"outcomes": {**table["outcomes"], **MORE_OUTCOMES}})


def with_more(table: pd.DataFrame) -> pd.DataFrame:
    number = np.arange(len(table))
    more = {"stay_days": number % 20, "followed_days": number * 7, "died": number % 2}
    return table.assign(**more).astype("object")


def test_each_outcome_is_known_of_its_own_patients(new_site, patients, tiny_study) -> None:
    table = with_more(patients())
    table.loc[range(8), "event"] = None
    table.loc[range(4, 12), "stay_days"] = None
    # The time without its event is as unknown as nothing at all.
    table.loc[range(6), "died"] = None
    cohort, _ = read(new_site(table), several(tiny_study))
    assert cohort is not None
    # Rows 4 and 5 have no outcome at all.
    assert len(cohort) == 58
    assert cohort.counts() == {
        "patients": 58,
        "labs": 58,
        "lifestyle": 58,
        "event": 52,
        "stay": 52,
        "death": 54,
    }
    known = {name: arrays["known_B"] for name, arrays in cohort.outcomes.items()}
    assert known["event"][:6].tolist() == [False] * 6
    assert cohort.outcomes["event"]["label_B"][~known["event"]].tolist() == [-1] * 6
    assert cohort.outcomes["stay"]["value_B"][~known["stay"]].tolist() == [0.0] * 6
    assert cohort.outcomes["death"]["time_B"][~known["death"]].tolist() == [0.0] * 4


def test_one_class_is_told_of_the_outcome_that_has_it_and_of_the_known_patients_alone(
    new_site, patients, tiny_study
) -> None:
    table = with_more(patients())
    table["event"] = 1
    table.loc[:5, "event"] = None
    _, findings = read(new_site(table), several(tiny_study))
    told = [w for w in warnings_of(findings) if "two classes" in w]
    assert ["of event" in w for w in told] == [True, True]


# What leaks, and what may not.


def test_an_extreme_neighbour_changes_no_other_patient_by_one_bit(
    new_site, patients, tiny_study
) -> None:
    table = patients(100)
    extreme = {
        "patient_id": "x",
        "split": "train",
        "event": 1,
        "age_years": 1e30,
        "cholesterol_mg_dl": -1e30,
        "vessels": "2",
        "smoker": "unheard of",
        "steps_per_day": 40000,
    }
    neighbour = pd.concat([table, pd.DataFrame([extreme])], ignore_index=True)
    alone, _ = read(new_site(table), tiny_study)
    together, findings = read(new_site(neighbour), tiny_study)
    assert len(findings) == 3  # the extreme patient is counted, as a warning
    assert together is not None
    assert len(together) == 101
    others = together.select(np.arange(101) < 100)
    assert_same_patients(alone, others)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_value_of_the_data_stands_in_any_sentence(
    new_site, patients, tiny_study, seed: int
) -> None:
    chance = random.Random(seed)
    table = patients(30, seed=seed).astype("object")
    canaries = []
    for row in range(30):
        for column in table.columns:
            if chance.random() < 0.3:
                word = f"Qx{chance.randrange(10**9):09d}zK"
                number = f"{chance.randrange(10**8, 10**9)}"
                canary = chance.choice([word, number, f"{word}\n{number}", f'{number}.5"{word}'])
                table.loc[row, column] = canary
                canaries += [part for part in (word, number) if part in canary]
    content = table.to_csv(index=False, header=chance.random() < 0.9).encode()
    if chance.random() < 0.2:
        content = content.replace(b'"', b"")
    if chance.random() < 0.2:
        content = content.replace(b"z", "\u00fc".encode("latin-1"))
    _, findings = read(new_site(content), tiny_study)
    text = "\n".join(f.sentence() for f in findings)
    assert findings
    assert not [canary for canary in canaries if canary in text]
    for value in set(patients(30, seed=seed)["steps_per_day"].astype(str)):
        assert len(value) < 5 or value not in text


def test_of_several_files_of_a_granularity_it_is_told_which_was_read(
    new_site, patients, tiny_study
) -> None:
    folder = new_site()
    table = patients()[["patient_id", "smoker", "steps_per_day"]]
    table.to_csv(folder / "lifestyle.csv", index=False)
    assert not [f for f in read(folder, tiny_study)[1] if "lifestyle.csv" in f.found]
    table.to_csv(folder / "lifestyle.csv.gz", index=False)
    (finding,) = [f for f in read(folder, tiny_study)[1] if "lifestyle.csv" in f.found]
    assert finding.severity == "warning"
    assert finding.found == "lifestyle.csv, lifestyle.csv.gz"
    assert finding.action.startswith("lifestyle.csv is read")
