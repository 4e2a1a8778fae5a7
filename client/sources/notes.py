"""The reader of notes: the texts of each patient to one row of token codes.

No list of words is learned from patients: a word's code is its hash, or its place in the public
vocabulary of the study. No text is kept longer than its chunk of the table, only codes are.

Letters of shapes: B patients, T tokens, R rows of a chunk.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from itertools import islice

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.findings import Finding, error, warning
from client.sources.identifiers import mask_identifiers
from client.sources.long_tables import (
    long_columns,
    minute_findings,
    places_in,
    window_findings,
)
from client.sources.numbers import Floats, floats_of
from client.sources.source import GranularityArrays, Reader, Source, stranger_findings
from client.sources.table_chunks import TABLE_SUFFIXES, read_table_chunks
from client.sources.vocabulary import MASKED, words_of
from common.granularities import NotesGranularity

PADDING, UNKNOWN, FIRST_CODE = 0, 1, 2

# The words whose codes are remembered while a table is read.
_REMEMBERED_WORDS = 1 << 16

Codes = NDArray[np.int64]
Note = tuple[float, int, Codes]  # minutes, place in the file, token codes


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
        "tokens_BT" int64, "present_B" bool; and the findings.
    """
    columns, findings = long_columns(source, ("patient_id", "text"), ("minutes",))
    if any(f.severity == "error" for f in findings):
        return absent_notes(granularity, len(source.ids)), findings
    code_of = token_codes(granularity)
    rows: Counter[str] = Counter()
    notes: dict[int, list[Note]] = {}
    for chunk, found in read_table_chunks(source.path, columns):
        findings += found
        if chunk is not None:
            _add(notes, rows, chunk, source, granularity, code_of)
    arrays = absent_notes(granularity, len(source.ids))
    for patient, parts in notes.items():
        codes = np.concatenate([codes for _, _, codes in _first(parts, granularity.max_tokens)])
        rows["long"] += len(codes) > granularity.max_tokens
        codes = codes[: granularity.max_tokens]
        arrays["tokens_BT"][patient, : len(codes)] = codes
    arrays["present_B"] = (arrays["tokens_BT"] != PADDING).any(axis=1)
    rows["present"] = int(arrays["present_B"].sum())
    return arrays, findings + _findings(rows, source, granularity)


def absent_notes(granularity: NotesGranularity, num_patients: int) -> GranularityArrays:
    """The arrays of patients without notes."""
    return {
        "tokens_BT": np.zeros((num_patients, granularity.max_tokens), dtype=np.int64),
        "present_B": np.zeros(num_patients, dtype=np.bool_),
    }


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


def _add(
    notes: dict[int, list[Note]],
    rows: Counter[str],
    chunk: pd.DataFrame,
    source: Source,
    granularity: NotesGranularity,
    code_of: Callable[[str], int],
) -> None:
    """Adds the notes of one chunk to those of their patients, and what its rows were."""
    patient_R = places_in(chunk["patient_id"], source.ids)
    minutes_R, is_used_R = _times(chunk, patient_R >= 0, rows, granularity)
    is_used_R &= chunk["text"].notna().to_numpy()
    max_tokens = granularity.max_tokens
    texts = chunk["text"].tolist()
    for r in np.flatnonzero(is_used_R).tolist():
        text, num_identifiers = mask_identifiers(texts[r])
        rows["notes"] += 1
        rows["identifiers"] += num_identifiers
        # One more than is kept: it tells that there were more.
        words = islice(words_of(text), max_tokens + 1)
        codes = np.fromiter((code_of(word) for word in words), dtype=np.int64)
        if len(codes) == 0:
            continue
        patient = int(patient_R[r])
        parts = notes.setdefault(patient, [])
        parts.append((float(minutes_R[r]), rows["all"] + r, codes))
        if len(parts) % 64 == 0:
            notes[patient] = _first(parts, max_tokens)
    rows["strange"] += int((patient_R < 0).sum())
    rows["all"] += len(chunk)


def _times(
    chunk: pd.DataFrame,
    is_known_R: NDArray[np.bool_],
    rows: Counter[str],
    granularity: NotesGranularity,
) -> tuple[Floats, NDArray[np.bool_]]:
    """The time of each row, infinite where it has none, and which rows are to be used."""
    if "minutes" not in chunk.columns:
        rows["untimed"] += int(is_known_R.sum())
        return np.full(len(chunk), np.inf), is_known_R
    minutes_R, num_text = floats_of(chunk["minutes"].where(is_known_R))
    rows["text"] += num_text
    rows["infinite"] += int(np.isinf(minutes_R).sum())
    is_untimed_R = np.isnan(minutes_R)
    rows["untimed"] += int((is_untimed_R & is_known_R).sum()) - num_text
    start = -np.inf if granularity.start_minutes is None else granularity.start_minutes
    end = np.inf if granularity.end_minutes is None else granularity.end_minutes
    is_inside_R = (minutes_R >= start) & (minutes_R < end)
    rows["inside"] += int(is_inside_R.sum())
    rows["outside"] += int((np.isfinite(minutes_R) & ~is_inside_R).sum())
    is_used_R = is_known_R & (is_inside_R | is_untimed_R)
    return np.where(is_untimed_R, np.inf, minutes_R), is_used_R


def _first(parts: list[Note], max_tokens: int) -> list[Note]:
    """The notes in order, without those that no token is taken from; one more token is kept."""
    ordered = sorted(parts, key=lambda note: note[:2])
    num_before = np.cumsum([0, *(len(codes) for _, _, codes in ordered[:-1])])
    return [note for note, before in zip(ordered, num_before, strict=True) if before <= max_tokens]


def _findings(rows: Counter[str], source: Source, granularity: NotesGranularity) -> list[Finding]:
    file = source.path.name
    findings = stranger_findings(rows["strange"], rows["all"], source.path.name)
    findings += minute_findings(rows["text"], rows["infinite"], file)
    start, end = granularity.start_minutes, granularity.end_minutes
    has_window = start is not None or end is not None
    if rows["untimed"] and (has_window or rows["inside"]):
        found = f"{rows['untimed']} notes without one"
        action = "They come last; whether they lie in the study's window, nobody knows."
        findings.append(warning(f"{file}, column minutes", "a time of every note", found, action))
    low, high = "-inf" if start is None else f"{start:g}", "inf" if end is None else f"{end:g}"
    findings += window_findings(rows["inside"], rows["outside"], f"[{low}, {high})", file)
    if rows["identifiers"]:
        where, expected = f"{file}, column text", "notes that do not say who a patient is"
        found = f"{rows['identifiers']} names, dates or numbers in {rows['notes']} notes"
        if source.identifiers == "refuse":
            findings.append(error(where, expected, found, "Remove them, or let them be masked."))
        else:
            findings.append(warning(where, expected, found, "They are masked: unknown words."))
    if rows["long"]:
        expected = f"notes of at most {granularity.max_tokens} words"
        found = f"{rows['long']} of {rows['present']} patients with more"
        findings.append(warning(file, expected, found, "The first ones are used."))
    return findings
