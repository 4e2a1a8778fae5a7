"""What the canary sweep and its control have in common; each says what `made` is."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from common.study import Study
from common.study_file import study_from_toml
from simulations.canaries import Hit, Search
from simulations.rehearsal import Rehearsal, numbers_of
from tests.attacks.sweep_cases import STUDY, copy_of, write_hospital
from tests.campaigns import Campaign


@pytest.fixture(scope="module")
def swept() -> Study:
    return study_from_toml(STUDY)


@pytest.fixture(scope="module")
def hospital(swept: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospital(swept, tmp_path_factory.mktemp("hospital"))


@pytest.fixture(scope="module")
def search(made: Rehearsal) -> Search:
    return Search(made.canaries)


@pytest.fixture
def site_dir(made: Rehearsal, tmp_path: Path) -> Path:
    """A copy of the planted folder, which a test may damage."""
    return copy_of(made.hospitals / made.name, tmp_path)


@pytest.fixture
def nothing_told(
    search: Search,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    campaign: Campaign,
) -> Callable[..., str]:
    """Searches all that was printed, logged, sent, and written outside of the site folder."""
    campaign.tries(1, "faults")
    caplog.set_level(logging.DEBUG)

    def check(*sent: bytes, meant_for_us: tuple[Path, ...] = ()) -> str:
        printed = capfd.readouterr()
        hits = search.in_bytes(printed.out.encode(), "standard output")
        hits += search.in_bytes(printed.err.encode(), "standard error")
        hits += search.in_bytes(caplog.text.encode(), "the log")
        for data in sent:
            hits += hits_of(search, data)
        hits += search.in_files(tmp_path, without=[tmp_path / "ada", *meant_for_us])
        assert hits == []
        return printed.out + printed.err

    return check


def hits_of(search: Search, data: bytes) -> list[Hit]:
    arrays = [hit for values in numbers_of(data) for hit in search.in_array(values, "a message")]
    return search.in_bytes(data, "a message") + arrays
