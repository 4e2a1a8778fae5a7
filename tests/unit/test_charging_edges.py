"""What a hospital's books say of each run, where mutants of the charging had survived."""

from collections.abc import Callable

import pytest

from client.site import Site
from common.messages import OK
from common.study import Study
from tests.unit.private_site_cases import answer, ledger_of

OpenReal = Callable[..., Site]


@pytest.mark.threat("S1-5")
def test_each_run_without_privacy_is_charged_once_and_under_its_own_id(
    open_real: OpenReal, tiny_study: Study
) -> None:
    site = open_real(tiny_study)
    for run_id, round_number in (("one", 0), ("one", 1), ("two", 0), ("two", 1)):
        reply = answer(
            site, tiny_study, run_id=run_id, round=round_number, nonce=f"{run_id}-{round_number}"
        )
        assert reply.status == OK
    reserved = [e["fields"]["request"] for e in ledger_of(site) if e["kind"] == "reserved"]
    assert [request["run_id"] for request in reserved] == ["one", "two"]
