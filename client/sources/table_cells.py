"""What tables of every form have in common: cells as text, headers, chunks."""

import zlib

import pandas as pd

from client.findings import Finding, error
from client.sources.line_files import BrokenFileError
from common.fields import MISSING_CELLS

# What the parsers raise for what stands in a file. The class is told and never the text, which may
# quote the file.
FAULTS = (
    ValueError,
    OSError,
    EOFError,
    zlib.error,
    MemoryError,
    OverflowError,
    BrokenFileError,
)
CHUNK_ROWS = 100_000
MAX_COLUMNS = 200_000
_MISSING = sorted(MISSING_CELLS)

# The rows as text, or None with the error that says why there are none; and findings.
Chunk = tuple[pd.DataFrame | None, list[Finding]]


def header_findings(names: list[str], where: str) -> list[Finding]:
    """An error where there are too many columns, or two of one name."""
    if len(names) > MAX_COLUMNS:
        action = "Export the columns of the study alone; genomes as VCF or PLINK."
        return [error(where, f"at most {MAX_COLUMNS} columns", str(len(names)), action)]
    named = [name for name in names if name]
    num_repeated = len(named) - len(set(named))
    if num_repeated == 0:
        return []
    # Counted and not named: without a header, these are the values of the first patient.
    return [error(where, "a header of different names", repeats(num_repeated), "Rename them.")]


def repeats(num_repeated: int) -> str:
    """The words for so many names that are there already."""
    return f"{num_repeated} names that repeat another"


def cleaned(cells: pd.DataFrame) -> pd.DataFrame:
    """Text without blanks around it, and NA for every way to write that nothing was recorded."""
    stripped = [cells.iloc[:, i].str.strip() for i in range(cells.shape[1])]
    clean = [column.mask(column.isin(_MISSING), pd.NA) for column in stripped]
    if not clean:
        return cells.reset_index(drop=True)
    return pd.concat(clean, axis=1).reset_index(drop=True)
