"""The ledger: nothing is spent that is not written, and nothing written is taken back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.ledger.entries import ledger_path, sealed_folder
from client.ledger.verification import verify
from common.errors import Refusal, RefusalCode, SiteConfigError
from common.privacy.events import Charge, Gaussian, Part, Unprotected
from common.signing import SigningKey
from tests.unit.ledger_cases import (
    DATASET,
    FINGERPRINT,
    countersigned,
    do_round,
    entries_of,
    open_ledger,
    request_of,
    reserve,
    training,
)


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def kinds(state: Path) -> list[str]:
    return [entry["kind"] for entry in entries_of(ledger_path(state, DATASET))]


def test_one_task_is_reserved_sealed_sent_and_acknowledged(state: Path, key: SigningKey) -> None:
    with open_ledger(state, key) as ledger:
        assert do_round(ledger, request_of(1)) == b"update"
        ledger.accept(countersigned(ledger, SigningKey.generate()))
        assert ledger.charges() == training()
    assert kinds(state) == ["opened", "reserved", "sealed", "sent", "acknowledged"]
    assert verify(state, dataset_id=DATASET, public_key=key.public_key) == ()


def test_what_was_reserved_is_spent_after_every_reopening(state: Path, key: SigningKey) -> None:
    for number in range(3):
        with open_ledger(state, key) as ledger:
            assert len(ledger.charges()) == number
            reserve(ledger, request_of(number, run=f"run-{number}"))
    with open_ledger(state, key) as ledger:
        assert len(ledger.charges()) == 3
        assert ledger.charges("run-1") == training()
        assert ledger.charges("another") == ()


def test_nothing_that_was_reserved_is_taken_back_when_the_task_fails(
    state: Path, key: SigningKey
) -> None:
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(1))
        ledger.refuse(request_of(1), RefusalCode.OUT_OF_MEMORY)
        assert ledger.charges() == training()
        reserve(ledger, request_of(1))
        assert ledger.charges() == training() * 2


def test_nothing_can_be_sealed_without_a_reservation(state: Path, key: SigningKey) -> None:
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(1))
        for other in (
            request_of(2),
            request_of(1, run="another"),
            request_of(1, kind="evaluate"),
            request_of(1, arrays="others"),
            replace(request_of(1), study_hash="00" * 32),
        ):
            with pytest.raises(ValueError, match="expected a reservation"):
                ledger.seal(other, b"update")
        ledger.seal(request_of(1), b"update")
        with pytest.raises(ValueError, match="expected a reservation"):
            ledger.seal(request_of(1), b"another update")
        assert ledger.sealed(request_of(1)) == b"update"


def test_nothing_can_be_sent_without_a_seal(state: Path, key: SigningKey) -> None:
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(1))
        with pytest.raises(ValueError, match="expected something sealed"):
            ledger.sent(request_of(1))
        ledger.seal(request_of(1), b"update")
        with pytest.raises(ValueError, match="expected something sealed"):
            ledger.sent(request_of(1, arrays="others"))
        ledger.sent(request_of(1))


@pytest.mark.threat("S1-5")
def test_a_repeated_request_gets_the_same_bytes_and_costs_nothing(
    state: Path, key: SigningKey
) -> None:
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1), b"first")
    with open_ledger(state, key) as ledger:
        assert do_round(ledger, request_of(1), b"second") == b"first"
        assert ledger.charges() == training()
        with pytest.raises(ValueError, match="not sealed"):
            reserve(ledger, request_of(1))


@pytest.mark.threat("S1-5")
@pytest.mark.parametrize(
    "changed", [{"arrays_digest": "00" * 32}, {"study_hash": "00" * 32}, {"study": "another"}]
)
def test_a_repeated_request_with_other_arrays_is_refused(
    state: Path, key: SigningKey, changed: dict[str, str]
) -> None:
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1))
        with pytest.raises(Refusal) as refused:
            ledger.sealed(replace(request_of(1), **changed))
        assert refused.value.refusal_code is RefusalCode.ROUND_REPEATED
        assert ledger.sealed(request_of(2)) is None


@pytest.mark.parametrize("damage", ["deleted", "changed"])
def test_a_sealed_answer_that_is_not_as_it_was_is_not_made_anew(
    state: Path, key: SigningKey, damage: str
) -> None:
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1))
        (file,) = sealed_folder(state, DATASET).iterdir()
        if damage == "deleted":
            file.unlink()
        else:
            file.write_bytes(b"another")
        with pytest.raises(Refusal) as refused:
            ledger.sealed(request_of(1))
        assert refused.value.refusal_code is RefusalCode.ROUND_REPEATED
    faults = verify(state, dataset_id=DATASET)
    assert [("was changed" in fault) for fault in faults] == [True] * (damage == "changed")


def test_a_changed_data_file_is_written_down_and_what_was_spent_carries_over(
    state: Path, key: SigningKey
) -> None:
    with open_ledger(state, key) as ledger:
        for number, fingerprint in enumerate(("aa" * 32, "aa" * 32, "bb" * 32, "aa" * 32)):
            ledger.reserve(
                request_of(number), training(), fingerprint=fingerprint, source_kind="secure"
            )
        assert len(ledger.charges()) == 4
    found = kinds(state)
    assert found == ["opened", *["reserved"] * 2, *["data_changed", "reserved"] * 2]
    changed = [e["fields"] for e in entries_of(ledger_path(state, DATASET))][3]
    assert (changed["before"], changed["after"]) == ("aa" * 32, "bb" * 32)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cohort_size": 304}, "cohort_size = 303"),
        ({"simulation": False, "durable": True}, "simulation = True"),
        ({"key": SigningKey.generate()}, "public_key"),
    ],
)
def test_what_the_data_set_was_opened_with_stays(
    state: Path, key: SigningKey, change: dict[str, Any], named: str
) -> None:
    open_ledger(state, key).close()
    before = ledger_path(state, DATASET).read_bytes()
    with pytest.raises(SiteConfigError, match=named):
        open_ledger(state, **{"key": key} | change)
    assert ledger_path(state, DATASET).read_bytes() == before
    open_ledger(state, key).close()


def test_data_sets_have_ledgers_and_sealed_answers_of_their_own(
    state: Path, key: SigningKey
) -> None:
    one, two = (open_ledger(state, key, dataset_id=name) for name in ("a/b", "a b"))
    do_round(one, request_of(1), b"one")
    assert two.sealed(request_of(1)) is None
    do_round(two, request_of(1), b"two")
    assert one.sealed(request_of(1)) == b"one"
    assert (len(one.charges()), len(two.charges())) == (1, 1)
    one.close()
    two.close()


def test_a_refusal_is_written_down_with_its_code(state: Path, key: SigningKey) -> None:
    with open_ledger(state, key) as ledger:
        ledger.refuse(request_of(7), RefusalCode.BUDGET_EXCEEDED)
    *_, refused = entries_of(ledger_path(state, DATASET))
    assert refused["kind"] == "refused"
    assert refused["fields"]["code"] == "budget_exceeded"
    assert refused["fields"]["request"]["round"] == 7
    assert refused["fields"]["request"]["study"] == "heart-disease"


def test_charges_of_every_kind_come_back_as_they_were(state: Path, key: SigningKey) -> None:
    charges = (
        Charge(event=Gaussian(noise_multiplier=0.1 + 0.2, sample_rate=1 / 3, count=7)),
        Charge(event=Unprotected(), part=Part.TEST, split="a"),
    )
    with open_ledger(state, key) as ledger:
        reserve(ledger, request_of(1), charges)
    with open_ledger(state, key) as ledger:
        assert ledger.charges() == charges


@pytest.mark.threat("I-1")
def test_the_ledger_holds_nothing_but_names_numbers_and_digests(
    state: Path, key: SigningKey
) -> None:
    with open_ledger(state, key) as ledger:
        do_round(ledger, request_of(1), b"CANARY of a patient")
    assert b"CANARY" not in ledger_path(state, DATASET).read_bytes()
    assert FINGERPRINT.encode() in ledger_path(state, DATASET).read_bytes()


def test_answers_that_were_acknowledged_may_be_discarded_and_are_not_made_anew(
    state: Path, key: SigningKey
) -> None:
    with open_ledger(state, key) as ledger:
        for number in (1, 2, 3):
            do_round(ledger, request_of(number))
        do_round(ledger, request_of(1, run="another"))
        ledger.discard_answers("run-a", before_round=3)
        assert len(list(sealed_folder(state, DATASET).iterdir())) == 4
        ledger.accept(countersigned(ledger, SigningKey.generate()))
        ledger.discard_answers("run-a", before_round=3)
        with pytest.raises(Refusal) as refused:
            ledger.sealed(request_of(2))
        assert refused.value.refusal_code is RefusalCode.ROUND_REPEATED
        assert ledger.sealed(request_of(3)) == b"update"
        assert ledger.sealed(request_of(1, run="another")) == b"update"
        assert len(ledger.charges()) == 4
    open_ledger(state, key).close()
    assert verify(state, dataset_id=DATASET) == ()
