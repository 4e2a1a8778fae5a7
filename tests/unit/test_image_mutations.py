"""Damaged image files of every format, read through the reader: refused and counted, no more."""

import gzip
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from client.findings import Finding
from client.sources.images import IMAGES
from client.sources.source import GranularityArrays, Source
from common.granularities import ImagesGranularity
from tests.unit.image_builders import (
    compressed_dicom_bytes,
    dicom_bytes,
    jpeg_bytes,
    nifti_bytes,
    png_bytes,
    ramp,
)
from tests.unit.mutation import CANARY, NUM_MUTANTS, assert_discreet, mutants

_SUFFIXES = (".png", ".dcm", ".nii", ".nii.gz", ".jpg", "", ".txt")
_GRANULARITY = ImagesGranularity.model_validate(
    {
        "kind": "images",
        "size": (8, 8),
        "channels": (2,),
        "max_images": 2,
        "contrast": "stretch",
        "max_unusable_fraction": 0.999,
    }
)
_VOLUME = np.arange(10 * 9 * 5, dtype="i2").reshape(10, 9, 5)

Build = Callable[[Path], bytes]

_FORMATS: dict[str, tuple[Build, int]] = {
    "png": (lambda _: png_bytes(), 60),
    "png of 16 bits": (lambda _: png_bytes(ramp(dtype="u2")), 60),
    "jpeg": (lambda _: jpeg_bytes(), 200),
    "dicom": (lambda _: dicom_bytes(WindowCenter="40", WindowWidth="80", RescaleSlope="2"), 900),
    "dicom film": (lambda _: dicom_bytes(np.stack([ramp(dtype="u2")] * 3)), 900),
    "nifti": (lambda _: nifti_bytes(_VOLUME), 352),
    "nifti 2": (lambda _: nifti_bytes(_VOLUME, version=2), 544),
    "nifti.gz": (lambda _: gzip.compress(nifti_bytes(_VOLUME), mtime=0), 40),
    # The header inside is damaged, the gzip around it is whole.
    "gzip of nifti": (lambda _: nifti_bytes(_VOLUME), 352),
    "JPEG in dicom": (lambda f: compressed_dicom_bytes("1.2.840.10008.1.2.4.50", f, ramp()), 900),
    "lossless JPEG in dicom": (lambda f: compressed_dicom_bytes("1.2.840.10008.1.2.4.70", f), 900),
    "JPEG-LS in dicom": (lambda f: compressed_dicom_bytes("1.2.840.10008.1.2.4.80", f), 900),
    "JPEG 2000 in dicom": (lambda f: compressed_dicom_bytes("1.2.840.10008.1.2.4.90", f), 900),
    "RLE in dicom": (lambda f: compressed_dicom_bytes("1.2.840.10008.1.2.5", f), 900),
}


def _read_all(
    folder: Path, contents: Sequence[bytes]
) -> tuple[GranularityArrays, list[Finding], list[str]]:
    """One patient per file; ids and file names are canaries, suffixes are mixed up."""
    images = folder / "imaging"
    images.mkdir()
    ids = [f"{CANARY}{number}" for number in range(len(contents))]
    names = [f"{name}{random.Random(name).choice(_SUFFIXES)}" for name in ids]
    for name, content in zip(names, contents, strict=True):
        (images / name).write_bytes(content)
    path = folder / "imaging.csv"
    pd.DataFrame({"patient_id": ids, "file": names}).to_csv(path, index=False)
    source = Source(granularity="imaging", path=path, ids=pd.Index(ids))
    arrays, findings = IMAGES.read(source, _GRANULARITY)
    return arrays, findings, ids


@pytest.mark.parametrize("name", _FORMATS)
def test_damaged_images_are_counted_and_nothing_is_told_of_them(
    name: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    build, header = _FORMATS[name]
    good = build(tmp_path)
    damaged = list(mutants(good, header=header))
    if name == "gzip of nifti":
        good, damaged = (
            gzip.compress(good, mtime=0),
            [gzip.compress(content, mtime=0) for content in damaged],
        )
    capfd.readouterr()  # what GDCM says while it writes
    arrays, findings, _ = _read_all(tmp_path, [good, *damaged])
    assert_discreet(findings, capfd, caplog)
    present_B = arrays["present_B"]
    assert present_B[0]
    # Every listed file is an image or counted as none.
    num_unusable = sum(int(f.found.split(" of ")[0]) for f in findings)
    assert num_unusable == NUM_MUTANTS + 1 - present_B.sum()
    assert num_unusable >= NUM_MUTANTS / 10
    assert not arrays["images_BNHW"][~arrays["observed_BN"]].any()


def test_damaged_tables_are_counted_and_nothing_is_told_of_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "imaging").mkdir()
    ids = [f"{CANARY}{number}" for number in range(8)]
    for name in ids:
        (tmp_path / "imaging" / f"{name}.png").write_bytes(png_bytes())
    table = "patient_id,file\n" + "".join(f"{name},{name}.png\n" for name in ids)
    path = tmp_path / "imaging.csv"
    for content in mutants(table.encode(), header=30):
        path.write_bytes(content)
        source = Source(granularity="imaging", path=path, ids=pd.Index(ids))
        arrays, findings = IMAGES.read(source, _GRANULARITY)
        assert_discreet(findings, capfd, caplog)
        assert arrays["present_B"].shape == (8,)
