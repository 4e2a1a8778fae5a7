"""A table of notes: which belong to a patient, in which order, and what is wrong with them.

No text is kept longer than its chunk of the table, only the codes that a reader makes of it.

Letters of shapes: R rows of a chunk.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
from client.sources.source import Source, stranger_findings
from client.sources.table_chunks import read_table_chunks
from common.granularities import NotesGranularity

Codes = NDArray[np.int64]
Note = tuple[float, int, Codes]  # minutes, place in the file, token codes


@dataclass(frozen=True, kw_only=True)
class GatheredNotes:
    """The notes of a table.

    Attributes:
        codes: of each patient, by place on axis B, the codes of the notes in order, none of them
            empty; those that begin behind `max_tokens` codes are not there.
        findings: what is wrong with the table; with an error among them the codes may be anything.
    """

    codes: Mapping[int, list[Codes]]
    findings: list[Finding]


def gather_notes(
    source: Source,
    granularity: NotesGranularity,
    codes_of: Callable[[str], Codes],
    *,
    noun: str = "words",
) -> GatheredNotes:
    """The codes of each patient's notes, in the order of their minutes.

    Args:
        codes_of: the codes of a text in which identifiers are masked; what is behind the first
            max_tokens + 1 may be left out.
        noun: what one code stands for.
    """
    columns, findings = long_columns(source, ("patient_id", "text"), ("minutes",))
    if any(f.severity == "error" for f in findings):
        return GatheredNotes(codes={}, findings=findings)
    rows: Counter[str] = Counter()
    notes: dict[int, list[Note]] = {}
    for chunk, found in read_table_chunks(source.path, columns):
        findings += found
        if chunk is not None:
            _add(notes, rows, chunk, source, granularity, codes_of)
    gathered = {
        patient: [codes for _, _, codes in _first(parts, granularity.max_tokens)]
        for patient, parts in notes.items()
    }
    lengths = [sum(map(len, parts)) for parts in gathered.values()]
    rows["present"] = len(lengths)
    rows["long"] = sum(length > granularity.max_tokens for length in lengths)
    findings = findings + _findings(rows, source, granularity, noun)
    return GatheredNotes(codes=gathered, findings=findings)


def _add(
    notes: dict[int, list[Note]],
    rows: Counter[str],
    chunk: pd.DataFrame,
    source: Source,
    granularity: NotesGranularity,
    codes_of: Callable[[str], Codes],
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
        codes = codes_of(text)
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


def _findings(
    rows: Counter[str], source: Source, granularity: NotesGranularity, noun: str
) -> list[Finding]:
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
        expected = f"notes of at most {granularity.max_tokens} {noun}"
        found = f"{rows['long']} of {rows['present']} patients with more"
        findings.append(warning(file, expected, found, "The first ones are used."))
    return findings
