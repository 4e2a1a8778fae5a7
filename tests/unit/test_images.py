"""The reader of images: the list of files, whose they are, and what is wrong with it."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from client.findings import Finding
from client.sources.images import IMAGES
from client.sources.source import GranularityArrays, Source
from tests.unit.image_builders import (
    COMPRESSED,
    compressed_dicom_bytes,
    dicom_bytes,
    images_granularity,
    nifti_bytes,
    png_bytes,
)


def _read(
    folder: Path, rows: list[tuple[str, str]], ids: tuple[str, ...] = ("a", "b"), **keys: object
) -> tuple[GranularityArrays, list[Finding]]:
    text = "patient_id,file\n" + "".join(f"{p},{f}\n" for p, f in rows)
    path = folder / "imaging.csv"
    path.write_text(text, encoding="utf-8")
    source = Source(granularity="imaging", path=path, ids=pd.Index(ids))
    return IMAGES.read(source, images_granularity(**keys))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site folder with images of one brightness: 0.png is 0, 1.png is 10, …"""
    folder = tmp_path / "site"
    (folder / "imaging").mkdir(parents=True)
    for i in range(10):
        content = png_bytes(np.full((8, 8), 10 * i, dtype="u1"))
        (folder / "imaging" / f"{i}.png").write_bytes(content)
    return folder


def _found(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.severity, f.found) for f in findings]


class TestTables:
    def test_a_packed_table_has_its_files_in_the_folder_of_its_name(self, site: Path) -> None:
        path = site / "imaging.csv.gz"
        path.write_bytes(gzip.compress(b"patient_id,file\na,3.png\n", mtime=0))
        source = Source(granularity="imaging", path=path, ids=pd.Index(["a"]))
        arrays, findings = IMAGES.read(source, images_granularity())
        assert findings == []
        assert arrays["present_B"].tolist() == [True]
        assert ".csv.gz" in IMAGES.suffixes

    def test_images_stand_in_the_order_of_the_table(self, site: Path) -> None:
        rows = [("b", "3.png"), ("a", "7.png"), ("b", "1.png")]
        arrays, findings = _read(site, rows, ("a", "b", "c"), max_images=2)
        assert findings == []
        assert arrays["images_BNHW"].dtype == np.uint8
        assert arrays["images_BNHW"][:, :, 4, 4].tolist() == [[70, 0], [30, 10], [0, 0]]
        assert arrays["observed_BN"].tolist() == [[True, False], [True, True], [False, False]]
        assert arrays["present_B"].tolist() == [True, True, False]

    def test_the_first_images_are_used_and_the_others_counted(self, site: Path) -> None:
        arrays, findings = _read(site, [("a", f"{i}.png") for i in (4, 2, 3)], max_images=2)
        assert arrays["images_BNHW"][0, :, 4, 4].tolist() == [40, 20]
        assert _found(findings) == [("warning", "1 more")]

    def test_an_unreadable_file_takes_no_place(self, site: Path) -> None:
        (site / "imaging" / "bad.png").write_bytes(png_bytes()[:60])
        arrays, findings = _read(site, [("a", "bad.png"), ("a", "2.png")])
        assert arrays["images_BNHW"][0, 0, 4, 4] == 20
        assert _found(findings) == [("warning", "1 of 2 unreadable")]

    def test_a_patient_without_a_readable_image_is_absent(self, site: Path) -> None:
        arrays, findings = _read(site, [("a", "none.png"), ("b", "2.png")])
        assert arrays["present_B"].tolist() == [False, True]
        assert _found(findings) == [("warning", "1 of 2 absent")]

    def test_too_many_unusable_files_are_an_error(self, site: Path) -> None:
        (site / "imaging" / "text.png").write_text("text")
        rows = [("a", "none.png"), ("b", "text.png"), ("a", "1.png")]
        _, findings = _read(site, rows)
        assert _found(findings) == [("error", "1 of 3 absent"), ("error", "1 of 3 unsupported")]

    def test_the_frames_of_a_film_fill_what_is_left(self, site: Path) -> None:
        film = np.stack([np.full((8, 8), 100 + i, dtype="u1") for i in range(5)])
        (site / "imaging" / "film").write_bytes(dicom_bytes(film))
        arrays, findings = _read(site, [("a", "1.png"), ("a", "film")], max_images=3)
        assert arrays["images_BNHW"][0, :, 4, 4].tolist() == [10, 100, 101]
        assert findings == []

    def test_files_lie_in_the_folder_of_the_table_s_name_or_beside_it(self, site: Path) -> None:
        (site / "2.png").write_bytes(png_bytes(np.full((8, 8), 99, dtype="u1")))
        (site / "other.png").write_bytes(png_bytes(np.full((8, 8), 98, dtype="u1")))
        (site / "imaging" / "sub").mkdir()
        (site / "imaging" / "sub" / "x.png").write_bytes((site / "imaging" / "5.png").read_bytes())
        rows = [("a", "2.png"), ("a", "other.png"), ("a", "sub/x.png"), ("a", "imaging/3.png")]
        arrays, findings = _read(site, rows, max_images=4)
        assert arrays["images_BNHW"][0, :, 4, 4].tolist() == [20, 98, 50, 30]
        assert findings == []

    def test_no_path_leads_out_of_the_folder(self, site: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside.png"
        outside.write_bytes(png_bytes())
        (site / "imaging" / "link.png").symlink_to(outside)
        (site / "imaging" / "up").symlink_to(tmp_path)
        names = ["../outside.png", str(outside), "link.png", "up/outside.png", "../imaging.csv"]
        for name in names:
            arrays, findings = _read(site, [("a", name), ("b", "1.png"), ("b", "2.png")])
            assert _found(findings)[0] == ("error", "1 of 3 outside")
            assert not arrays["present_B"][0]

    @pytest.mark.parametrize("name", ["x" * 5000, "a\0b", ".", "imaging", "loop"])
    def test_a_name_that_no_file_has_is_absent(self, site: Path, name: str) -> None:
        (site / "imaging" / "loop").symlink_to(site / "imaging" / "loop")
        _, findings = _read(site, [("a", name), ("b", "1.png")])
        assert _found(findings) == [("warning", "1 of 2 absent")]

    def test_rows_without_a_file_and_strangers_are_counted(self, site: Path) -> None:
        _, findings = _read(site, [("a", ""), ("zz", "none.png"), ("b", "1.png")])
        assert _found(findings) == [
            ("warning", "1 of 3 rows of nobody in the patients' table"),
            ("warning", "1 rows without one"),
        ]

    def test_a_file_of_two_patients_is_counted(self, site: Path) -> None:
        _, findings = _read(site, [("a", "1.png"), ("b", "1.png"), ("b", "1.png")], max_images=9)
        assert _found(findings) == [("warning", "2 rows with a file of another patient")]

    def test_columns_that_say_who_a_patient_is_are_told(self, site: Path) -> None:
        path = site / "imaging.csv"
        path.write_text("patient_id,file,surname\na,1.png,x\n")
        source = Source(granularity="imaging", path=path, ids=pd.Index(["a"]))
        _, findings = IMAGES.read(source, images_granularity())
        assert _found(findings) == [("warning", "column 3 (name)")]

    def test_missing_columns_are_named(self, site: Path) -> None:
        path = site / "imaging.csv"
        path.write_text("who,what\na,b\n")
        source = Source(granularity="imaging", path=path, ids=pd.Index(["a"]))
        _, findings = IMAGES.read(source, images_granularity())
        assert _found(findings) == [("error", "no patient_id and no file")]

    def test_no_table_is_an_error(self, site: Path) -> None:
        source = Source(granularity="imaging", path=site / "imaging.csv", ids=pd.Index(["a"]))
        _, findings = IMAGES.read(source, images_granularity())
        assert [f.severity for f in findings] == ["error"]

    def test_absent_has_the_shape_of_read(self, site: Path) -> None:
        arrays, _ = _read(site, [("a", "1.png")], max_images=3)
        absent = IMAGES.absent(images_granularity(max_images=3), 2)
        assert {k: (v.shape, v.dtype) for k, v in absent.items()} == {
            k: (v.shape, v.dtype) for k, v in arrays.items()
        }
        assert not any(v.any() for v in absent.values())

    @pytest.mark.parametrize("library", ["PIL", "pydicom", "nibabel", "gdcm"])
    def test_a_library_that_is_not_installed_is_one_error(
        self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
    ) -> None:
        content = {
            "PIL": png_bytes,
            "pydicom": dicom_bytes,
            "nibabel": nifti_bytes,
            "gdcm": lambda: compressed_dicom_bytes(COMPRESSED["JPEG-LS"], tmp_path),
        }[library]()
        for name in ("x", "y"):
            (site / "imaging" / name).write_bytes(content)
        monkeypatch.setitem(sys.modules, library, None)
        for module in [name for name in sys.modules if name.startswith(f"{library}.")]:
            monkeypatch.delitem(sys.modules, module)
        _, findings = _read(site, [("a", "x"), ("b", "y")])
        assert _found(findings) == [("error", "one that is not installed")]
        assert "wardround[imaging]" in findings[0].action


def test_no_library_of_images_is_loaded_by_the_reader_itself() -> None:
    code = (
        "import sys, client.sources.images; print({'PIL', 'pydicom', 'nibabel'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "set()"
