"""The files of a data set that people have on disk: all are there, or one error names them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from common.errors import DataError


def require_files(source: Path, names: Sequence[str], *, dataset: str) -> None:
    """Nothing, if `source` has all these files.

    Raises:
        DataError: naming every one that is absent.
    """
    absent = [name for name in names if not (source / name).is_file()]
    if absent:
        raise DataError(
            f"Expected the {len(names)} files of {dataset}, found {len(names) - len(absent)};"
            f" absent: {', '.join(absent)} ({source})."
            " Point --source at the folder that holds them."
        )


def read_source(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The columns of a CSV file (or .csv.gz), all of them if none are named, as text.

    Raises:
        DataError: the file is no CSV, or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, UnicodeDecodeError, EOFError, OSError, ValueError) as fault:
        raise DataError(
            f"Expected CSV, found what the parser refuses ({type(fault).__name__}; {path})."
            " Get the file again and leave it unedited."
        ) from None
    absent = [name for name in columns or () if name not in table.columns]
    if absent:
        raise DataError(
            f"Expected {path.name} to have the columns {', '.join(absent)}, found none such"
            f" ({path}). Get the file again and leave it unedited."
        )
    return table[list(columns)] if columns else table
