"""Whether a ledger is what it was: pure reading, and no trust in whoever keeps the files.

Trusted are the site's public key and the last head that both sides signed, and nothing else.

What is found without a countersigned head: every changed, dropped, repeated or moved entry, and a
chain that was hashed anew after an edit (it is not signed by the site's key); an older copy of the
ledger whose sealed answers are still there. What cannot be found without it: an end that was cut
off at an entry together with its sealed answers, which is an older state of the ledger, true in
itself; and anything at all that was written by someone who has the site's private key. What cannot
be found with it: the loss of entries after that head. They were never acknowledged; if an answer
was sent under them, the coordinator has its receipt, and the next head that it countersigns is not
in the chain.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.ledger.books import Books, file_of
from client.ledger.entries import Chain, ledger_path, read_chain, sealed_folder
from client.ledger.sealed import SealedAnswers
from common.errors import SiteConfigError
from common.receipts import Countersigned
from common.signing import is_countersigned


def chain_of(state_dir: Path, dataset_id: str) -> Chain:
    """The chain of a data set's ledger, which is read and not opened; empty if there is none.

    Raises:
        SiteConfigError: there is one, and it cannot be read.
    """
    path = ledger_path(state_dir, dataset_id)
    try:
        return read_chain(path.read_bytes())
    except FileNotFoundError:
        return read_chain(b"")
    except OSError as fault:
        raise SiteConfigError(
            f"Expected a readable ledger at {path}, found {type(fault).__name__}. Check its "
            "permissions."
        ) from None


def verify(
    state_dir: Path,
    *,
    dataset_id: str,
    public_key: str | None = None,
    last_countersigned: Countersigned | None = None,
    chain: Chain | None = None,
) -> tuple[str, ...]:
    """What is wrong with the ledger of a data set; nothing if it is whole. Changes nothing.

    Guarantees:
        - Every edit of the file that reaches back to the last countersigned head is found.
        - A sealed answer that was changed, or that no entry explains, is found; one that was
          removed is not: a hospital may do so after a run.

    Args:
        public_key: of the site, where it is known from elsewhere; without it the one of the
            ledger's first entry is taken.
        last_countersigned: as the coordinator, or an auditor, holds it.
        chain: of the ledger, where it was read already.

    Raises:
        SiteConfigError: the ledger cannot be read.
    """
    path = ledger_path(state_dir, dataset_id)
    if not path.is_file():
        return (f"there is no ledger at {path}",)
    chain = chain or chain_of(state_dir, dataset_id)
    faults = [*chain.faults]
    if chain.torn:
        faults.append(f"the last line is torn after {len(chain.torn)} bytes (a power cut?)")
    if not chain.entries:
        return (*faults, "it has no entries")
    own_key = str(chain.entries[0].fields.get("public_key"))
    if public_key not in (None, own_key):
        faults.append("it was opened with another key than the site's")
    faults += _head_faults(chain, last_countersigned, public_key or own_key)
    books, book_faults = readable_books(chain)
    faults += book_faults
    for head in books.acknowledged:
        faults += _head_faults(chain, head, own_key)
    try:
        faults += _head_faults(chain, read_countersigned(state_dir, dataset_id), own_key)
    except SiteConfigError as fault:
        faults.append(str(fault))
    answers = SealedAnswers(sealed_folder(state_dir, dataset_id), durable=False)
    changed = [seal.file for seal in books.seals.values() if answers.is_changed(seal)]
    faults += [f"the sealed answer {name} was changed" for name in changed]
    return (*faults, *orphans(answers, books))


def orphans(answers: SealedAnswers, books: Books) -> tuple[str, ...]:
    """Sealed answers that no reservation explains: the ledger is older than they are."""
    known = [file_of(reservation.entry) for reservation in books.reservations]
    return tuple(
        f"the sealed answer {name} is under no reservation" for name in answers.beyond(known)
    )


def countersigned_path(state_dir: Path, dataset_id: str) -> Path:
    """Where a site keeps the last countersigned head: beside the ledger."""
    return ledger_path(state_dir, dataset_id).with_suffix(".head.json")


def read_countersigned(state_dir: Path, dataset_id: str) -> Countersigned | None:
    """The last countersigned head that the site has kept, or None.

    Raises:
        SiteConfigError: the file is not what the site wrote.
    """
    path = countersigned_path(state_dir, dataset_id)
    try:
        return Countersigned(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise SiteConfigError(
            f"Expected the last countersigned head at {path}, found other content. Restore the "
            "whole state folder from its newest copy."
        ) from None


def _head_faults(chain: Chain, head: Countersigned | None, site_key: str) -> list[str]:
    if head is None:
        return []
    if not is_countersigned(head, site_key=site_key):
        return [f"the countersigned head of entry {head.seq} has a false signature"]
    if not chain.holds(head.seq, head.digest):
        return [f"entry {head.seq}, which both sides signed, is not in the ledger"]
    return []


def require_sound(
    chain: Chain, state_dir: Path, *, dataset_id: str, identity: Mapping[str, Any]
) -> Books:
    """The books of a chain that a site may go on writing.

    Args:
        identity: the fields with which the ledger must have been opened.

    Raises:
        SiteConfigError: the chain is broken, lacks what both sides have signed, or was opened with
            another identity.
    """
    path, kept = ledger_path(state_dir, dataset_id), read_countersigned(state_dir, dataset_id)
    faults = list(chain.faults)
    books, book_faults = readable_books(chain)
    if chain.entries and not faults:
        found = {**chain.entries[0].fields, "cohort_size": books.cohort_size}
        _check_identity(found, identity, path=path)
    faults += _head_faults(chain, kept, identity["public_key"])
    faults += book_faults
    if not faults:
        answers = SealedAnswers(sealed_folder(state_dir, dataset_id), durable=False)
        faults += orphans(answers, books)
    if faults:
        raise SiteConfigError(
            f"Expected a whole ledger, found: {'; '.join(faults[:3])} ({path}). Nothing was "
            "changed. Restore the newest copy of the whole state folder; without one, what was "
            "spent on these data is not known, and they must not be used again."
        )
    return books


def readable_books(chain: Chain) -> tuple[Books, list[str]]:
    """The books of a chain up to the first entry that cannot be booked, and what is wrong there."""
    books = Books()
    for entry in chain.entries:
        try:
            books.add(entry)
        except ValueError as fault:
            return books, [f"entry {entry.seq} cannot be booked: {fault}"]
    return books, []


def _check_identity(found: Mapping[str, Any], expected: Mapping[str, Any], *, path: Path) -> None:
    differing = [name for name, value in expected.items() if found.get(name) != value]
    if None in (found.get("cohort_size"), expected["cohort_size"]):
        # Nobody has decided it yet, or a policy without private studies does not speak of it.
        differing = [name for name in differing if name != "cohort_size"]
    if differing:
        told = ", ".join(
            f"{name} = {found.get(name)!r} (now {expected[name]!r})" for name in differing
        )
        raise SiteConfigError(
            f"Expected the ledger as it was opened, found it with {told} ({path}). These never "
            "change: restore site.toml and the key of the state folder, or name another data set."
        )
