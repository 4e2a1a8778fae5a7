"""Seeds by hash: the same everywhere and for ever, and different for different parts."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from common.seeds import seed_of

parts = st.lists(st.integers() | st.text(st.characters(codec="utf-8", exclude_characters="\x1f")))


@given(parts)
def test_a_seed_has_63_bits(some: list[str | int]) -> None:
    assert 0 <= seed_of(*some) < 2**63


@given(parts, parts)
def test_different_parts_give_different_seeds(
    some: list[str | int], others: list[str | int]
) -> None:
    assert (seed_of(*some) == seed_of(*others)) == (some == others)


def test_a_number_and_its_digits_differ() -> None:
    assert seed_of(1) != seed_of("1")
    assert seed_of("a", "b") != seed_of("ab")
    assert seed_of("a", "b") != seed_of("b", "a")


def test_seeds_are_those_of_earlier_versions() -> None:
    # SHA-256 of "int:0 str:cleveland int:3" joined by U+001F, first 64 bits without the last one.
    digest = hashlib.sha256(b"int:0\x1fstr:cleveland\x1fint:3").hexdigest()
    assert seed_of(0, "cleveland", 3) == int(digest[:16], 16) // 2
