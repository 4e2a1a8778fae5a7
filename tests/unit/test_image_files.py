"""Pictures out of files: each format by hand, and no header of a patient read."""

import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.sources.frames import quiet
from client.sources.xray import with_contrast
from tests.unit.image_builders import (
    CANARY,
    COMPRESSED,
    compressed_dicom_bytes,
    dicom_bytes,
    frames_of,
    jpeg_bytes,
    nifti_bytes,
    only_frame,
    png_bytes,
    ramp,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "picture"


class TestFormats:
    def test_a_png_of_eight_bits_is_read_as_it_is(self, file: Path) -> None:
        frame = only_frame(file, png_bytes())
        np.testing.assert_array_equal(frame.pixels_HW, ramp())
        assert (frame.low, frame.high) == (0, 255)

    def test_a_png_of_sixteen_bits_keeps_them(self, file: Path) -> None:
        frame = only_frame(file, png_bytes(ramp(dtype="u2")))
        np.testing.assert_array_equal(frame.pixels_HW, ramp(dtype="u2"))
        assert (frame.low, frame.high) == (0, 65535)

    def test_colour_becomes_luminance(self, file: Path) -> None:
        rgb = np.zeros((4, 4, 3), dtype="u1")
        rgb[:] = [100, 50, 200]
        # 0.299·100 + 0.587·50 + 0.114·200 = 82.05
        for content in (png_bytes(rgb), dicom_bytes(rgb)):
            np.testing.assert_allclose(only_frame(file, content).pixels_HW, 82.05, atol=0.5)

    def test_a_jpeg_is_read(self, file: Path) -> None:
        np.testing.assert_allclose(only_frame(file, jpeg_bytes()).pixels_HW, ramp(), atol=4)

    def test_a_dicom_file_is_read_in_the_range_of_its_stored_bits(self, file: Path) -> None:
        frame = only_frame(file, dicom_bytes(BitsStored=12, HighBit=11))
        np.testing.assert_array_equal(frame.pixels_HW, ramp(dtype="u2"))
        assert (frame.low, frame.high) == (0, 4095)

    def test_signed_values_are_rescaled(self, file: Path) -> None:
        content = dicom_bytes(ramp(dtype="i2") - 99, RescaleSlope="2", RescaleIntercept="-1024")
        frame = only_frame(file, content)
        np.testing.assert_array_equal(frame.pixels_HW, 2.0 * (ramp(dtype="i2") - 99) - 1024)
        assert (frame.low, frame.high) == (2 * -32768 - 1024, 2 * 32767 - 1024)

    def test_monochrome1_is_inverted(self, file: Path) -> None:
        plain = only_frame(file, dicom_bytes())
        inverted = only_frame(file, dicom_bytes(PhotometricInterpretation="MONOCHROME1"))
        for contrast in ("none", "stretch", "equalise"):
            direct_HW = with_contrast(plain, contrast)
            if contrast == "equalise":  # which counts from the darkest: only the order is inverted
                assert (np.diff(with_contrast(inverted, contrast).ravel()) < 0).all()
            else:
                np.testing.assert_allclose(
                    with_contrast(inverted, contrast), 1 - direct_HW, atol=1e-6
                )

    @pytest.mark.parametrize(
        ("tags", "window"),
        [
            # PS3.3 C.11.2.1.2: from c - 0.5 - (w - 1)/2 to c - 0.5 + (w - 1)/2
            ({"WindowCenter": "40", "WindowWidth": "101"}, (-10.5, 89.5)),
            ({"WindowCenter": ["40", "99"], "WindowWidth": ["101", "7"]}, (-10.5, 89.5)),
            (
                {"WindowCenter": "40", "WindowWidth": "101", "VOILUTFunction": "LINEAR_EXACT"},
                (-10.5, 90.5),
            ),
            ({"WindowCenter": "40", "WindowWidth": "1"}, (39.5, 40.5)),
            ({"WindowCenter": "40", "WindowWidth": "0"}, (0, 65535)),
        ],
    )
    def test_the_first_window_is_shown(
        self, file: Path, tags: dict[str, Any], window: tuple[float, float]
    ) -> None:
        frame = only_frame(file, dicom_bytes(**tags))
        assert (frame.low, frame.high) == window

    def test_the_first_frames_of_a_film_are_images(self, file: Path) -> None:
        film = np.stack([ramp(dtype="u2") + i for i in range(4)])
        frames = frames_of(file, dicom_bytes(film), limit=3)
        np.testing.assert_array_equal([f.pixels_HW for f in frames], film[:3])

    @pytest.mark.parametrize("syntax", COMPRESSED.values(), ids=COMPRESSED)
    def test_compressed_dicom_is_decoded(self, file: Path, tmp_path: Path, syntax: str) -> None:
        dtype = "u1" if syntax == COMPRESSED["JPEG"] else "u2"
        content = compressed_dicom_bytes(syntax, tmp_path, ramp(dtype=dtype))
        tolerance = 4 if syntax == COMPRESSED["JPEG"] else 0
        frame = only_frame(file, content)
        np.testing.assert_allclose(frame.pixels_HW, ramp(dtype=dtype), atol=tolerance)

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_the_middle_slices_of_a_volume_are_images(
        self, file: Path, version: int, pack: Any
    ) -> None:
        voxels = np.arange(3 * 4 * 7, dtype="i2").reshape(3, 4, 7)
        frames = frames_of(file, pack(nifti_bytes(voxels, version=version)), limit=3)
        np.testing.assert_array_equal(
            [f.pixels_HW for f in frames], [voxels[:, :, i] for i in (2, 3, 4)]
        )
        assert (frames[0].low, frames[0].high) == (voxels[..., 2].min(), voxels[..., 2].max())

    def test_a_flat_nifti_file_is_one_image(self, file: Path) -> None:
        for voxels in (ramp(), ramp()[..., None], ramp()[..., None, None]):
            frame = only_frame(file, nifti_bytes(voxels))
            np.testing.assert_array_equal(frame.pixels_HW, ramp())
            assert (frame.low, frame.high) == (0, 255)

    def test_the_display_range_of_a_nifti_header_is_shown(self, file: Path) -> None:
        frame = only_frame(file, nifti_bytes(ramp(dtype="f4"), cal_min=5, cal_max=50))
        assert (frame.low, frame.high) == (5, 50)

    def test_values_that_are_no_numbers_become_the_lowest(self, file: Path) -> None:
        voxels = ramp(dtype="f4") + 5
        voxels[0, :2] = [np.nan, np.inf]
        frame = only_frame(file, nifti_bytes(voxels))
        assert frame.pixels_HW[0, :2].tolist() == [voxels[0, 2], voxels[0, 2]]

    def test_a_file_is_told_by_its_content_and_not_by_its_name(self, tmp_path: Path) -> None:
        assert only_frame(tmp_path / "a.dcm", png_bytes()).high == 255
        assert only_frame(tmp_path / "a.png", dicom_bytes()).high == 65535


class TestDeIdentification:
    def test_only_the_needed_tags_of_a_dicom_header_are_read(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import pydicom.filereader

        seen: list[Any] = []
        real = pydicom.filereader.read_dataset

        def spy(*args: Any, **keys: Any) -> Any:
            data = real(*args, **keys)
            seen.append(list(data.keys()))
            return data

        monkeypatch.setattr(pydicom.filereader, "read_dataset", spy)
        only_frame(file, dicom_bytes())
        # 0002 is the file's meta information, 0028 describes the pixels; a patient is in 0010.
        assert {tag.group for data in seen for tag in data} == {0x0002, 0x0028}

    def test_libraries_are_silent_within_and_as_before_after(self) -> None:
        logger = logging.getLogger("pydicom")
        before = logger.level
        with quiet():
            assert not logging.getLogger("PIL.PngImagePlugin").isEnabledFor(logging.CRITICAL)
        assert logger.level == before


def test_the_canary_of_the_builders_is_in_every_format(tmp_path: Path) -> None:
    compressed = compressed_dicom_bytes(COMPRESSED["JPEG-LS"], tmp_path)
    for content in (png_bytes(), jpeg_bytes(), dicom_bytes(), nifti_bytes(), compressed):
        assert CANARY.encode() in content
