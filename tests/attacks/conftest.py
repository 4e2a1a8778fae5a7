"""The hospitals and federations of the other tests, for attacks on them."""

from tests.round.conftest import federate, hospitals, study
from tests.unit.conftest import new_site, open_real, patients, private, tiny_study

__all__ = [
    "federate",
    "hospitals",
    "new_site",
    "open_real",
    "patients",
    "private",
    "study",
    "tiny_study",
]
