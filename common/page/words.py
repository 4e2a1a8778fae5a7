"""Plain words for a page: counts, sizes, lists of names, spans of rounds."""


def bytes_text(count: float) -> str:
    """A size that people can read.

    >>> bytes_text(812), bytes_text(2_153), bytes_text(4_200_000)
    ('812 B', '2.2 kB', '4.2 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def size_text(value: float) -> str:
    """A number of any size in at most four digits.

    >>> size_text(0.04567), size_text(1234.5), size_text(0.0)
    ('0.0457', '1,234', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def several(count: int, noun: str) -> str:
    """A count with its noun.

    >>> several(1, "round"), several(3, "hospital")
    ('1 round', '3 hospitals')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: list[str], *, most: int = 8) -> str:
    """Names in a sentence, not more than `most` of them.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], most=2)
    ('a, b and c', 'a, b and 1 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def rounds_text(rounds: list[int]) -> str:
    """Round numbers with runs of neighbours joined.

    >>> rounds_text([4, 1, 2, 3, 7, 7])
    '1–4, 7'
    """
    spans: list[list[int]] = []
    for number in sorted(set(rounds)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans)
