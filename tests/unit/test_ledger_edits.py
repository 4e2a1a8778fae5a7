"""Random edits of a ledger's file: every one is found, given the last countersigned head.

150 edits; 1,000 under `WARDROUND_HYPOTHESIS=full`. The site's own copy of the head and its sealed
answers are taken away first: what finds the edits is the chain, the site's public key and the head
that the coordinator holds, and nothing else. Some editors have the site's private key as well.

Without that head an end that was cut off at an entry, or an older copy, is not found (the last
tests say so): it is a true ledger of an earlier day. Nor is what was written after the head by
someone who has the private key.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.ledger.books import file_of
from client.ledger.entries import FIRST, Entry, Kind, ledger_path, read_chain, sealed_folder
from client.ledger.verification import countersigned_path, verify
from common.errors import Refusal, RefusalCode, SiteConfigError
from common.receipts import Countersigned
from common.signing import SigningKey, countersign
from tests.unit.ledger_cases import (
    DATASET,
    countersigned,
    do_round,
    open_ledger,
    request_of,
    reserve,
)

NUM_EDITS = 1000 if os.environ.get("WARDROUND_HYPOTHESIS") == "full" else 150


@dataclass(frozen=True, kw_only=True)
class Books:
    """A ledger with a past: its file, all its older copies, and who signed its end."""

    state: Path
    key: SigningKey
    coordinator: SigningKey
    content: bytes
    older: Sequence[bytes]
    head: Countersigned

    def faults(self, head: Countersigned | None) -> tuple[str, ...]:
        return verify(
            self.state,
            dataset_id=DATASET,
            public_key=self.key.public_key,
            last_countersigned=head,
        )

    @property
    def path(self) -> Path:
        return ledger_path(self.state, DATASET)


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Books:
    state, older = tmp_path_factory.mktemp("state"), []
    key, coordinator = SigningKey.generate(), SigningKey.generate()
    path = ledger_path(state, DATASET)
    with open_ledger(state, key) as ledger:
        for number in range(6):
            older.append(path.read_bytes())
            if number == 2:
                reserve(ledger, request_of(number))  # and killed: an over-count
            do_round(ledger, request_of(number), bytes([number]))
            older.append(path.read_bytes())
            ledger.accept(countersigned(ledger, coordinator))
        ledger.refuse(request_of(9), RefusalCode.BUDGET_EXCEEDED)
        head = countersigned(ledger, coordinator)
    shutil.rmtree(sealed_folder(state, DATASET))
    countersigned_path(state, DATASET).unlink()
    content = path.read_bytes()
    return Books(
        state=state, key=key, coordinator=coordinator, content=content, older=older, head=head
    )


Edit = Callable[[Books, random.Random], bytes]


def _flipped(books: Books, source: random.Random) -> bytes:
    damaged = bytearray(books.content)
    for at in source.sample(range(len(damaged)), source.randint(1, 4)):
        damaged[at] ^= 1 << source.randrange(8)
    return bytes(damaged)


def _one_bit_of_a_newline(books: Books, source: random.Random) -> bytes:
    places = [at for at, byte in enumerate(books.content) if byte == ord("\n")]
    damaged = bytearray(books.content)
    damaged[source.choice(places)] ^= 1 << source.randrange(8)
    return bytes(damaged)


def _overwritten(books: Books, source: random.Random) -> bytes:
    at, width = source.randrange(len(books.content)), source.choice([1, 8, 512])
    content = books.content
    return content[:at] + bytes([source.choice([0, 32, 255])]) * width + content[at + width :]


def _spaced(books: Books, source: random.Random) -> bytes:
    """The same JSON in other bytes."""
    lines = books.content.splitlines()
    at = source.randrange(len(lines))
    lines[at] = json.dumps(json.loads(lines[at])).encode()
    return b"\n".join(lines) + b"\n"


def _dropped(books: Books, source: random.Random) -> bytes:
    lines = books.content.splitlines(keepends=True)
    del lines[source.randrange(len(lines))]
    return b"".join(lines)


def _repeated(books: Books, source: random.Random) -> bytes:
    lines = books.content.splitlines(keepends=True)
    at = source.randrange(len(lines))
    lines.insert(source.choice([at, len(lines)]), lines[at])
    return b"".join(lines)


def _reordered(books: Books, source: random.Random) -> bytes:
    lines = books.content.splitlines(keepends=True)
    one, other = source.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _cut(books: Books, source: random.Random) -> bytes:
    return books.content[: source.randrange(len(books.content))]


def _cut_at_an_entry(books: Books, source: random.Random) -> bytes:
    lines = books.content.splitlines(keepends=True)
    return b"".join(lines[: source.randrange(len(lines))])


def _rolled_back(books: Books, source: random.Random) -> bytes:
    return source.choice(books.older)


def _rehashed_without_the_key(books: Books, source: random.Random) -> bytes:
    """A lowered charge, and a whole chain of right digests; signatures are those that there are."""
    return _chained(books, source, signer=SigningKey.generate(), keeps_signatures=True)


def _rehashed_by_another_key(books: Books, source: random.Random) -> bytes:
    return _chained(books, source, signer=SigningKey.generate(), keeps_signatures=False)


def _rehashed_with_the_key(books: Books, source: random.Random) -> bytes:
    return _chained(books, source, signer=books.key, keeps_signatures=False)


def _rolled_back_and_grown_with_the_key(books: Books, source: random.Random) -> bytes:
    """An older copy on which a site went on: as long as before, or longer."""
    entries = list(read_chain(source.choice(books.older)).entries)
    fields = read_chain(books.content).entries[-1].fields
    for _ in range(source.randint(1, 30)):
        previous = entries[-1].link
        entries.append(
            Entry.make(
                seq=len(entries),
                at="2026-03-02T09:00:00.000000+00:00",
                kind=Kind.REFUSED,
                fields=fields,
                previous=previous,
                key=books.key,
            )
        )
    return b"".join(entry.to_line() for entry in entries)


def _chained(
    books: Books, source: random.Random, *, signer: SigningKey, keeps_signatures: bool
) -> bytes:
    """The ledger with one lowered charge, all digests made anew, and nothing that contradicts.

    Acknowledgements, which only the coordinator could make anew, are replaced by refusals.
    """
    old = read_chain(books.content).entries
    edited = source.choice([entry for entry in old if entry.kind == Kind.RESERVED]).seq
    made: list[Entry] = []
    names: dict[str, str] = {}
    for entry in old:
        fields = json.loads(json.dumps(entry.fields))
        kind = Kind(entry.kind)
        if entry.seq == edited:
            name, value = source.choice(
                [("noise_multiplier", 99.0), ("count", 0), ("sample_rate", 1e-6), ("part", "test")]
            )
            fields["charges"][0][name] = value
        if kind is Kind.OPENED and not keeps_signatures:
            fields["public_key"] = signer.public_key
        if kind is Kind.SEALED:
            fields["file"] = names[fields["file"]]
        if kind is Kind.ACKNOWLEDGED:
            kind, fields = Kind.REFUSED, dict(old[-1].fields)
        previous = made[-1].link if made else FIRST
        one = Entry.make(
            seq=entry.seq, at=entry.at, kind=kind, fields=fields, previous=previous, key=signer
        )
        names[file_of(entry)] = file_of(one)
        if keeps_signatures:
            one = Entry(**{**vars(one), "signature": entry.signature})
        made.append(one)
    return b"".join(entry.to_line() for entry in made)


EDITS: tuple[Edit, ...] = (
    _flipped,
    _one_bit_of_a_newline,
    _overwritten,
    _spaced,
    _dropped,
    _repeated,
    _reordered,
    _cut,
    _cut_at_an_entry,
    _rolled_back,
    _rehashed_without_the_key,
    _rehashed_by_another_key,
    _rehashed_with_the_key,
    _rolled_back_and_grown_with_the_key,
)


def _site_goes_on(books: Books) -> bool:
    """Whether a site opens this ledger and accepts the head that a task brings."""
    try:
        with open_ledger(books.state, books.key) as ledger:
            ledger.accept(books.head)
    except (SiteConfigError, Refusal) as stopped:
        return getattr(stopped, "refusal_code", None) not in (None, RefusalCode.LEDGER_BEHIND)
    finally:
        countersigned_path(books.state, DATASET).unlink(missing_ok=True)
    return True


@pytest.mark.threat("I-2")
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__.strip("_"))
def test_every_edit_is_found_and_stops_the_site(books: Books, edit: Edit) -> None:
    source = random.Random(edit.__name__)
    for number in range(-(-NUM_EDITS // len(EDITS))):
        edited = edit(books, source)
        if edited == books.content:
            continue
        books.path.write_bytes(edited)
        assert books.faults(books.head), number
        assert books.path.read_bytes() == edited, "verify changes nothing"
        assert not _site_goes_on(books), number


def test_an_unedited_ledger_has_no_fault(books: Books) -> None:
    books.path.write_bytes(books.content)
    assert books.faults(books.head) == ()
    assert books.faults(None) == ()
    assert _site_goes_on(books)


def test_a_ledger_that_has_grown_since_the_head_has_no_fault(books: Books) -> None:
    older_head = _head_of(books, books.older[4])
    books.path.write_bytes(books.content)
    assert books.faults(older_head) == ()


@pytest.mark.parametrize(
    "edit",
    [
        _flipped,
        _spaced,
        _dropped,
        _repeated,
        _reordered,
        _rehashed_without_the_key,
        _rehashed_by_another_key,
    ],
    ids=lambda edit: edit.__name__.strip("_"),
)
def test_without_a_head_all_edits_but_an_older_end_are_found(books: Books, edit: Edit) -> None:
    source = random.Random(edit.__name__)
    last = books.content.splitlines(keepends=True)[-1]
    for _ in range(20):
        edited = edit(books, source)
        if edited in (books.content, books.content[: -len(last)]):
            continue
        books.path.write_bytes(edited)
        assert books.faults(None)


def test_what_is_not_found_without_a_head_is_found_with_it(books: Books) -> None:
    for older in (books.older[3], _rehashed_with_the_key(books, random.Random(0))):
        books.path.write_bytes(older)
        assert books.faults(None) == ()
        assert "which both sides signed, is not in the ledger" in books.faults(books.head)[0]


def test_a_head_of_another_site_or_a_forged_one_is_a_fault(books: Books) -> None:
    books.path.write_bytes(books.content)
    other = SigningKey.generate()
    forged = Countersigned(**{**vars(books.head), "signature": books.head.site_signature})
    with_other_site_key = Countersigned(
        **{**vars(books.head), "site_signature": books.head.signature}
    )
    for head in (forged, with_other_site_key):
        assert "false signature" in books.faults(head)[0]
    faults = verify(books.state, dataset_id=DATASET, public_key=other.public_key)
    assert "another key" in faults[0]


def test_a_data_set_without_a_ledger_is_a_fault(tmp_path: Path) -> None:
    assert "there is no ledger" in verify(tmp_path, dataset_id=DATASET)[0]
    open_ledger(tmp_path, SigningKey.generate()).close()
    ledger_path(tmp_path, DATASET).write_bytes(b"")
    assert verify(tmp_path, dataset_id=DATASET) == ("it has no entries",)


def _head_of(books: Books, content: bytes) -> Countersigned:
    books.path.write_bytes(content)
    with open_ledger(books.state, books.key) as ledger:
        receipt = ledger.receipt()
    return countersign(receipt, books.coordinator, site_key=books.key.public_key)
