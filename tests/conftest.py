"""Settings for all tests: the size of hypothesis's campaigns, and one thread for torch."""

import os

import hypothesis

# CI: the same examples every time. `WARDROUND_HYPOTHESIS=full` looks further, at random.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.register_profile("full", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("WARDROUND_HYPOTHESIS", "ci"))
