"""The known answers: 44 trainings by three accountants, between a bound from below and tolerances.

A third of the rows is computed anew by Opacus; all of them where `WARDROUND_HYPOTHESIS` is "full".
"""

import json
import os
from typing import Any

import pytest

from common.privacy.accounting import epsilon_of, second_opinion
from tests.golden.make_epsilon_table import ROWS, TABLE, charges_of

TABLE_ROWS: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
IS_FULL = os.environ.get("WARDROUND_HYPOTHESIS") == "full"
COMPUTED_ANEW = TABLE_ROWS if IS_FULL else TABLE_ROWS[::3]


def name_of(row: dict[str, Any]) -> str:
    return "-".join(f"{row[key]:g}" for key in ("n", "batch", "steps", "sigma", "delta"))


def tolerance(row: dict[str, Any]) -> float:
    return max(0.02 * float(row["optimistic"]), 0.01)


def test_the_table_has_more_than_forty_rows_and_every_kind_of_hospital() -> None:
    assert len(TABLE_ROWS) >= 40
    keys = ("n", "batch", "steps", "sigma", "delta")
    assert [tuple(row[key] for key in keys) for row in TABLE_ROWS] == ROWS
    assert min(row["n"] for row in TABLE_ROWS) == 30
    assert max(row["n"] for row in TABLE_ROWS) == 50_000
    assert sum(30 <= row["n"] <= 300 for row in TABLE_ROWS) >= 20
    assert {0.3, 200.0} <= {row["sigma"] for row in TABLE_ROWS}
    assert any(row["steps"] == 1 for row in TABLE_ROWS)
    assert sum(row["batch"] >= row["n"] for row in TABLE_ROWS) >= 5


@pytest.mark.threat("R-1")
@pytest.mark.parametrize("row", TABLE_ROWS, ids=name_of)
def test_no_accountant_is_below_the_bound_or_far_from_it(row: dict[str, Any]) -> None:
    below = row["optimistic"]
    assert below <= row["pld"] <= below + tolerance(row)
    assert below <= row["prv"] <= below + tolerance(row)
    assert below <= row["rdp"]
    assert abs(row["prv"] - row["pld"]) <= max(0.02 * row["pld"], 0.01)


@pytest.mark.parametrize("row", TABLE_ROWS, ids=name_of)
def test_the_product_still_tells_the_epsilon_of_the_table(row: dict[str, Any]) -> None:
    found = epsilon_of(charges_of(row), row["delta"])
    assert found == pytest.approx(row["pld"], rel=1e-6)
    assert row["optimistic"] <= found


@pytest.mark.parametrize("row", COMPUTED_ANEW, ids=name_of)
def test_opacus_still_tells_what_the_table_says(row: dict[str, Any]) -> None:
    opinions = second_opinion(charges_of(row), row["delta"])
    assert opinions == pytest.approx({"prv": row["prv"], "rdp": row["rdp"]}, rel=1e-6)


def test_the_row_with_a_closed_form_is_its_closed_form() -> None:
    row = next(row for row in TABLE_ROWS if row["sigma"] == 11.797)
    # Balle & Wang 2018 for mu = sqrt(10) / 11.797; libraries.md measured PRV 1.0101, RDP 1.0926.
    assert row["pld"] == pytest.approx(1.0000, abs=2e-4)
    assert row["rdp"] == pytest.approx(1.0926, abs=1e-4)
