"""Two tiny hospitals whose tables say who is held out, and copies with outcomes of no meaning."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

from common.study_file import study_from_toml
from simulations.cohort import SiteEffects, write_cohort
from tests.round.tiny import TINY_STUDY

Rows = list[dict[str, str]]
# All patients in one step: the noise for that is found in no time.
ONE_ROUND = TINY_STUDY.replace("rounds = 3", "rounds = 1").replace("size = 32", "size = 1000")
STUDY = study_from_toml(ONE_ROUND)


def write_hospitals(folder: Path) -> Path:
    """Hospitals ada and bob; one patient in four is held out."""
    effects = [SiteEffects(name=name, num_patients=80) for name in ("ada", "bob")]
    write_cohort(STUDY, effects, folder, seed=1)
    for path in folder.glob("*/patients.csv"):
        _edit(path, _with_split)
    return folder


def garbled(sites: Path, part: str, folder: Path) -> Path:
    """The hospitals with the outcomes of one part of their patients ("train", "test") replaced."""

    def edit(rows: Rows) -> None:
        for n, row in enumerate(rows):
            if row["split"] == part:
                row["event"] = "yes" if n % 8 < 4 else "no"

    shutil.copytree(sites, folder)
    for path in folder.glob("*/patients.csv"):
        _edit(path, edit)
    return folder


def rows_of(path: Path) -> Rows:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _edit(path: Path, edit: Callable[[Rows], None]) -> None:
    rows = rows_of(path)
    edit(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _with_split(rows: Rows) -> None:
    for n, row in enumerate(rows):
        row["split"] = "test" if n % 4 == 0 else "train"
