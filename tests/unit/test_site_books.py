"""The door and the ledger behind it: what a task brings back, and books that cannot be written."""

from dataclasses import replace
from pathlib import Path

import pytest

import client.site
from client.charging import Ledgered
from client.disk import Room
from client.site import Site
from common.errors import DataError, RefusalCode
from common.messages import Reply, TaskKind
from common.receipts import Countersigned
from common.signing import SigningKey, countersign, sign_head
from common.study import Study
from tests.unit.consortium import COORDINATOR
from tests.unit.private_site_cases import answer, kinds, ledger_of

CANARY = "Qx-Mrs-Miller-1943-zK"


def head_of(reply: Reply) -> Countersigned:
    assert reply.receipt is not None
    return countersign(reply.receipt, COORDINATOR, site_key=reply.receipt.key)


def sealed_files(site: Site) -> int:
    state = site.folder.parent / "state"  # type: ignore[attr-defined]
    return len(list(state.rglob("*.sealed")))


def test_what_a_task_brings_back_is_acknowledged_and_older_updates_are_removed(
    open_real, private: Study
) -> None:
    site = open_real(private)
    first = answer(site, private, round=0)
    second = answer(site, private, round=1, ledger=head_of(first))
    assert (second.status, kinds(site).count("acknowledged")) == ("ok", 1)
    assert sealed_files(site) == 2
    third = answer(site, private, round=2, ledger=head_of(second))
    assert third.status == "ok"
    # The older of the two checkpoints that a coordinator may go back to asks for round 1 again.
    assert sealed_files(site) == 2
    assert answer(site, private, round=0, nonce="n").status == RefusalCode.ROUND_REPEATED
    assert answer(site, private, round=1, nonce="m").arrays == second.arrays


@pytest.mark.threat("I-2")
def test_a_ledger_that_lacks_what_both_sides_signed_is_not_worked_with(
    open_real, private: Study
) -> None:
    site = open_real(private)
    key = SigningKey.load(site.folder.parent / "state" / "alpha" / "keys" / "site.pem")
    receipt = answer(site, private).receipt
    assert receipt is not None
    digest = "b" * 64
    later = replace(receipt, seq=99, digest=digest, signature=sign_head(99, digest, key))
    head = countersign(later, COORDINATOR, site_key=receipt.key)
    assert answer(site, private, round=1, ledger=head).status == RefusalCode.LEDGER_BEHIND
    false = replace(head, site_signature="0" * 128)
    assert answer(site, private, round=1, ledger=false).status == RefusalCode.MESSAGE_MALFORMED
    assert kinds(site).count("reserved") == 1


def test_the_cost_of_a_run_is_told_with_its_evaluation_alone(open_real, private: Study) -> None:
    site = open_real(private)
    training = answer(site, private).receipt
    evaluation = answer(site, private, TaskKind.EVALUATE, round=3).receipt
    assert training is not None
    assert evaluation is not None
    assert (training.epsilon, training.delta) == (None, None)
    assert evaluation.epsilon is not None
    assert 0 < evaluation.epsilon < 10
    assert evaluation.delta == 1e-4


def test_a_full_disk_is_not_written_to_for_the_sake_of_a_refusal(open_real, private: Study) -> None:
    site = open_real(private)
    charging = site._charging
    assert isinstance(charging, Ledgered)
    charging._room = Room(state_dir=site.folder, free_bytes=lambda _: 0)
    assert answer(site, private).status == RefusalCode.DISK_FULL
    assert kinds(site) == ["opened"]


def test_the_same_refusal_is_written_once_and_another_code_again(open_real, private: Study) -> None:
    site = open_real(private)
    for nonce in ("a", "b", "c"):
        refused = answer(site, private, round=1000, nonce=nonce, study_hash="0" * 64)
        assert refused.status == RefusalCode.STUDY_NOT_ACCEPTED
    answer(site, private, round=1001, nonce="d", study_hash="0" * 64)
    told = [e["fields"] for e in ledger_of(site) if e["kind"] == "refused"]
    assert [t["request"]["round"] for t in told] == [1000, 1001]
    assert {t["code"] for t in told} == {"study_not_accepted"}


def test_a_refusal_leaves_although_the_ledger_cannot_be_written(
    open_real, private: Study, caplog: pytest.LogCaptureFixture
) -> None:
    site = open_real(private)

    def refused(*_: object) -> None:
        raise OSError(CANARY)

    site._charging.refused = refused  # type: ignore[method-assign]
    reply = answer(site, private, study_hash="0" * 64)
    assert reply.status == RefusalCode.STUDY_NOT_ACCEPTED
    assert "cannot write its ledger" in caplog.text
    assert CANARY not in caplog.text


def test_data_that_change_while_they_are_read_stop_the_site(
    open_real, private: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = client.site._works

    def changed(config, *args, **options):
        path: Path = config.folder / "patients.csv"
        works = read(config, *args, **options)
        path.write_bytes(path.read_bytes() + b"\n")
        return works

    monkeypatch.setattr(client.site, "_works", changed)
    with pytest.raises(DataError, match="stay as they are while they are read"):
        open_real(private)
