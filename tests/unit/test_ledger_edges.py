"""The ledger where mutants of it had survived: who decides the cohort, and when."""

from pathlib import Path

import pytest

from client.ledger.entries import ledger_path
from common.errors import SiteConfigError
from common.signing import SigningKey
from tests.unit.ledger_cases import DATASET, entries_of, open_ledger


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


def test_a_cohort_is_decided_once_and_a_policy_that_is_silent_changes_nothing(
    tmp_path: Path, key: SigningKey
) -> None:
    for cohort_size in (None, None, 303, 303, None):
        open_ledger(tmp_path, key, cohort_size=cohort_size).close()
    kinds = [entry["kind"] for entry in entries_of(ledger_path(tmp_path, DATASET))]
    assert kinds == ["opened", "cohort_decided"]
    with pytest.raises(SiteConfigError, match=r"cohort_size = 303 \(now 304"):
        open_ledger(tmp_path, key, cohort_size=304)
