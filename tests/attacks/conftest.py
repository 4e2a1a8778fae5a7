"""The hospitals and federations of the other tests, for attacks on them."""

from tests.attacks.sweep_fixtures import hospital, nothing_told, search, site_dir, swept
from tests.round.conftest import federate, hospitals, study
from tests.unit.conftest import new_site, open_real, patients, private, tiny_study

__all__ = [
    "federate",
    "hospital",
    "hospitals",
    "new_site",
    "nothing_told",
    "open_real",
    "patients",
    "private",
    "search",
    "site_dir",
    "study",
    "swept",
    "tiny_study",
]
