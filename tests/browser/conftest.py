"""The browser that all tests of this folder share; without one they are skipped."""

from collections.abc import Iterator

import pytest

from tests.browser.devtools import CHROMIUM, Browser, Tab, browser


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; a reason where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Tab]:
    """An empty tab."""
    with chromium.tab() as opened:
        yield opened
