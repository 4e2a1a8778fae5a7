"""Written site folders are read back by the hospital's own code."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from client.config import load_site_config
from client.data import read_cohort
from simulations.site_folder import write_site_folder
from tests.unit.real_data import bytes_under


def test_what_is_written_is_read_back_as_it_was(tmp_path, patients, tiny_study) -> None:
    table = patients().astype("object")
    table.loc[0, "patient_id"] = '007 "x", y'
    table.loc[1, "age_years"] = None
    folder = write_site_folder(
        tmp_path / "beta",
        site="beta",
        dataset_id="beta-2026",
        patients=table,
        min_patients=31,
        smallest_group=7,
        source="A test.",
    )
    config = load_site_config(folder)
    assert (config.name, config.dataset_id, config.device) == ("beta", "beta-2026", "cpu")
    assert (config.policy.min_patients, config.policy.smallest_group) == (31, 7)
    assert config.policy.allow_without_privacy
    cohort, findings = read_cohort(config, tiny_study)
    assert findings == []
    assert cohort is not None
    labs = cohort.arrays["labs"]
    assert labs["observed_BF"][:3, 0].tolist() == [True, False, True]
    expected = pd.to_numeric(table["age_years"]).fillna(0.0)
    assert labs["numeric_BF"][:, 0].tolist() == expected.tolist()


def test_the_source_of_the_data_is_told_in_the_file(tmp_path, patients) -> None:
    folder = write_site_folder(
        tmp_path / "beta", site="beta", dataset_id="d", patients=patients(), source="From a friend."
    )
    first = (folder / "site.toml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# From a friend."


def test_equal_patients_are_written_as_equal_bytes(tmp_path, patients) -> None:
    contents = []
    for name in ("one", "two"):
        folder = write_site_folder(
            tmp_path / name / "beta", site="beta", dataset_id="d", patients=patients(), source="A."
        )
        contents.append((folder / "patients.csv").read_bytes())
    assert contents[0] == contents[1]
    assert b"\r" not in contents[0]


def _folder_with_more(tmp_path, name: str):
    ids = ["p1", "p2"]
    vitals = pd.DataFrame({"patient_id": ids, "minutes": [0, 5], "signal": "hr", "value": [70, 71]})
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    return write_site_folder(
        tmp_path / name,
        site="beta",
        dataset_id="d",
        patients=pd.DataFrame({"patient_id": ids}),
        tables={"vitals": vitals, "notes": vitals.iloc[:0]},
        images={"imaging": {"one.png": pixels}},
        source="A.",
    )


def test_further_tables_and_images_stand_beside_the_patients(tmp_path) -> None:
    folder = _folder_with_more(tmp_path, "beta")
    assert (folder / "vitals.csv").read_text() == (
        "patient_id,minutes,signal,value\np1,0,hr,70\np2,5,hr,71\n"
    )
    with Image.open(folder / "imaging/one.png") as image:
        assert np.asarray(image).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_table_without_rows_is_not_written(tmp_path) -> None:
    assert not (_folder_with_more(tmp_path, "beta") / "notes.csv").exists()


def test_equal_tables_and_images_are_written_as_equal_bytes(tmp_path) -> None:
    one, two = (bytes_under(_folder_with_more(tmp_path, name)) for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("name", "columns", "problem"),
    [
        ("vitals", ["minutes"], r"found none in \['vitals'\]"),
        ("patients", ["patient_id"], "beside the patients' table"),
    ],
)
def test_a_table_that_cannot_belong_to_patients_is_refused(
    tmp_path, name, columns, problem
) -> None:
    with pytest.raises(ValueError, match=problem):
        write_site_folder(
            tmp_path / "beta",
            site="beta",
            dataset_id="d",
            patients=pd.DataFrame({"patient_id": ["p1"]}),
            tables={name: pd.DataFrame(columns=columns)},
            source="A.",
        )
    assert not (tmp_path / "beta").exists()
