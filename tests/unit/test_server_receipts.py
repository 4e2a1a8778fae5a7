"""Receipts at the coordinator: whose key, which head, and what a run that goes on still knows."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from common.errors import MessageError, RunError
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


# Kept from run to run.


def keys_of(**keys: SigningKey) -> Callable[[str], str | None]:
    return lambda site: keys[site].public_key if site in keys else None


def kept(folder: Path, key: SigningKey = COORDINATOR, **sites: SigningKey) -> Receipts:
    """The receipts of a new run of the coordinator."""
    return Receipts(key, folder=folder, signing_key_of=keys_of(**sites))


def test_a_later_run_knows_the_head_of_an_earlier_one(tmp_path: Path) -> None:
    first = kept(tmp_path, north=SITE)
    first.accept("north", receipt(5))
    second = kept(tmp_path, north=SITE)
    assert second.last("north") == first.last("north")
    with pytest.raises(MessageError, match="at least 6 entries"):
        second.accept("north", receipt(3))


def test_a_head_is_kept_before_it_is_used_and_only_the_newest(tmp_path: Path) -> None:
    receipts = kept(tmp_path, north=SITE)
    for seq in (3, 5):
        receipts.accept("north", receipt(seq))
        head = kept(tmp_path, north=SITE).last("north")
        assert head is not None
        assert head.seq == seq
    with pytest.raises(MessageError):
        receipts.accept("north", receipt(4))
    assert kept(tmp_path, north=SITE).last("north") == receipts.last("north")


def test_a_site_is_known_by_the_roster_from_its_first_receipt_on(tmp_path: Path) -> None:
    other = SigningKey.generate()
    receipts = kept(tmp_path, north=SITE)
    with pytest.raises(MessageError):
        receipts.accept("north", receipt(3, key=other))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_passes_over_what_a_later_run_has_seen(tmp_path: Path) -> None:
    journal = [{"event": "reply", "site": "north", "receipt": asdict(receipt(3))}]
    kept(tmp_path, north=SITE).accept("north", receipt(7))
    resumed = kept(tmp_path, north=SITE)
    resumed.resume(journal)
    last = resumed.last("north")
    assert last is not None
    assert last.seq == 7


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"head": 1, "site_key": 2}', b"\xff"])
def test_a_damaged_head_stops_the_run_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    kept(tmp_path, north=SITE).accept("north", receipt(7))
    (tmp_path / "north.json").write_bytes(content)
    with pytest.raises(RunError, match="newest head of the ledger of 'north'"):
        kept(tmp_path, north=SITE)


def test_an_edited_head_or_one_of_another_coordinator_stops_the_run(tmp_path: Path) -> None:
    kept(tmp_path, north=SITE).accept("north", receipt(7))
    with pytest.raises(RunError, match="by this coordinator"):
        kept(tmp_path, key=SigningKey.generate(), north=SITE)
    path = tmp_path / "north.json"
    path.write_text(path.read_text().replace('"seq": 7', '"seq": 6'))
    with pytest.raises(RunError, match="by this coordinator"):
        kept(tmp_path, north=SITE)


def test_a_site_with_a_new_key_and_an_empty_ledger_stops_the_run(tmp_path: Path) -> None:
    kept(tmp_path, north=SITE).accept("north", receipt(7))
    with pytest.raises(RunError, match="move that file away"):
        kept(tmp_path, north=SigningKey.generate())


def test_a_site_that_has_left_stops_nobody(tmp_path: Path) -> None:
    kept(tmp_path, north=SITE).accept("north", receipt(7))
    assert kept(tmp_path).last("south") is None


def test_a_run_in_which_nobody_has_a_ledger_needs_no_key() -> None:
    receipts = Receipts(None)
    receipts.resume([{"event": "reply", "site": "north", "receipt": asdict(receipt(3))}])
    assert not receipts.are_kept
    assert receipts.last("north") is None
