"""What leaves this checkout as a Flower App Bundle: the code of both sides, and nothing else."""

import io
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from simulations.flower_runtime import app_folder, copy_app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return build_fab_from_disk(ROOT)


@pytest.fixture(scope="module")
def names(bundle: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(bundle)).namelist())


def test_the_bundle_holds_exactly_the_code_of_both_sides(names: set[str]) -> None:
    code = {
        path.relative_to(ROOT).as_posix()
        for package in ("client", "common", "server")
        for path in (ROOT / package).rglob("*.py")
    }
    studies = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("common/studies/*.toml")}
    assert studies
    assert names == code | studies | {"pyproject.toml", ".info/CONTENT"}


def test_no_test_document_or_data_is_in_the_bundle(names: set[str]) -> None:
    first = {name.split("/")[0] for name in names}
    assert first.isdisjoint({"tests", "docs", "simulations", "runs", "sites", "README.md"})
    assert {Path(name).suffix for name in names} <= {".py", ".toml", ""}


def test_the_bundle_is_below_three_megabytes(bundle: bytes) -> None:
    assert len(bundle) < 3_000_000


def test_the_bundle_holds_the_files_as_they_are(bundle: bytes, names: set[str]) -> None:
    # Flower rewrites pyproject.toml; a site would refuse a server with any other code than its own.
    archive = zipfile.ZipFile(io.BytesIO(bundle))
    for name in names - {"pyproject.toml", ".info/CONTENT"}:
        assert archive.read(name) == (ROOT / name).read_bytes(), name


def test_the_copy_that_simulations_run_gives_the_same_bundle(bundle: bytes, tmp_path: Path) -> None:
    copy_app(app_folder(), tmp_path / "app")
    assert build_fab_from_disk(tmp_path / "app") == bundle
