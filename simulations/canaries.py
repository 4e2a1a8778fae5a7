"""Canaries: values that stand nowhere else, and the search for them in whatever came out.

A word or number of this kind is planted in a copy of a hospital's data (`simulations.planting`); if
it is found outside of that copy, something told of a patient. What is told of a find is its place
and its form, and never the value.

What the search cannot see: a value that was rounded to few digits, compressed or encrypted.
"""

import base64
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_WORD_LETTERS = 16
# Of a word that was cut off, this much at either end is enough.
_PART_LETTERS = 10
_ANCHOR = 8  # bytes that every form has at least, by which it is looked for
_TABLE_BITS = 22
_DIGITS = 12  # of a planted number, all significant
# Below, updates, scores and probabilities have values of their own that may be equal in float32.
_SMALLEST_ALONE = 8.0

_DECIMAL = "decimal text"
_ROUNDED = "decimal text of float32"

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A canary that was found where no patient's value may be.

    Attributes:
        where: the file or message that holds it.
        form: how it is written there: text, decimal text, UTF-16, hex, base64, float64, float32.
        planted: where it was planted: a file, and a column or field.
    """

    where: str
    form: str
    planted: str


@dataclass(kw_only=True)
class Canaries:
    """Values that stand nowhere else, by what they are.

    Guarantees:
        - No two values are equal, and of the words none is in another.
        - The same seed gives the same values.

    Attributes:
        words: where each word is planted.
        numbers: where each number is planted.
    """

    seed: int
    words: dict[str, str] = field(default_factory=dict)
    numbers: dict[float, str] = field(default_factory=dict)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __len__(self) -> int:
        return len(self.words) + len(self.numbers)

    def word(self, planted: str) -> str:
        """A new word of 16 small letters and digits, the first a letter."""
        letters = string.ascii_lowercase
        rest = self._random.choices(letters + string.digits, k=_WORD_LETTERS - 1)
        word = self._random.choice(letters) + "".join(rest)
        self.words[word] = planted
        return word

    def number(self, near: float, low: float, high: float, planted: str) -> str:
        """A new number in [low, high], within a 20th of the range of `near`, as text."""
        reach = (high - low) / 20
        start, end = max(low, near - reach), min(high, near + reach)
        if start >= end:  # `near` is far outside
            start, end = low, high
        while True:
            value = float(f"{self._random.uniform(start, end):.{_DIGITS}g}")
            if value not in self.numbers and low <= value <= high:
                self.numbers[value] = planted
                return np.format_float_positional(value, trim="-")


class Search:
    """The search for canaries in bytes and arrays.

    Guarantees:
        - A word is found as UTF-8 and UTF-16, in small and capital letters, as hex in both cases,
          and as base64 wherever it begins; a part of ten letters at either end as text.
        - A number is found as text to ten digits or more, as float64 in both orders of bytes, as
          that in hex and base64, and as float32 in an array.
        - Two numbers that follow each other are found as float32 in any bytes. A single one is not
          looked for there: four bytes happen by chance in a megabyte.
    """

    def __init__(self, canaries: Canaries) -> None:
        forms: list[tuple[bytes, str, str]] = []
        for word, planted in canaries.words.items():
            forms += [(data, form, planted) for data, form in _forms_of_word(word)]
        for value, planted in canaries.numbers.items():
            forms += [(data, form, planted) for data, form in _forms_of_number(value)]
        self._by_anchor: dict[int, list[tuple[bytes, str, str]]] = {}
        for data, form, planted in forms:
            anchor = int.from_bytes(data[:_ANCHOR], "little")
            self._by_anchor.setdefault(anchor, []).append((data, form, planted))
        self._anchors = _Words(np.array(sorted(self._by_anchor), dtype=np.uint64))
        self._numbers = np.array(sorted(canaries.numbers), dtype=np.float64)
        self._planted = [canaries.numbers[float(value)] for value in self._numbers]
        single = self._numbers.astype(np.float32)
        self._singles = [
            _Words(np.unique(single.astype(f"{order}f4").view("<u4")).astype(np.uint64))
            for order in "<>"
        ]

    def in_bytes(self, data: bytes, where: str) -> list[Hit]:
        """What is found in `data`, each canary and form once."""
        found = {
            Hit(where=where, form=form, planted=planted)
            for place in self._places(data)
            for content, form, planted in self._by_anchor[_anchor_at(data, place)]
            if data.startswith(content, place) and _is_whole(data, place, content, form)
        }
        if self._has_pair(data):
            found.add(Hit(where=where, form="float32", planted="two numbers in a row"))
        return sorted(found, key=lambda hit: (hit.planted, hit.form))

    def in_array(self, values: NDArray[np.floating], where: str) -> list[Hit]:
        """What is found among the elements of an array: as they are, or rounded to float32."""
        flat = values.astype(np.float64).ravel()
        same = np.isin(self._numbers, flat)
        single = np.isin(self._numbers.astype(np.float32), flat.astype(np.float32))
        single &= np.abs(self._numbers) >= _SMALLEST_ALONE
        found = {(self._planted[i], "float64") for i in np.flatnonzero(same)}
        found |= {(self._planted[i], "float32") for i in np.flatnonzero(single & ~same)}
        return [Hit(where=where, form=form, planted=planted) for planted, form in sorted(found)]

    def in_files(self, folder: Path, *, without: Sequence[Path] = ()) -> Iterator[Hit]:
        """What is found in the files below `folder`, and in their names.

        Links are not followed: what they lead to is searched where it is, or left out there.

        Args:
            without: files and folders that are meant to hold patients' values.
        """
        for path in files_below(folder, without=without):
            where = str(path.relative_to(folder))
            yield from self.in_bytes(where.encode(errors="surrogateescape"), "the name of a file")
            yield from self.in_bytes(path.read_bytes(), where)

    def _places(self, data: bytes) -> Iterator[int]:
        """Where one of the anchors stands."""
        for shift in range(min(_ANCHOR, max(0, len(data) - _ANCHOR + 1))):
            num_words = (len(data) - shift) // _ANCHOR
            words = np.frombuffer(data, dtype="<u8", count=num_words, offset=shift)
            for place in np.flatnonzero(self._anchors.has(words)):
                yield int(place) * _ANCHOR + shift

    def _has_pair(self, data: bytes) -> bool:
        """Whether two numbers stand side by side as float32."""
        for shift in range(min(4, max(0, len(data) - 3))):
            num_words = (len(data) - shift) // 4
            words = np.frombuffer(data, dtype="<u4", count=num_words, offset=shift)
            for singles in self._singles:
                is_number = singles.has(words.astype(np.uint64))
                is_pair = is_number[1:] & is_number[:-1] & (words[1:] != words[:-1])
                if is_pair.any():
                    return True
        return False


class _Words:
    """A set of 64-bit words, of which most others are told apart by one look into a table."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._sorted = words
        self._table = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
        self._table[_hashed(words)] = True

    def has(self, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Of each of these words, whether it is in the set."""
        is_in = self._table[_hashed(words)]
        likely = np.flatnonzero(is_in)
        if len(likely):
            last = len(self._sorted) - 1
            found = np.minimum(np.searchsorted(self._sorted, words[likely]), last)
            is_in[likely] = self._sorted[found] == words[likely]
        return is_in


def _hashed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = words * np.uint64(0x9E3779B97F4A7C15)
    hashed: NDArray[np.uint64] = mixed >> np.uint64(64 - _TABLE_BITS)
    return hashed


def files_below(folder: Path, *, without: Sequence[Path] = ()) -> Iterator[Path]:
    """The regular files below `folder`, in order; links and what is in `without` are left out."""
    for path in sorted(folder.iterdir()):
        if path in without or path.is_symlink():
            continue
        if path.is_dir():
            yield from files_below(path, without=without)
        elif path.is_file():
            yield path


def _forms_of_word(word: str) -> Iterator[tuple[bytes, str]]:
    for letters in (word, word.upper()):
        yield letters[:_PART_LETTERS].encode(), "text"
        yield letters[-_PART_LETTERS:].encode(), "text"
        yield letters.encode("utf-16-le"), "UTF-16"
        yield letters.encode("utf-16-be"), "UTF-16"
    yield from _encoded(word.encode())


def _forms_of_number(value: float) -> Iterator[tuple[bytes, str]]:
    text = np.format_float_positional(value, trim="-")
    rounded = np.float32(value)
    # Ten digits, behind which a program may have written others (the last one rounded).
    head = _first_digits(text, _DIGITS - 2)
    yield head.encode(), _DECIMAL
    yield head.encode("utf-16-le"), "UTF-16"
    yield head.encode("utf-16-be"), "UTF-16"
    for rounded_text in (np.format_float_positional(rounded, trim="-"), repr(float(rounded))):
        if len(rounded_text) >= _ANCHOR:
            yield rounded_text.encode(), _ROUNDED
    for order in "<>":
        data = np.array(value, dtype=f"{order}f8").tobytes()
        yield data, "float64"
        yield from _encoded(data)


def _encoded(data: bytes) -> Iterator[tuple[bytes, str]]:
    yield data.hex().encode(), "hex"
    yield data.hex().upper().encode(), "hex"
    for num_before in range(3):
        # What the bytes before and behind have no part in.
        code = base64.b64encode(bytes(num_before) + data)
        first = -(-num_before * 8 // 6)
        last = (num_before + len(data)) * 8 // 6
        yield code[first:last], "base64"
        yield code[first:last].replace(b"+", b"-").replace(b"/", b"_"), "base64"


def _first_digits(text: str, num_digits: int) -> str:
    """The beginning of a decimal text with this many significant digits."""
    seen = 0
    for place, letter in enumerate(text):
        seen += letter.isdigit() and (seen > 0 or letter != "0")
        if seen == num_digits and place + 1 >= _ANCHOR:
            return text[: place + 1]
    return text.ljust(_ANCHOR, "0")


def _is_whole(data: bytes, place: int, content: bytes, form: str) -> bool:
    """Whether decimal text is that number, and no part of another that is longer."""
    if form not in (_DECIMAL, _ROUNDED):
        return True
    before = data[max(0, place - 1) : place]
    end = place + len(content)
    goes_on = form == _ROUNDED and data[end : end + 1].isdigit()
    return not (before.isdigit() or before == b"." or goes_on)


def _anchor_at(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + _ANCHOR], "little")
