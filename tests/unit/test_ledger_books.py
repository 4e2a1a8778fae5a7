"""The books: an entry that cannot follow, or is none of its kind, is not booked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from client.ledger.books import Books
from client.ledger.entries import Entry, Kind, ledger_path, read_chain
from client.ledger.verification import readable_books
from common.signing import SigningKey
from tests.unit.ledger_cases import DATASET, do_round, open_ledger, request_of, reserve

REQUEST = request_of().to_json()


@pytest.fixture
def entries(tmp_path: Path) -> tuple[Entry, ...]:
    """Opened, and one round: reserved, sealed, sent; then one more reserved."""
    with open_ledger(tmp_path, SigningKey.generate()) as ledger:
        do_round(ledger, request_of(0))
        reserve(ledger, request_of(1))
    return tuple(read_chain(ledger_path(tmp_path, DATASET).read_bytes()).entries)


def entry_of(kind: str, fields: Mapping[str, Any]) -> Entry:
    return Entry(
        seq=9, at="2026-03-01", kind=kind, fields=fields, previous="", digest="d" * 64, signature=""
    )


def booked(entries: tuple[Entry, ...]) -> Books:
    books = Books()
    for entry in entries:
        books.add(entry)
    return books


IMPOSSIBLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "a kind of another version": ("forgiven", {}, "forgiven"),
    "sent and not sealed": (
        Kind.SENT,
        {"request": request_of(1).to_json()},
        "something was sent that was not sealed",
    ),
    "sealed and not reserved": (
        Kind.SEALED,
        {"request": request_of(2).to_json(), "file": "x", "digest": "y"},
        "something was sealed that was not reserved",
    ),
    "sealed in another file": (
        Kind.SEALED,
        {"request": request_of(1).to_json(), "file": "x", "digest": "y"},
        "in the place of something else",
    ),
    "another cohort": (Kind.COHORT_DECIDED, {"cohort_size": 30}, "the cohort is decided once"),
    "a missing field": (Kind.REFUSED, {"request": REQUEST}, "KeyError"),
    "a field of another kind": (Kind.RESERVED, {"request": 7}, "TypeError"),
    "no text as digest": (Kind.ACKNOWLEDGED, {"head": "north"}, "TypeError"),
}


@pytest.mark.parametrize(("kind", "fields", "said"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_follow_is_not_booked(
    entries: tuple[Entry, ...], kind: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        booked(entries).add(entry_of(kind, fields))


def test_a_seal_whose_digest_is_no_text_is_not_booked(entries: tuple[Entry, ...]) -> None:
    sealed = next(entry for entry in entries if entry.kind == Kind.SEALED)
    before = entries[: entries.index(sealed)]
    booked((*before, sealed))
    with pytest.raises(ValueError, match="in the place of something else"):
        booked((*before, entry_of(Kind.SEALED, {**sealed.fields, "digest": 7})))


def test_books_are_read_up_to_the_first_entry_that_cannot_be_booked(
    entries: tuple[Entry, ...], tmp_path: Path
) -> None:
    path = ledger_path(tmp_path, DATASET)
    chain = read_chain(path.read_bytes())
    bad = entry_of(Kind.SENT, {"request": request_of(5).to_json()})
    longer = type(chain)(**{**vars(chain), "entries": (*chain.entries, bad, *chain.entries)})
    books, faults = readable_books(longer)
    assert faults == ["entry 9 cannot be booked: something was sent that was not sealed"]
    assert len(books.reservations) == 2
