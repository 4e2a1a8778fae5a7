"""What a receipt and a countersigned head may hold: anything else is none."""

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest

from common.receipts import Countersigned, Receipt

DIGEST, SIGNATURE = "ab" * 32, "cd" * 64
RECEIPT = Receipt(seq=0, digest=DIGEST, key=DIGEST, signature=SIGNATURE)
TOLD = replace(RECEIPT, epsilon=0.0, delta=1e-5)
HEAD = Countersigned(
    seq=0, digest=DIGEST, site_signature=SIGNATURE, key=DIGEST, signature=SIGNATURE
)


@pytest.mark.parametrize("whole", [RECEIPT, HEAD], ids=["receipt", "head"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seq", -1),
        ("seq", True),
        ("seq", 1.0),
        ("digest", DIGEST[:-1]),
        ("digest", DIGEST.upper()),
        ("digest", DIGEST + "\n"),
        ("key", DIGEST + "0"),
        ("signature", SIGNATURE[:-1]),
        ("signature", "x" * 128),
    ],
)
def test_a_field_of_another_form_is_refused(whole: Any, name: str, value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(whole, **{name: value})


def test_a_head_without_the_sites_signature_is_refused() -> None:
    with pytest.raises(ValueError, match="128 hex digits"):
        replace(HEAD, site_signature="")


@pytest.mark.parametrize(
    "cost",
    [
        {"epsilon": None},
        {"delta": None},
        {"epsilon": -1e-9},
        {"epsilon": inf},
        {"epsilon": nan},
        {"epsilon": 1},
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": nan},
        {"delta": 0},
    ],
    ids=str,
)
def test_a_cost_that_is_no_bound_is_refused(cost: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(TOLD, **cost)


def test_a_first_entry_and_a_cost_of_nothing_are_told() -> None:
    told = replace(RECEIPT, seq=0, epsilon=0.0, delta=1e-5)
    assert (told.seq, told.epsilon, told.delta) == (0, 0.0, 1e-5)
    assert replace(HEAD, seq=0) == HEAD
