"""The importer of the Hannover X-rays: on a made-up source in its format, and on the real one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.errors import DataError
from common.study_file import load_study
from simulations.datasets.hannover_cxr import LABS, import_hannover_cxr
from tests.unit.real_data import bytes_under, real_data

ROW = {
    "patient_id": "a",
    "image_id": "i0",
    "sex": "f",
    "admission_offset": 0,
    "icu_admission_offset": "",
    "death_offset": "",
    "projection": "ap",
    **{f"{name}_{part}": "" for name in (*LABS, "factor_xii") for part in ("offset", "val")},
}


def write_source(folder: Path, rows: list[dict[str, object]]) -> Path:
    """A source with these rows (differences from ROW); the image of row i is filled with i."""
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame([ROW | {"image_id": f"i{n}"} | row for n, row in enumerate(rows)])
    table.to_csv(folder / "data.csv", index=False)
    pixels = np.broadcast_to(np.arange(len(rows), dtype=np.uint8)[:, None, None], (len(rows), 8, 8))
    ids = table["image_id"].to_numpy(dtype="<U8")
    np.savez(folder / "images_128.npz", images=pixels, image_id=ids)
    return folder


def imported(source: Path, out: Path, file: str = "patients", **options) -> pd.DataFrame:
    """The rows of one file of all hospitals."""
    folders = import_hannover_cxr(source, out, **options)
    parts = [pd.read_csv(f / f"{file}.csv").assign(site=f.name) for f in folders]
    return pd.concat(parts).sort_values("patient_id", kind="stable").reset_index(drop=True)


@pytest.mark.parametrize("icu", ["", 3])
def test_the_images_are_those_of_the_first_day_whatever_the_outcome(tmp_path, icu) -> None:
    days = [-5, 1, 1, 0]  # of admission, seen from the image: the first images are at 1
    rows = [{"admission_offset": day, "icu_admission_offset": icu} for day in days]
    source = write_source(tmp_path / "in", rows)
    imaging = imported(source, tmp_path / "out", "imaging", num_sites=1)
    assert imaging["file"].tolist() == ["i1.png", "i2.png"]
    folder = tmp_path / "out/hospital-1/imaging"
    assert sorted(path.name for path in folder.iterdir()) == ["i1.png", "i2.png"]
    for number in (1, 2):
        with Image.open(folder / f"i{number}.png") as image:
            assert image.mode == "L"
            assert (np.asarray(image) == number).all()


def test_patients_in_the_unit_before_their_first_image_are_left_out(tmp_path) -> None:
    offsets = {"early": -1, "same_day": 0, "later": 5, "never": ""}
    rows = [{"patient_id": name, "icu_admission_offset": o} for name, o in offsets.items()]
    patients = imported(write_source(tmp_path / "in", rows), tmp_path / "out", num_sites=1)
    assert patients["patient_id"].tolist() == ["later", "never", "same_day"]


def test_a_laboratory_value_is_the_latest_that_was_measured_by_then(tmp_path) -> None:
    rows = [
        {"crp_offset": -2, "crp_val": 10, "ldh_offset": 1, "ldh_val": 999},
        {"crp_offset": -1, "crp_val": 20, "po2_offset": 0, "po2_val": "-inf"},
        {"admission_offset": -3, "crp_offset": 0, "crp_val": 30},  # of a later image
    ]
    patients = imported(write_source(tmp_path / "in", rows), tmp_path / "out", num_sites=1)
    assert patients["crp_mg_l"].tolist() == [20]
    assert patients["ldh_u_l"].isna().all()
    assert patients["po2_mmhg"].tolist() == [-np.inf]


def test_nothing_that_tells_of_the_outcome_is_a_column(tmp_path) -> None:
    source = write_source(tmp_path / "in", [{"icu_admission_offset": 2, "death_offset": 9}])
    patients = imported(source, tmp_path / "out", num_sites=1).drop(columns="site")
    head = ["patient_id", "split", "fold", "intensive_care", "sex"]
    assert list(patients) == [*head, *LABS.values()]
    assert patients["intensive_care"].tolist() == ["yes"]


def test_hospitals_and_folds_share_patients_and_outcomes_evenly(tmp_path) -> None:
    rows = [
        {"patient_id": f"p{i:02}", "icu_admission_offset": 1 if i % 3 == 0 else ""}
        for i in range(48)
    ]
    source = write_source(tmp_path / "in", rows)
    patients = imported(source, tmp_path / "out", num_sites=3)
    groups = patients.groupby(["site", "intensive_care"])["split"].value_counts().unstack()
    # 16 of 48 came to the unit: 5 or 6 of 16 at each hospital; a quarter of them is held out.
    assert groups.sum(axis=1).groupby("site").sum().eq(16).all()
    assert set(groups.sum(axis=1).xs("yes", level="intensive_care")) == {5, 6}
    assert groups["test"].groupby("site").sum().eq(4).all()
    held_out = [
        set(t.loc[t["split"] == "test", "patient_id"])
        for t in (
            imported(source, tmp_path / "out", num_sites=3, test_fold=fold) for fold in range(4)
        )
    ]
    assert sum(map(len, held_out)) == len(set().union(*held_out)) == 48


def test_importing_twice_gives_identical_bytes(tmp_path) -> None:
    source = write_source(tmp_path / "in", [{"patient_id": f"p{i}"} for i in range(9)])
    import_hannover_cxr(source, tmp_path / "one")
    import_hannover_cxr(source, tmp_path / "two")
    assert bytes_under(tmp_path / "one") == bytes_under(tmp_path / "two")


def test_absent_files_are_all_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"found 0; absent: data\.csv, images_128\.npz"):
        import_hannover_cxr(tmp_path, tmp_path / "out")


def test_images_that_cannot_be_read_are_refused(tmp_path) -> None:
    source = write_source(tmp_path / "in", [{}])
    (source / "images_128.npz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"images_128\.npz"):
        import_hannover_cxr(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_row_without_its_image_is_counted(tmp_path) -> None:
    source = write_source(tmp_path / "in", [{}, {}])
    np.savez(source / "images_128.npz", images=np.zeros((1, 8, 8), np.uint8), image_id=["i0"])
    with pytest.raises(DataError, match="found none for 1 of 2"):
        import_hannover_cxr(source, tmp_path / "out")


@pytest.mark.parametrize("options", [{"test_fold": 4}, {"num_sites": 0}])
def test_a_fold_or_hospital_that_cannot_be_is_refused(tmp_path, options) -> None:
    with pytest.raises(ValueError, match="test_fold in 0…3 and a site or more"):
        import_hannover_cxr(tmp_path, tmp_path / "out", **options)


def test_67_real_patients_remain_and_fit_the_study(tmp_path) -> None:
    source = real_data("hannover_cxr")
    patients = imported(source, tmp_path / "out")
    # Of 71 patients, 29 came to the unit; 4 of these before their first image.
    assert len(patients) == 67
    assert (patients["intensive_care"] == "yes").sum() == 25
    assert sorted(patients["site"].value_counts()) == [16, 17, 17, 17]
    imaging = imported(source, tmp_path / "out", "imaging")
    assert set(imaging["patient_id"]) == set(patients["patient_id"])
    study = load_study("hannover-cxr")
    assert imaging.groupby("patient_id").size().max() <= study.granularities["imaging"].max_images
    for column, feature in study.granularities["labs"].numeric.items():
        values = patients[column][np.isfinite(patients[column])]
        assert values.between(*feature.range).all(), column


def test_no_real_image_was_taken_after_the_day_of_admission_to_the_unit(tmp_path) -> None:
    source = real_data("hannover_cxr")
    files = imported(source, tmp_path / "out", "imaging")["file"].str.removesuffix(".png")
    days = pd.read_csv(source / "data.csv").set_index("image_id")["icu_admission_offset"]
    assert not days[files].lt(0).any()
