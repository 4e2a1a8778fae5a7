"""The table of faults names tests, and the tests are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_table_of_faults_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "faults.md").read_text("utf-8")))
    sources = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.M)}
    assert named
    assert named <= there


def test_every_row_of_the_table_names_a_test() -> None:
    text = (ROOT / "docs" / "faults.md").read_text("utf-8")
    table = text.partition("|---|---|---|\n")[2].partition("\n\n")[0]
    for row in table.splitlines():
        assert "`test_" in row.split("|")[3], row
