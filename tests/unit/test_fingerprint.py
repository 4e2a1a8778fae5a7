"""The fingerprint of data files: no change hides, and nobody can try out patients."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.ledger.fingerprint import data_fingerprint
from common.errors import DataError
from common.signing import SigningKey


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "hospital"
    (folder / "imaging" / "deep").mkdir(parents=True)
    (folder / "patients.csv").write_text("patient_id,age\n1,60\n")
    (folder / "imaging" / "deep" / "1.png").write_bytes(b"image")
    return folder


def _paths(folder: Path) -> list[Path]:
    return [folder / "patients.csv", folder / "imaging"]


def test_another_byte_name_or_place_of_a_file_makes_another_fingerprint(
    data: Path, key: SigningKey
) -> None:
    seen = {data_fingerprint(_paths(data), key=key)}
    times = (data / "patients.csv").stat()
    (data / "patients.csv").write_text("patient_id,age\n1,61\n")
    # The same size and the same times: no cache may hide the change.
    os.utime(data / "patients.csv", ns=(times.st_atime_ns, times.st_mtime_ns))
    seen.add(data_fingerprint(_paths(data), key=key))
    image = data / "imaging" / "deep" / "1.png"
    image = image.rename(image.with_name("2.png"))
    seen.add(data_fingerprint(_paths(data), key=key))
    image = image.rename(data / "imaging" / "2.png")
    seen.add(data_fingerprint(_paths(data), key=key))
    image.write_bytes(b"imagf")
    seen.add(data_fingerprint(_paths(data), key=key))
    image.unlink()
    seen.add(data_fingerprint(_paths(data), key=key))
    assert len(seen) == 6


def test_order_folder_and_times_of_files_do_not_change_the_fingerprint(
    data: Path, key: SigningKey
) -> None:
    before = data_fingerprint(_paths(data), key=key)
    assert data_fingerprint(reversed(_paths(data)), key=key) == before
    os.utime(data / "patients.csv", (1, 1))
    moved = data.rename(data.with_name("moved"))
    assert data_fingerprint(_paths(moved), key=key) == before


def test_a_fingerprint_is_keyed_by_the_key_of_the_site(data: Path, key: SigningKey) -> None:
    one, other = (data_fingerprint(_paths(data), key=k) for k in (key, SigningKey.generate()))
    assert one != other
    assert len(one) == 64


def test_a_fingerprint_of_a_simulation_reads_no_byte(
    data: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(Path, "open", fail)
    before = data_fingerprint(_paths(data), key=key, is_simulation=True)
    os.utime(data / "patients.csv", (1, 1))
    assert data_fingerprint(_paths(data), key=key, is_simulation=True) != before


def test_data_that_cannot_be_read_have_no_fingerprint(data: Path, key: SigningKey) -> None:
    with pytest.raises(DataError, match=r"Expected readable data at .*vitals\.csv"):
        data_fingerprint([data / "vitals.csv"], key=key)
    (data / "imaging" / "deep" / "lost.png").symlink_to(data / "nowhere")
    with pytest.raises(DataError, match=r"lost\.png"):
        data_fingerprint(_paths(data), key=key)
