"""The importer of TCGA-BRCA: on a made-up source in the true format, and on the real one."""

from pathlib import Path

import pandas as pd
import pytest

from common.errors import DataError
from common.granularities import MarkersGranularity
from common.outcomes import SurvivalOutcome
from common.study_file import load_study
from simulations.datasets.tcga_brca import FILES, REGIONS, import_tcga_brca
from tests.unit.real_data import bytes_under, real_data

FEATURES = ["age_at_index", "ajcc_pathologic_n_N0 (i-)", "primary_diagnosis_Lobular, NOS"]


def write_source(folder: Path) -> Path:
    """Three patients with a place in the split, of whom one has omics, and a fourth without one."""
    for part in ("clinical", "multiomics"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    clinical = pd.DataFrame(
        [
            ("X-4", 50, 0, 0, 0.0, 9.0),
            ("X-3", 61, 1, 0, 1.0, 400.0),
            ("X-1", 40, 0, 1, 0.0, 1200.0),
            ("X-2", 70, 0, 0, 1.0, 0.0),
        ],
        columns=["pid", *FEATURES, "E", "T"],
    )
    split = [["X-1", "train", "train_0"], ["X-2", "test", "test_5"], ["X-3", "train", "train_5"]]
    omics = pd.DataFrame(
        [["AAAA", "X-3", "LumA"], ["BBBB", None, "Basal"]],
        columns=["participant", "pid", "subtype"],
    )
    clinical.to_csv(folder / "clinical/brca.csv", index=False)
    columns = ["pid", "fold", "fold2"]
    pd.DataFrame(split, columns=columns).to_csv(
        folder / "clinical/train_test_split.csv", index=False
    )
    omics.to_csv(folder / "multiomics/patients.csv", index=False)
    for name in ("mrna", "mirna"):
        table = pd.DataFrame({"participant": ["AAAA", "BBBB"], "HLA-H": [1.25, 2.5], "b-1": [3, 4]})
        table.to_csv(folder / f"multiomics/{name}.csv.gz", index=False)
    protein = pd.DataFrame({"participant": ["BBBB"], "p53": [0.5]})
    protein.to_csv(folder / "multiomics/protein.csv.gz", index=False)
    return folder


def _text(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


def test_patients_stand_in_their_region_on_their_side_of_the_split(tmp_path) -> None:
    folders = import_tcga_brca(write_source(tmp_path / "in"), tmp_path / "out")
    assert [folder.name for folder in folders] == list(REGIONS)
    header, *rows = _text(tmp_path / "out/canada/patients.csv")
    assert header == [
        *("patient_id", "split", "time_days", "event", "subtype"),
        *("age_at_index", "ajcc_pathologic_n_n0_i", "primary_diagnosis_lobular_nos"),
    ]
    assert rows == [
        ["X-2", "test", "0", "1", "", "70", "0", "0"],
        ["X-3", "train", "400", "1", "luma", "61", "1", "0"],
    ]
    assert [row[0] for row in _text(tmp_path / "out/northeast/patients.csv")[1:]] == ["X-1"]


def test_markers_are_kept_as_published_for_patients_of_the_split_alone(tmp_path) -> None:
    import_tcga_brca(write_source(tmp_path / "in"), tmp_path / "out")
    for name in ("mrna", "mirna"):
        rows = _text(tmp_path / f"out/canada/{name}.csv")
        assert rows == [["patient_id", "HLA-H", "b-1"], ["X-3", "1.25", "3"]]


def test_a_site_that_lacks_a_granularity_has_no_file_of_it(tmp_path) -> None:
    import_tcga_brca(write_source(tmp_path / "in"), tmp_path / "out")
    canada = {path.name for path in (tmp_path / "out/canada").iterdir()}
    assert canada == {"site.toml", "patients.csv", "mrna.csv", "mirna.csv"}
    northeast = {path.name for path in (tmp_path / "out/northeast").iterdir()}
    assert northeast == {"site.toml", "patients.csv"}


def test_importing_twice_gives_identical_bytes(tmp_path) -> None:
    source = write_source(tmp_path / "in")
    import_tcga_brca(source, tmp_path / "one")
    import_tcga_brca(source, tmp_path / "two")
    assert bytes_under(tmp_path / "one") == bytes_under(tmp_path / "two")


@pytest.mark.parametrize("name", FILES)
def test_an_absent_file_is_named_and_nothing_is_written(tmp_path, name) -> None:
    source = write_source(tmp_path / "in")
    (source / name).unlink()
    with pytest.raises(DataError, match=f"found 5; absent: {name}"):
        import_tcga_brca(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_patient_of_the_split_without_a_clinical_row_is_counted_and_not_named(tmp_path) -> None:
    source = write_source(tmp_path / "in")
    clinical = pd.read_csv(source / "clinical/brca.csv")
    clinical[clinical["pid"] != "X-2"].to_csv(source / "clinical/brca.csv", index=False)
    with pytest.raises(DataError, match="found 1 of 3") as refused:
        import_tcga_brca(source, tmp_path / "out")
    assert "X-2" not in str(refused.value)


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("tcga")
    return {f.name: f for f in import_tcga_brca(real_data("tcga_brca"), out)}


def test_the_real_split_has_the_published_counts(sites) -> None:
    counts = {}
    for site, folder in sites.items():
        patients = pd.read_csv(folder / "patients.csv")
        is_test = patients["split"] == "test"
        events = patients["event"].groupby(is_test).sum()
        counts[site] = (int((~is_test).sum()), int(is_test.sum()), *map(int, events))
    assert counts == {
        "northeast": (248, 63, 45, 14),
        "south": (156, 40, 35, 4),
        "west": (164, 42, 14, 8),
        "midwest": (129, 33, 16, 3),
        "europe": (129, 33, 7, 2),
        "canada": (40, 11, 2, 1),
    }


@pytest.mark.parametrize("name", ["tcga-brca", "tcga-brca-clinical", "tcga-brca-subtype"])
def test_the_real_values_are_those_that_the_study_knows(name, sites) -> None:
    study = load_study(name)
    patients = pd.concat([pd.read_csv(f / "patients.csv") for f in sites.values()])
    if isinstance(study.primary, SurvivalOutcome):
        assert patients[study.primary.time_column].ge(0).all()
        assert set(patients[study.primary.event_column]) == {0, 1}
    else:
        assert set(patients["subtype"].dropna()) == set(study.primary.classes)
        assert patients["subtype"].notna().sum() == 219
    for granularity_name, granularity in study.granularities.items():
        table = patients
        if isinstance(granularity, MarkersGranularity):
            files = [f / f"{granularity_name}.csv" for f in sites.values()]
            table = pd.concat([pd.read_csv(path) for path in files])
            assert list(table)[1:] == list(granularity.markers)
        for column, feature in granularity.numeric.items():
            assert table[column].between(*feature.range).all(), column


def test_the_real_omics_have_the_published_counts(sites) -> None:
    num_rows = {
        name: sum(len(pd.read_csv(f / f"{name}.csv")) for f in sites.values())
        for name in ("mrna", "mirna", "protein")
    }
    assert num_rows == {"mrna": 219, "mirna": 219, "protein": 150}
