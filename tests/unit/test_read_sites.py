"""What is wrong with several hospitals is told of all of them, by name."""

from pathlib import Path

import pytest

from common.errors import DataError
from simulations.read_sites import read_cohorts
from tests.round.mixed_hospitals import SITES, mixed_study, write_hospitals


def test_every_hospital_whose_data_cannot_be_used_is_named(tmp_path: Path) -> None:
    sites = write_hospitals(tmp_path)
    study = mixed_study("event")
    assert set(read_cohorts(study, sites)) == set(SITES)
    for name in list(SITES)[:2]:
        path = sites / name / "patients.csv"
        *rows, last = path.read_text().splitlines()
        path.write_text("\n".join([*rows, last, last]))
    with pytest.raises(DataError) as caught:
        read_cohorts(study, sites)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == sorted(list(SITES)[:2])
    assert all("every patient once" in line for line in lines)
