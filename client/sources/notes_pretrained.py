"""The reader of notes for frozen, pretrained weights: the texts of a patient to one embedding.

Texts are cut into tokens without torch; the weights are loaded where there is something to embed
that was not embedded before.

Letters of shapes: B patients, E width of an embedding.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from client.findings import Finding, error
from client.sources.embedding_store import Floats32, Windows, embeddings_of
from client.sources.notes_table import Codes, gather_notes
from client.sources.pretrained_folder import FolderError, folder_findings
from client.sources.pretrained_tokens import codes_by, frame_of, tokenizer_in, windows_of
from client.sources.source import GranularityArrays, Source, Weights
from common.granularities import NotesGranularity
from common.pretrained import Pretrained

# What decides the windows of a patient, and so the embedding.
_READ_BY = {"pretrained", "max_tokens", "masked_words", "start_minutes", "end_minutes"}


def read_pretrained(
    source: Source, granularity: NotesGranularity, pretrained: Pretrained
) -> tuple[GranularityArrays, list[Finding]]:
    """One embedding for each patient, of the first `max_tokens` tokens of their notes.

    Notes go into windows in their order, as many as fit; one that is longer than a window is cut.
    The embedding is the mean of those of the windows, weighted by their tokens.

    Guarantees:
        - An embedding depends on the patient's own notes and on the weights alone.
        - A masked word and an identifier never reach the weights.
        - Nothing is downloaded, and no code of the folder is run.
        - A patient is present whose notes have a token; the embedding of others is 0.
        - Studies that read the same texts in other ways do not undo each other's embeddings.

    Returns:
        "embedding_BE" float32, "present_B" bool; and the findings.
    """
    weights = source.weights
    folder = None if weights is None else weights.folder
    findings = folder_findings(folder, source.granularity, pretrained)
    if weights is None or findings:
        return absent_pretrained(pretrained, len(source.ids)), findings
    try:
        return _read(source, granularity, weights, pretrained)
    except FolderError as fault:
        where = f"site.toml, data.pretrained.{source.granularity}"
        found = error(where, fault.expected, fault.found, fault.action)
        return absent_pretrained(pretrained, len(source.ids)), [found]


def absent_pretrained(pretrained: Pretrained, num_patients: int) -> GranularityArrays:
    """The arrays of patients without notes."""
    return {
        "embedding_BE": np.zeros((num_patients, pretrained.width), dtype=np.float32),
        "present_B": np.zeros(num_patients, dtype=np.bool_),
    }


def _read(
    source: Source, granularity: NotesGranularity, weights: Weights, pretrained: Pretrained
) -> tuple[GranularityArrays, list[Finding]]:
    arrays = absent_pretrained(pretrained, len(source.ids))
    tokenizer = tokenizer_in(weights.folder)
    codes_of = codes_by(tokenizer, granularity.masked_words)
    gathered = gather_notes(source, granularity, codes_of, noun="tokens")
    patients = sorted(gathered.codes)
    size = pretrained.window_tokens
    frame = frame_of(tokenizer, size)
    windows_B = [
        windows_of(_first(gathered.codes[b], granularity.max_tokens), size=size, frame=frame)
        for b in patients
    ]

    def embed(some: Sequence[Windows]) -> Floats32:
        # Torch is slow to load, and most checks of a folder have nothing new to embed.
        from client.frozen_encoder import embed_windows

        return embed_windows(some, weights.folder, pretrained, device=weights.device)

    if not any(f.severity == "error" for f in gathered.findings):
        path = weights.embeddings_dir / f"{source.granularity}-{_name(granularity)}.safetensors"
        width = pretrained.width
        arrays["embedding_BE"][patients] = embeddings_of(windows_B, path, width=width, embed=embed)
        arrays["present_B"][patients] = True
    return arrays, gathered.findings


def _name(granularity: NotesGranularity) -> str:
    """Short for the weights and for what they are given to read: a file knows no other texts."""
    read = granularity.model_dump_json(include=_READ_BY)
    return hashlib.sha256(read.encode()).hexdigest()[:16]


def _first(notes: Sequence[Codes], max_tokens: int) -> list[Codes]:
    """The notes without what lies behind the first `max_tokens` tokens."""
    befores = np.cumsum([0, *map(len, notes)])
    cut = [
        note[: max(max_tokens - before, 0)] for note, before in zip(notes, befores, strict=False)
    ]
    return [note for note in cut if len(note)]
