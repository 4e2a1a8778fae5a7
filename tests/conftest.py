"""Settings for all tests: the size of hypothesis's campaigns, and the record of full campaigns."""

import os

import hypothesis
import pytest

from tests.campaigns import IS_FULL, Campaign, Recorder, Tell

# CI: the same examples every time. `WARDROUND_HYPOTHESIS=full` looks further, at random.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.register_profile("full", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("WARDROUND_HYPOTHESIS", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    """The processes of xdist tell the first one what they found; it alone writes."""
    if IS_FULL and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())


@pytest.fixture
def campaign(record_property: Tell) -> Campaign:
    return Campaign(record_property)
