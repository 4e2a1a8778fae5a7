"""Row "malformed file": no damaged file of any format crashes, hangs, fills the memory or is told.

60 mutants of a format (20 where a file takes 100 ms); 2,000 under `WARDROUND_HYPOTHESIS=full`. They
are read in a process of its own, as a site reads them; one that a mutant kills is a failure, and
the next mutant is read by a new one. What a single damaged byte comes to for a patient's arrays is
tested in `tests/unit/test_*_mutations.py`, and bounds of packed text in `test_line_files.py`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pytest

from client.sources.tables import read_table
from common.errors import StudyError
from common.study_file import load_study
from tests.attacks.file_bombs import PICTURES, TABLES, TEXTS
from tests.attacks.file_controls import CONTROLS
from tests.attacks.file_formats import FORMATS
from tests.attacks.file_watch import Outcome, WatchedReader
from tests.campaigns import IS_FULL, Campaign

NUM_MUTANTS = 2000 if IS_FULL else 60
NUM_SLOW_MUTANTS = 2000 if IS_FULL else 20  # each is opened by a database of its own
SLOW = {"parquet", "typed parquet"}

# Of the processor, which another program's load does not change: no mutant of kilobytes may hang.
MUTANT_S = 1.0
# A bomb may be 600 kB, and is read as far as its limit goes: 200 times its size.
BOMB_S = 10.0
MEMORY_BYTES = 1 << 29


@pytest.fixture(scope="module")
def reader() -> Iterator[WatchedReader]:
    with WatchedReader() as watched:
        yield watched


def _faults(outcomes: Sequence[Outcome]) -> list[tuple[int, object]]:
    told: list[tuple[int, object]] = [(o.number, o.faults) for o in outcomes if o.faults]
    return told + [(o.number, o.memory_bytes) for o in outcomes if o.memory_bytes > MEMORY_BYTES]


@pytest.mark.parametrize("name", FORMATS)
def test_no_mutant_crashes_hangs_fills_the_memory_or_is_told(
    name: str, reader: WatchedReader, campaign: Campaign
) -> None:
    num_mutants = NUM_SLOW_MUTANTS if name in SLOW else NUM_MUTANTS
    campaign.tries(num_mutants, "mutants of a file")
    outcomes = list(reader.outcomes(name, range(num_mutants), MUTANT_S))
    num_refused = sum(outcome.is_refused for outcome in outcomes)
    longest_s = round(max(outcome.processor_s for outcome in outcomes), 2)
    campaign.found(
        {"refused": num_refused, "read": len(outcomes) - num_refused, "longest_s": longest_s}
    )
    assert _faults(outcomes) == []
    assert len(outcomes) == num_mutants
    # Of both sorts: files that are refused, and files that are read all the same.
    assert 0 < num_refused < num_mutants


@pytest.mark.parametrize(
    ("kind", "names"), [("pictures", PICTURES), ("tables", TABLES), ("texts", TEXTS)]
)
def test_a_file_that_asks_for_gigabytes_or_minutes_is_refused(
    kind: str, names: Sequence[str], reader: WatchedReader, campaign: Campaign
) -> None:
    slow = {"csv.gz of rows", "parquet of 3 million rows", "nifti.gz that unpacks to 512 MiB"}
    numbers = [i for i, name in enumerate(names) if IS_FULL or name not in slow]
    campaign.tries(len(numbers), "files that ask for too much")
    outcomes = list(reader.outcomes(kind, numbers, BOMB_S))
    assert _faults(outcomes) == []
    assert [list(names)[o.number] for o in outcomes if not o.is_refused] == []


def test_the_watch_sees_what_must_not_happen(reader: WatchedReader) -> None:
    *told, fills = range(len(CONTROLS))
    outcomes = list(reader.outcomes("controls", told, 0.5))
    for outcome, words in zip(outcomes, CONTROLS.values(), strict=False):
        assert [words in fault for fault in outcome.faults] == [True]
    assert [outcome.number for outcome in outcomes] == told
    # Filling 600 MB is no hang, on however slow a machine: only the memory tells.
    (filled,) = reader.outcomes("controls", [fills], BOMB_S)
    assert filled.faults == ()
    assert filled.memory_bytes > MEMORY_BYTES


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000 + "]" * 3000])
def test_toml_that_python_itself_refuses_is_one_sentence(value: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(f"a = {value}\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"^Expected TOML in .*, found: "):
        load_study(path)


def test_cells_of_lists_count_as_missing_and_are_told_in_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"COPY (SELECT 'p' patient_id, [1, 2] a) TO '{path}' (FORMAT parquet)")
    table, findings = read_table(path)
    assert table is not None
    assert table["patient_id"].tolist() == ["p"]
    assert table["a"].isna().all()
    assert [(f.severity, f.found) for f in findings] == [
        ("warning", "1 columns of lists or structures")
    ]
