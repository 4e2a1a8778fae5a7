"""Texts as a pretrained tokenizer cuts them, and the windows in which they are read."""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from client.sources.notes_table import Codes
from client.sources.pretrained_folder import TOKENIZER, FolderError
from client.sources.vocabulary import MASKED, words_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INSTALL = "Install them on this computer: pip install 'wardround[text]'."

_WORD = re.compile(r"[^\W_]+")
# What different tokenizers call a word that nobody knows.
_UNKNOWN = ("[UNK]", "<unk>", "[MASK]", "<mask>")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The special tokens before and behind a text, as BERT's [CLS] and [SEP]."""

    before: Codes
    behind: Codes


def tokenizer_in(folder: Path) -> "Tokenizer":
    """The tokenizer of a folder of weights, which cuts and pads nothing by itself.

    Raises:
        FolderError: its file cannot be read, or the library is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        found = "one that is not installed"
        raise FolderError("the libraries of pretrained weights", found, INSTALL) from None
    try:
        tokenizer = Tokenizer.from_str((folder / TOKENIZER).read_text(encoding="utf-8"))
    # The library raises bare exceptions; its text might quote the file.
    except Exception as fault:  # noqa: BLE001
        found = type(fault).__name__
        raise FolderError(f"a tokenizer in {TOKENIZER}", found, "Copy it again.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # What reads like a special token in a note is no more than letters.
    tokenizer.encode_special_tokens = True
    return tokenizer


def codes_by(tokenizer: "Tokenizer", masked_words: Collection[str]) -> Callable[[str], Codes]:
    """Cuts a text, in which `MASKED` stands for identifiers, into tokens without special ones.

    Guarantees:
        - Neither a masked word, in whatever case it is written, nor what stood at `MASKED` has a
          token of its own: it becomes the unknown one, or none where the tokenizer has none.

    Raises:
        FolderError: by what it returns, where the tokenizer cannot cut a text.
    """
    masked = frozenset(masked_words)
    unknown = [code for code in map(tokenizer.token_to_id, _UNKNOWN) if code is not None][:1]

    def without_masked(match: re.Match[str]) -> str:
        return MASKED if any(word in masked for word in words_of(match[0])) else match[0]

    def codes_of(text: str) -> Codes:
        plain = _WORD.sub(without_masked, unicodedata.normalize("NFKC", text))
        codes: list[int] = []
        for n, part in enumerate(plain.split(MASKED)):
            codes += unknown if n else []
            codes += _encoded(tokenizer, part)
        return np.array(codes, dtype=np.int64)

    return codes_of


def _encoded(tokenizer: "Tokenizer", text: str, *, is_framed: bool = False) -> list[int]:
    # Half of a pair of surrogates, which a damaged table may hold, is no text to the library.
    valid = text.encode("utf-8", "replace").decode("utf-8")
    try:
        codes: list[int] = tokenizer.encode(valid, add_special_tokens=is_framed).ids
    # A bare one again, as of a vocabulary that lacks its own unknown token.
    except Exception as fault:  # noqa: BLE001
        expected, found = f"a {TOKENIZER} that reads any text", type(fault).__name__
        raise FolderError(expected, found, "Take another tokenizer.") from None
    return codes


def frame_of(tokenizer: "Tokenizer", size: int) -> Frame:
    """The special tokens that the tokenizer puts around every text.

    Raises:
        FolderError: they leave no room in a window of `size` tokens, or it cannot cut a text.
    """
    bare, framed = _encoded(tokenizer, "a"), _encoded(tokenizer, "a", is_framed=True)
    starts = range(len(framed) - len(bare) + 1)
    start = next((i for i in starts if framed[i : i + len(bare)] == bare), 0)
    before, behind = framed[:start], framed[start + len(bare) :]
    if len(before) + len(behind) >= size:
        expected, found = f"a window of {size} tokens", f"{len(framed)} around a letter"
        raise FolderError(expected, found, "Take another tokenizer.")
    return Frame(before=np.array(before, np.int64), behind=np.array(behind, np.int64))


def windows_of(notes: Sequence[Codes], *, size: int, frame: Frame) -> list[Codes]:
    """The notes in windows of at most `size` tokens, each with its frame.

    A note goes on in the window of the one before, where there is room for all of it; one that is
    longer than a window is cut. Between two notes stands what stands behind a text.

    >>> frame = Frame(before=np.array([9]), behind=np.array([8]))
    >>> notes = [np.array([1, 2]), np.array([3]), np.array([4, 5, 6, 7, 1])]
    >>> [window.tolist() for window in windows_of(notes, size=6, frame=frame)]
    [[9, 1, 2, 8, 3, 8], [9, 4, 5, 6, 7, 8], [9, 1, 8]]
    """
    room = size - len(frame.before) - len(frame.behind)
    pieces = [note[i : i + room] for note in notes for i in range(0, len(note), room)]
    windows: list[Codes] = []
    inside = np.zeros(0, dtype=np.int64)
    for piece in pieces:
        joined = np.concatenate([inside, frame.behind, piece]) if len(inside) else piece
        if len(inside) and len(joined) > room:
            windows.append(np.concatenate([frame.before, inside, frame.behind]))
            joined = piece
        inside = joined
    if len(inside):
        windows.append(np.concatenate([frame.before, inside, frame.behind]))
    return windows
