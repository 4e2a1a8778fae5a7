"""Written site folders are read back by the hospital's own code."""

import pandas as pd

from client.config import load_site_config
from client.data import read_cohort
from simulations.site_folder import write_site_folder


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
