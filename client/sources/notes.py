"""The reader of notes: the texts of each patient to one row of token codes.

No list of words is learned from patients: a word's code is its hash, or its place in the public
vocabulary of the study. No text is kept longer than its chunk of the table, only codes are.

Letters of shapes: B patients, T tokens.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from itertools import islice

import numpy as np

from client.findings import Finding
from client.sources.notes_pretrained import absent_pretrained, read_pretrained
from client.sources.notes_table import Codes, gather_notes
from client.sources.source import GranularityArrays, Reader, Source
from client.sources.table_chunks import TABLE_SUFFIXES
from client.sources.vocabulary import MASKED, words_of
from common.granularities import NotesGranularity
from common.pretrained import Pretrained

PADDING, UNKNOWN, FIRST_CODE = 0, 1, 2

# The words whose codes are remembered while a table is read.
_REMEMBERED_WORDS = 1 << 16


def read_notes(
    source: Source, granularity: NotesGranularity
) -> tuple[GranularityArrays, list[Finding]]:
    """The first `max_tokens` tokens of each patient's notes, joined in the order of their minutes.

    The table has the columns patient_id and text, and may have minutes. Notes of the same minute
    follow one another as in the file; those without a time come last, in the order of the file.
    The first tokens are kept and not the last: a note of admission says why a patient is here, and
    the study's window, not the length of a text, decides what is too late to be used.

    Guarantees:
        - A row is left-aligned: codes of 1 or more, then 0 to its end.
        - A masked word, an identifier and a word outside of the vocabulary all have the code 1.
        - A note outside of the study's window, or of a stranger, changes nothing.
        - A patient is present whose notes have a token.

    Returns:
        "tokens_BT" int64, "present_B" bool; and the findings. For pretrained weights, what
        `read_pretrained` returns.
    """
    frozen = _frozen(granularity)
    if frozen is not None:
        return read_pretrained(source, granularity, frozen)
    code_of = token_codes(granularity)

    def codes_of(text: str) -> Codes:
        # One more than is kept: it tells that there were more.
        words = islice(words_of(text), granularity.max_tokens + 1)
        return np.fromiter((code_of(word) for word in words), dtype=np.int64)

    gathered = gather_notes(source, granularity, codes_of)
    arrays = absent_notes(granularity, len(source.ids))
    for patient, parts in gathered.codes.items():
        codes = np.concatenate(parts)[: granularity.max_tokens]
        arrays["tokens_BT"][patient, : len(codes)] = codes
    arrays["present_B"] = (arrays["tokens_BT"] != PADDING).any(axis=1)
    return arrays, gathered.findings


def absent_notes(granularity: NotesGranularity, num_patients: int) -> GranularityArrays:
    """The arrays of patients without notes."""
    frozen = _frozen(granularity)
    if frozen is not None:
        return absent_pretrained(frozen, num_patients)
    return {
        "tokens_BT": np.zeros((num_patients, granularity.max_tokens), dtype=np.int64),
        "present_B": np.zeros(num_patients, dtype=np.bool_),
    }


def _frozen(granularity: NotesGranularity) -> Pretrained | None:
    return granularity.pretrained if granularity.encoder == "pretrained" else None


NOTES: Reader[NotesGranularity] = Reader(
    suffixes=TABLE_SUFFIXES, read=read_notes, absent=absent_notes
)


def token_codes(granularity: NotesGranularity) -> Callable[[str], int]:
    """The code of a word: 1 where it is masked or unknown, from 2 its bucket or vocabulary place.

    The hash is BLAKE2b: the same on every machine and in every process, unlike Python's own, and
    spread evenly for words that differ in one letter, unlike a checksum.
    """
    masked = {MASKED, *granularity.masked_words}
    places = {word: FIRST_CODE + i for i, word in enumerate(granularity.vocabulary)}
    num_buckets = granularity.num_buckets

    def code_of(word: str) -> int:
        if word in masked:
            return UNKNOWN
        if places:
            return places.get(word, UNKNOWN)
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return FIRST_CODE + int.from_bytes(digest, "big") % num_buckets

    return lru_cache(maxsize=_REMEMBERED_WORDS)(code_of)
