"""A SuperLink of a module, a run of a test on it, and a hospital that only echoes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.superlink.grid import HttpGrid

from tests.federation.deployment import Link, coordinator, superlink
from tests.federation.fake_site import FakeSite


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: the path of a socket in it has 107 bytes at the most."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    with superlink(tmp_path_factory.mktemp("link")) as link:
        yield link


@pytest.fixture
def grid(link: Link) -> Iterator[HttpGrid]:
    with coordinator(link) as grid:
        yield grid


@pytest.fixture
def site() -> Iterator[FakeSite]:
    site = FakeSite().start()
    yield site
    site.stop()
