"""The reader of images: each format by hand, each option as a law, and what is wrong with lists."""

import contextlib
import gzip
import logging
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from client.findings import Finding
from client.sources import frames as frames_module
from client.sources.dicom import FrameDecoder
from client.sources.frames import Frame, ImageRefusedError, quiet
from client.sources.image_files import read_frames
from client.sources.images import IMAGES
from client.sources.source import GranularityArrays, Source
from client.sources.xray import denoised, fitted, model_image, with_contrast
from common.granularities import ImagesGranularity
from tests.unit.image_builders import (
    CANARY,
    compressed_dicom_bytes,
    dicom_bytes,
    jpeg_bytes,
    nifti_bytes,
    png_bytes,
    ramp,
)

COMPRESSED = {
    "JPEG": "1.2.840.10008.1.2.4.50",
    "lossless JPEG": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "RLE": "1.2.840.10008.1.2.5",
}


def _granularity(**keys: object) -> ImagesGranularity:
    base = {"kind": "images", "size": (8, 8), "channels": (2, 4), "max_unusable_fraction": 0.5}
    return ImagesGranularity.model_validate(base | keys)


def _frames(path: Path, content: bytes, limit: int = 1) -> list[Frame]:
    path.write_bytes(content)
    with FrameDecoder() as decoder:
        return list(read_frames(path, limit, decoder))


def _only(path: Path, content: bytes) -> Frame:
    (frame,) = _frames(path, content, limit=9)
    return frame


def _reason(path: Path, content: bytes) -> str:
    with pytest.raises(ImageRefusedError) as refusal:
        _frames(path, content, limit=9)
    return refusal.value.reason


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "picture"


class TestFormats:
    def test_a_png_of_eight_bits_is_read_as_it_is(self, file: Path) -> None:
        frame = _only(file, png_bytes())
        np.testing.assert_array_equal(frame.pixels_HW, ramp())
        assert (frame.low, frame.high) == (0, 255)

    def test_a_png_of_sixteen_bits_keeps_them(self, file: Path) -> None:
        frame = _only(file, png_bytes(ramp(dtype="u2")))
        np.testing.assert_array_equal(frame.pixels_HW, ramp(dtype="u2"))
        assert (frame.low, frame.high) == (0, 65535)

    def test_colour_becomes_luminance(self, file: Path) -> None:
        rgb = np.zeros((4, 4, 3), dtype="u1")
        rgb[:] = [100, 50, 200]
        # 0.299·100 + 0.587·50 + 0.114·200 = 82.05
        for content in (png_bytes(rgb), dicom_bytes(rgb)):
            np.testing.assert_allclose(_only(file, content).pixels_HW, 82.05, atol=0.5)

    def test_a_jpeg_is_read(self, file: Path) -> None:
        np.testing.assert_allclose(_only(file, jpeg_bytes()).pixels_HW, ramp(), atol=4)

    def test_a_dicom_file_is_read_in_the_range_of_its_stored_bits(self, file: Path) -> None:
        frame = _only(file, dicom_bytes(BitsStored=12, HighBit=11))
        np.testing.assert_array_equal(frame.pixels_HW, ramp(dtype="u2"))
        assert (frame.low, frame.high) == (0, 4095)

    def test_signed_values_are_rescaled(self, file: Path) -> None:
        content = dicom_bytes(ramp(dtype="i2") - 99, RescaleSlope="2", RescaleIntercept="-1024")
        frame = _only(file, content)
        np.testing.assert_array_equal(frame.pixels_HW, 2.0 * (ramp(dtype="i2") - 99) - 1024)
        assert (frame.low, frame.high) == (2 * -32768 - 1024, 2 * 32767 - 1024)

    def test_monochrome1_is_inverted(self, file: Path) -> None:
        plain = _only(file, dicom_bytes())
        inverted = _only(file, dicom_bytes(PhotometricInterpretation="MONOCHROME1"))
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
        frame = _only(file, dicom_bytes(**tags))
        assert (frame.low, frame.high) == window

    def test_the_first_frames_of_a_film_are_images(self, file: Path) -> None:
        film = np.stack([ramp(dtype="u2") + i for i in range(4)])
        frames = _frames(file, dicom_bytes(film), limit=3)
        np.testing.assert_array_equal([f.pixels_HW for f in frames], film[:3])

    @pytest.mark.parametrize("syntax", COMPRESSED.values(), ids=COMPRESSED)
    def test_compressed_dicom_is_decoded(self, file: Path, tmp_path: Path, syntax: str) -> None:
        dtype = "u1" if syntax == COMPRESSED["JPEG"] else "u2"
        content = compressed_dicom_bytes(syntax, tmp_path, ramp(dtype=dtype))
        tolerance = 4 if syntax == COMPRESSED["JPEG"] else 0
        frame = _only(file, content)
        np.testing.assert_allclose(frame.pixels_HW, ramp(dtype=dtype), atol=tolerance)

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_the_middle_slices_of_a_volume_are_images(
        self, file: Path, version: int, pack: Any
    ) -> None:
        voxels = np.arange(3 * 4 * 7, dtype="i2").reshape(3, 4, 7)
        frames = _frames(file, pack(nifti_bytes(voxels, version=version)), limit=3)
        np.testing.assert_array_equal(
            [f.pixels_HW for f in frames], [voxels[:, :, i] for i in (2, 3, 4)]
        )
        assert (frames[0].low, frames[0].high) == (voxels[..., 2].min(), voxels[..., 2].max())

    def test_a_flat_nifti_file_is_one_image(self, file: Path) -> None:
        for voxels in (ramp(), ramp()[..., None], ramp()[..., None, None]):
            frame = _only(file, nifti_bytes(voxels))
            np.testing.assert_array_equal(frame.pixels_HW, ramp())
            assert (frame.low, frame.high) == (0, 255)

    def test_the_display_range_of_a_nifti_header_is_shown(self, file: Path) -> None:
        frame = _only(file, nifti_bytes(ramp(dtype="f4"), cal_min=5, cal_max=50))
        assert (frame.low, frame.high) == (5, 50)

    def test_values_that_are_no_numbers_become_the_lowest(self, file: Path) -> None:
        voxels = ramp(dtype="f4") + 5
        voxels[0, :2] = [np.nan, np.inf]
        frame = _only(file, nifti_bytes(voxels))
        assert frame.pixels_HW[0, :2].tolist() == [voxels[0, 2], voxels[0, 2]]

    def test_a_file_is_told_by_its_content_and_not_by_its_name(self, tmp_path: Path) -> None:
        assert _only(tmp_path / "a.dcm", png_bytes()).high == 255
        assert _only(tmp_path / "a.png", dicom_bytes()).high == 65535


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "unsupported"),
            (b"GIF89a" + bytes(200), "unsupported"),
            (gzip.compress(b"no volume"), "unsupported"),
            (png_bytes()[:-40], "unreadable"),
            (dicom_bytes()[:-40], "unreadable"),
            (nifti_bytes()[:-40], "unreadable"),
            (gzip.compress(nifti_bytes())[:-40], "unreadable"),
            (dicom_bytes(Rows=65535, Columns=65535), "too large"),
            (dicom_bytes(NumberOfFrames=2_000_000_000), "too large"),
            (dicom_bytes(NumberOfFrames=-1), "unreadable"),
            (dicom_bytes(Rows=0), "unreadable"),
            (dicom_bytes(Rows=13), "unreadable"),
            (dicom_bytes(SamplesPerPixel=4), "unsupported"),
            (dicom_bytes(PhotometricInterpretation="PALETTE COLOR"), "unsupported"),
            (nifti_bytes(np.zeros((2, 2, 2, 2), "i2")), "unsupported"),
            (nifti_bytes(np.zeros((2, 2), "c8")), "unsupported"),
            (nifti_bytes(np.full((2, 2), np.nan, "f4")), "unreadable"),
            (nifti_bytes(dim=[2, 32767, 32767, 1, 1, 1, 1, 1]), "too large"),
            (nifti_bytes(dim=[3, 8000, 8000, 32767, 1, 1, 1, 1]), "too large"),
            (nifti_bytes(vox_offset=1e12), "too large"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, file: Path, content: bytes, reason: str) -> None:
        assert _reason(file, content) == reason

    @pytest.mark.parametrize(
        "syntax",
        ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.201", "9.9"],
        ids=["deflated", "video", "no decoder", "unknown"],
    )
    def test_other_transfer_syntaxes_are_not_read(self, file: Path, syntax: str) -> None:
        content = _with_syntax(syntax)
        assert _reason(file, content) == "unsupported"

    def test_a_png_above_the_limit_is_refused_before_it_is_unpacked(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frames_module, "MAX_PIXELS", 100)
        assert _reason(file, png_bytes()) == "too large"

    @pytest.mark.parametrize("vox_offset", [0, 352, 1 << 20, 1 << 31])
    @pytest.mark.parametrize("version", [1, 2])
    def test_an_extension_of_a_nifti_header_is_not_unpacked(
        self, file: Path, version: int, vox_offset: int
    ) -> None:
        size = 1 << 26
        content = nifti_bytes(version=version, vox_offset=vox_offset)[: {1: 348, 2: 540}[version]]
        content += bytes([1, 0, 0, 0]) + struct.pack("<ii", size, 6) + bytes(size)
        packed = gzip.compress(content, compresslevel=1)
        tracemalloc.start()
        with contextlib.suppress(ImageRefusedError):
            _frames(file, packed)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < size // 2

    def test_a_bomb_for_pillow_is_refused(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
        assert _reason(file, png_bytes()) == "too large"

    def test_a_frame_that_kills_the_decoder_is_refused_and_the_next_is_decoded(
        self, tmp_path: Path
    ) -> None:
        good = tmp_path / "good"
        good.write_bytes(compressed_dicom_bytes(COMPRESSED["JPEG-LS"], tmp_path))
        with FrameDecoder() as decoder:
            assert len(list(read_frames(good, 1, decoder))) == 1
            assert decoder._process is not None
            decoder._process.kill()
            with pytest.raises(ImageRefusedError):
                list(read_frames(good, 1, decoder))
            assert len(list(read_frames(good, 1, decoder))) == 1

    def test_a_frame_that_takes_too_long_is_refused(self, tmp_path: Path) -> None:
        slow = tmp_path / "slow"
        slow.write_bytes(compressed_dicom_bytes(COMPRESSED["JPEG-LS"], tmp_path))
        with FrameDecoder(timeout_s=0.0) as decoder, pytest.raises(ImageRefusedError):
            list(read_frames(slow, 1, decoder))

    def test_a_frame_of_another_shape_than_the_header_says_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "other"
        path.write_bytes(compressed_dicom_bytes(COMPRESSED["JPEG-LS"], tmp_path))
        with FrameDecoder() as decoder, pytest.raises(ImageRefusedError):
            decoder.decode(path, 0, (11, 16))


def _with_syntax(syntax: str) -> bytes:
    """A DICOM file with another transfer syntax, (0002,0010), in its meta information."""
    raw = dicom_bytes()
    at = raw.index(b"\x02\x00\x10\x00UI") + 6
    length = int.from_bytes(raw[at : at + 2], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    raw = raw[:at] + len(value).to_bytes(2, "little") + value + raw[at + 2 + length :]
    # The length of the group, (0002,0000), counts the value.
    group = raw.index(b"\x02\x00\x00\x00UL") + 8
    size = int.from_bytes(raw[group : group + 4], "little") + len(value) - length
    return raw[:group] + size.to_bytes(4, "little") + raw[group + 4 :]


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
        _only(file, dicom_bytes())
        # 0002 is the file's meta information, 0028 describes the pixels; a patient is in 0010.
        assert {tag.group for data in seen for tag in data} == {0x0002, 0x0028}

    def test_libraries_are_silent_within_and_as_before_after(self) -> None:
        logger = logging.getLogger("pydicom")
        before = logger.level
        with quiet():
            assert not logging.getLogger("PIL.PngImagePlugin").isEnabledFor(logging.CRITICAL)
        assert logger.level == before


unit_images = arrays_of.arrays(
    np.float32,
    arrays_of.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(0, 1, width=16),
)


def _frame(pixels_HW: NDArray[Any], low: float = 0.0, high: float = 1.0) -> Frame:
    return Frame(pixels_HW=pixels_HW.astype(np.float32), low=low, high=high)


class TestOptions:
    def test_none_shows_the_range_of_the_header(self) -> None:
        unit_HW = with_contrast(_frame(np.array([[-5, 0], [5, 20]]), 0, 10), "none")
        assert unit_HW.tolist() == [[0, 0], [0.5, 1]]

    def test_stretch_shows_the_first_to_the_ninety_ninth_percent(self) -> None:
        # The percentiles of 0…100 are 1 and 99.
        pixels_HW = np.arange(101).reshape(1, 101)
        unit_HW = with_contrast(_frame(pixels_HW), "stretch")
        np.testing.assert_allclose(unit_HW, np.clip((pixels_HW - 1) / 98, 0, 1), atol=1e-6)

    def test_equalise_gives_the_part_that_is_no_brighter(self) -> None:
        # 4 pixels, one the darkest: (1-1)/3, (3-1)/3 twice, (4-1)/3
        unit_HW = with_contrast(_frame(np.array([[7, 9], [9, 1000]])), "equalise")
        np.testing.assert_allclose(unit_HW, [[0, 2 / 3], [2 / 3, 1]], atol=1e-6)

    @given(
        unit_images, st.sampled_from(["stretch", "equalise"]), st.integers(1, 9), st.integers(-9, 9)
    )
    def test_stretch_and_equalise_know_no_unit(
        self, unit_HW: NDArray[np.float32], contrast: str, slope: int, intercept: int
    ) -> None:
        whole_HW = np.rint(unit_HW * 1000)
        granularity = _granularity(contrast=contrast)
        other = model_image(_frame(slope * whole_HW + intercept), granularity)
        same = model_image(_frame(whole_HW), granularity)
        np.testing.assert_allclose(other.astype(int), same.astype(int), atol=1)

    def test_stretch_of_a_few_bright_pixels_falls_back_to_the_whole_range(self) -> None:
        pixels_HW = np.zeros((20, 20))
        pixels_HW[0, 0] = 8
        unit_HW = with_contrast(_frame(pixels_HW), "stretch")
        assert (unit_HW[0, 0], unit_HW.sum()) == (1, 1)

    @pytest.mark.parametrize("contrast", ["stretch", "equalise", "none"])
    def test_an_image_of_one_value_is_black(self, contrast: str) -> None:
        image_HW = model_image(
            _frame(np.full((5, 5), 3.0), low=3, high=3), _granularity(contrast=contrast)
        )
        assert not image_HW.any()

    @given(unit_images)
    def test_opening_never_brightens_and_closing_never_darkens(
        self, unit_HW: NDArray[np.float32]
    ) -> None:
        assert (denoised(unit_HW, "opening") <= unit_HW).all()
        assert (denoised(unit_HW, "closing") >= unit_HW).all()

    @pytest.mark.parametrize(
        ("denoise", "speck", "is_removed"),
        [
            ("opening", 1.0, True),
            ("opening", 0.0, False),
            ("closing", 0.0, True),
            ("closing", 1.0, False),
            ("median", 1.0, True),
            ("median", 0.0, True),
            ("none", 1.0, False),
        ],
    )
    def test_a_speck_of_one_pixel(self, denoise: str, speck: float, is_removed: bool) -> None:
        unit_HW = np.full((7, 7), 0.5, dtype=np.float32)
        unit_HW[3, 3] = speck
        assert bool((denoised(unit_HW, denoise) == 0.5).all()) == is_removed

    def test_the_aspect_is_kept_and_the_rest_is_black(self) -> None:
        for shape, inside in (((4, 8), np.s_[2:6, :]), ((16, 8), np.s_[:, 2:6])):
            fitted_HW = fitted(np.ones(shape, dtype=np.float32), (8, 8))
            expected_HW = np.zeros((8, 8))
            expected_HW[inside] = 1
            np.testing.assert_allclose(fitted_HW, expected_HW, atol=1e-6)

    def test_a_smaller_image_is_an_average_and_not_a_sample(self) -> None:
        stripes_HW = np.tile(np.array([0, 1], dtype=np.float32), (64, 32))
        assert np.abs(fitted(stripes_HW, (8, 8)) - 0.5).max() < 0.05

    @given(unit_images, st.integers(4, 20), st.integers(4, 20))
    def test_fitting_never_leaves_the_range_of_the_values(
        self, unit_HW: NDArray[np.float32], height: int, width: int
    ) -> None:
        fitted_HW = fitted(unit_HW, (height, width))
        assert fitted_HW.shape == (height, width)
        assert fitted_HW.min() >= 0
        assert fitted_HW.max() <= unit_HW.max() + 1e-6

    def test_an_extreme_aspect_fits(self) -> None:
        assert fitted(np.ones((1, 5000), dtype=np.float32), (8, 8)).sum() == pytest.approx(8)


def _read(
    folder: Path, rows: list[tuple[str, str]], ids: tuple[str, ...] = ("a", "b"), **keys: object
) -> tuple[GranularityArrays, list[Finding]]:
    text = "patient_id,file\n" + "".join(f"{p},{f}\n" for p, f in rows)
    path = folder / "imaging.csv"
    path.write_text(text, encoding="utf-8")
    source = Source(granularity="imaging", path=path, ids=pd.Index(ids))
    return IMAGES.read(source, _granularity(**keys))


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
        path.write_bytes(gzip.compress(b"patient_id,file\na,3.png\n"))
        source = Source(granularity="imaging", path=path, ids=pd.Index(["a"]))
        arrays, findings = IMAGES.read(source, _granularity())
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
        _, findings = IMAGES.read(source, _granularity())
        assert _found(findings) == [("warning", "column 3 (name)")]

    def test_missing_columns_are_named(self, site: Path) -> None:
        path = site / "imaging.csv"
        path.write_text("who,what\na,b\n")
        source = Source(granularity="imaging", path=path, ids=pd.Index(["a"]))
        _, findings = IMAGES.read(source, _granularity())
        assert _found(findings) == [("error", "no patient_id and no file")]

    def test_no_table_is_an_error(self, site: Path) -> None:
        source = Source(granularity="imaging", path=site / "imaging.csv", ids=pd.Index(["a"]))
        _, findings = IMAGES.read(source, _granularity())
        assert [f.severity for f in findings] == ["error"]

    def test_absent_has_the_shape_of_read(self, site: Path) -> None:
        arrays, _ = _read(site, [("a", "1.png")], max_images=3)
        absent = IMAGES.absent(_granularity(max_images=3), 2)
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


def test_the_canary_of_the_builders_is_in_every_format(tmp_path: Path) -> None:
    compressed = compressed_dicom_bytes(COMPRESSED["JPEG-LS"], tmp_path)
    for content in (png_bytes(), jpeg_bytes(), dicom_bytes(), nifti_bytes(), compressed):
        assert CANARY.encode() in content
