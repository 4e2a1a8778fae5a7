"""Files of images that are damaged, too large, or of a kind that is not read."""

import contextlib
import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from client.sources import frames as frames_module
from client.sources.dicom import FrameDecoder
from client.sources.frames import ImageRefusedError
from client.sources.image_files import read_frames
from tests.unit.image_builders import (
    COMPRESSED,
    compressed_dicom_bytes,
    dicom_bytes,
    frames_of,
    nifti_bytes,
    png_bytes,
)


def _reason(path: Path, content: bytes) -> str:
    with pytest.raises(ImageRefusedError) as refusal:
        frames_of(path, content, limit=9)
    return refusal.value.reason


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "picture"


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "unsupported"),
            (b"GIF89a" + bytes(200), "unsupported"),
            (gzip.compress(b"no volume", mtime=0), "unsupported"),
            (png_bytes()[:-40], "unreadable"),
            (dicom_bytes()[:-40], "unreadable"),
            (nifti_bytes()[:-40], "unreadable"),
            (gzip.compress(nifti_bytes(), mtime=0)[:-40], "unreadable"),
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
            frames_of(file, packed)
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
