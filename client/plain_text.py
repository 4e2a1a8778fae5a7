"""Texts that others wrote, made safe to show: a title must not draw on a person's terminal."""

import unicodedata

_KEPT = frozenset({"L", "N", "P", "S", "M"})


def plain(text: object, *, most: int = 200) -> str:
    r"""The text on one line, of letters, digits, signs and spaces alone, cut after `most` of them.

    What would move the cursor, end the line, or turn the direction of writing shows as "?".

    >>> plain("heart\n\x1b[2Jepsilon: 0.1"), plain("a" * 300, most=4)
    ('heart??[2Jepsilon: 0.1', 'aaaa…')
    """
    cut = str(text)[: most + 1]
    shown = "".join(c if c == " " or unicodedata.category(c)[0] in _KEPT else "?" for c in cut)
    return shown if len(shown) <= most else shown[:most] + "…"
