"""Words: how a text is cut into them, and a vocabulary of public words for a study.

A vocabulary must come from public text (a textbook, an ontology, abstracts), never from patients'
notes: a list of the words that a hospital writes would say who its patients are.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common.errors import DataError

# What stands where an identifier was masked: a character that no word contains.
MASKED = "\ufffc"

_WORD = re.compile(rf"{MASKED}|[^\W_]+")
_PLAIN_WORD = re.compile(r"[a-z0-9]+")


def words_of(text: str) -> Iterator[str]:
    """The lower-cased runs of letters and digits in a text, in order; `MASKED` is one by itself.

    Unicode's compatibility forms are made one first (NFKC), so that how a text was typed or scanned
    does not matter.

    >>> list(words_of("BP 120/80, no ﬁbrillation (ECG)"))
    ['bp', '120', '80', 'no', 'fibrillation', 'ecg']
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Folding can take a letter apart again.
    return (match[0] for match in _WORD.finditer(unicodedata.normalize("NFKC", folded)))


def vocabulary_of(path: Path, size: int, *, min_count: int = 2) -> list[str]:
    """The most frequent words of a public text, for the `vocabulary` of a notes granularity.

    Guarantees:
        - At most `size` words, most frequent first, words of equal frequency in the alphabet's
          order; each stands in the text `min_count` times or more.
        - Every word is of the form that a study takes: of a to z and 0 to 9.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or has no such word.
    """
    counts: Counter[str] = Counter()
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                counts.update(word for word in words_of(line) if _PLAIN_WORD.fullmatch(word))
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(
            f"Expected a readable UTF-8 text, found {type(fault).__name__} ({path}). "
            "Check the path and the encoding."
        ) from fault
    frequent = [word for word, count in counts.items() if count >= min_count]
    if not frequent:
        raise DataError(
            f"Expected words of a to z and 0 to 9 that occur at least {min_count} times, found "
            f"none ({path}). Take a longer text or a lower minimum count."
        )
    return sorted(frequent, key=lambda word: (-counts[word], word))[:size]
