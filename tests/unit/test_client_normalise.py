"""A site's moments: worked by hand, of training patients alone, bounded by their number."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from client.config import load_site_config
from client.data import Cohort, read_cohort, usable_cohort
from client.normalise import moments_of
from common.normalisation import moments_manifest
from common.study import Study


@pytest.fixture
def cohort_of(new_site, tiny_study: Study):
    def read(table: pd.DataFrame) -> Cohort:
        return usable_cohort(*read_cohort(load_site_config(new_site(table)), tiny_study))

    return read


def test_moments_of_three_patients_worked_by_hand(cohort_of, patients, tiny_study) -> None:
    table = patients(3).assign(
        split="train",
        # Range [18, 100]: middle 59, half 41. In half ranges: 0, 1 and -.5.
        age_years=[59, 100, 38.5],
        # Range [60, 500]: middle 280, half 220. A zero means missing, so: 1, missing, -1.
        cholesterol_mg_dl=[500, 0, 60],
    )
    moments = moments_of(cohort_of(table), tiny_study)
    named = moments.unpack()
    assert moments.manifest == moments_manifest(tiny_study)
    assert moments.flat.dtype == np.float64
    assert named["labs.count"].tolist() == [3, 2]
    assert named["labs.sum"].tolist() == [0.5, 0.0]
    assert named["labs.sum_squares"].tolist() == [1.25, 2.0]


def test_moments_are_bounded_by_the_number_of_patients(cohort_of, patients, tiny_study) -> None:
    named = moments_of(cohort_of(patients(60)), tiny_study).unpack()
    for name in tiny_study.granularities:
        assert (np.abs(named[f"{name}.sum"]) <= named[f"{name}.count"]).all()
        assert (named[f"{name}.sum_squares"] <= named[f"{name}.count"]).all()


def test_a_patient_who_lacks_a_value_adds_nothing(cohort_of, patients, tiny_study) -> None:
    table = patients(20).astype({"age_years": float})
    without = table.copy()
    without.loc[7, "age_years"] = None
    difference = (
        moments_of(cohort_of(table), tiny_study).unpack()["labs.count"]
        - moments_of(cohort_of(without), tiny_study).unpack()["labs.count"]
    )
    # Row 7 is held out in this table (every fourth patient is), row 6 is not.
    assert difference.tolist() == [1, 0]


def test_an_absent_granularity_has_moments_of_zero(cohort_of, patients, tiny_study) -> None:
    table = patients(20).drop(columns=["smoker", "steps_per_day"])
    named = moments_of(cohort_of(table), tiny_study).unpack()
    assert named["lifestyle.count"].tolist() == [0]
    assert named["lifestyle.sum"].tolist() == [0]


@pytest.mark.parametrize(
    ("value", "adds"),
    [
        (np.nan, [0, 0, 0]),
        (np.inf, [0, 0, 0]),
        (-np.inf, [0, 0, 0]),
        (3e38, [1, 1, 1]),
        (-3e38, [1, -1, 1]),
        (np.nextafter(np.float32(100), np.float32(200)), [1, 1, 1]),
    ],
)
def test_whatever_is_in_a_record_adds_at_most_one(
    value: float, adds: list[float], cohort_of, patients, tiny_study
) -> None:
    cohort = cohort_of(patients(4).assign(split="train"))
    before = moments_of(cohort, tiny_study).unpack()
    arrays = {key: array.copy() for key, array in cohort.arrays["labs"].items()}
    arrays["observed_BF"][0, 0] = False
    without = replace(cohort, arrays={**cohort.arrays, "labs": dict(arrays)})
    observed_BF = arrays["observed_BF"].copy()
    observed_BF[0, 0], arrays["numeric_BF"][0, 0] = True, value
    spoilt = replace(
        cohort, arrays={**cohort.arrays, "labs": arrays | {"observed_BF": observed_BF}}
    )
    one, other = (moments_of(c, tiny_study).unpack() for c in (spoilt, without))
    moments = ("count", "sum", "sum_squares")
    found = [one[f"labs.{k}"][0] - other[f"labs.{k}"][0] for k in moments]
    assert found == pytest.approx(adds, abs=1e-12)
    # Every other feature is bit for bit what it was.
    assert all(one[f"labs.{k}"][1] == before[f"labs.{k}"][1] for k in moments)
