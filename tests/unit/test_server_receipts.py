"""Receipts at the coordinator: whose key, which head, and what a run that goes on still knows."""

from dataclasses import asdict, replace

import pytest

from common.errors import MessageError
from common.receipts import Receipt
from common.signing import SigningKey, is_countersigned, sign_head
from server.receipts import Receipts

SITE, COORDINATOR = SigningKey.generate(), SigningKey.generate()


def receipt(seq: int, *, key: SigningKey = SITE, digest: str = "a" * 64) -> Receipt:
    signature = sign_head(seq, digest, key)
    return Receipt(seq=seq, digest=digest, key=key.public_key, signature=signature)


@pytest.fixture
def receipts() -> Receipts:
    return Receipts(COORDINATOR)


def test_the_newest_head_comes_back_with_both_signatures(receipts: Receipts) -> None:
    receipts.accept("north", receipt(3))
    receipts.accept("north", receipt(5, digest="b" * 64))
    last = receipts.last("north")
    assert last is not None
    assert (last.seq, last.digest, last.key) == (5, "b" * 64, COORDINATOR.public_key)
    assert is_countersigned(last, site_key=SITE.public_key)


def test_a_site_that_was_never_heard_of_has_no_head(receipts: Receipts) -> None:
    assert receipts.last("north") is None


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        receipt(6, key=SigningKey.generate()),
        replace(receipt(6), signature="0" * 128),
        receipt(4),
        receipt(5, digest="c" * 64),
    ],
    ids=["none", "another key", "a false signature", "an older head", "another entry"],
)
def test_a_receipt_that_does_not_follow_is_refused_and_changes_nothing(
    receipts: Receipts, wrong: Receipt | None
) -> None:
    receipts.accept("north", receipt(5))
    before = receipts.last("north")
    with pytest.raises(MessageError):
        receipts.accept("north", wrong)
    assert receipts.last("north") == before


def test_a_false_first_receipt_does_not_keep_the_site_itself_out(receipts: Receipts) -> None:
    with pytest.raises(MessageError):
        receipts.accept(
            "north", replace(receipt(9, key=SigningKey.generate()), signature="0" * 128)
        )
    receipts.accept("north", receipt(3))
    assert receipts.last("north") is not None


def test_sites_do_not_share_a_key_or_a_head(receipts: Receipts) -> None:
    other = SigningKey.generate()
    receipts.accept("north", receipt(5))
    receipts.accept("south", receipt(2, key=other))
    north, south = receipts.last("north"), receipts.last("south")
    assert north is not None
    assert south is not None
    assert (north.seq, south.seq) == (5, 2)


def test_a_run_that_goes_on_knows_the_heads_of_its_journal(receipts: Receipts) -> None:
    journal = [
        {"event": "enrolled", "site": "north", "counts": {}},
        {"event": "reply", "site": "north", "receipt": asdict(receipt(3))},
        {"event": "reply", "site": "south"},
        {"event": "reply", "site": "north", "receipt": asdict(receipt(7))},
    ]
    receipts.resume(journal)
    last = receipts.last("north")
    assert last is not None
    assert last.seq == 7
    with pytest.raises(MessageError):
        receipts.accept("north", receipt(3))
