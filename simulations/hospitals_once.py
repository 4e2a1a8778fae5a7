"""Simulated hospitals in the folder of what they are used for: made once, whole or made anew."""

import shutil
from collections.abc import Callable
from pathlib import Path

from common.errors import RunError

HOSPITALS = "hospitals"
_BEGUN, _FINISHED = "begun", "finished"


def simulated_once(out: Path, simulate: Callable[[], None], *, keeps_whole: bool = True) -> Path:
    """The folder `HOSPITALS` of `out`, which `simulate` fills, unless it is whole already.

    Guarantees:
        - Hospitals that were interrupted half-way are made anew.
        - A folder that was not made here is left as it is: it may hold patients.

    Args:
        keeps_whole: False: whole ones are made anew as well.

    Raises:
        RunError: there is such a folder that was not made here.
    """
    hospitals = out / HOSPITALS
    begun, finished = hospitals / _BEGUN, hospitals / _FINISHED
    if finished.is_file() and keeps_whole:
        return hospitals
    if hospitals.exists():
        if not (begun.is_file() or finished.is_file()):
            raise RunError(
                f"Expected a folder without other things in it, found {hospitals}, which was not "
                "simulated here. Name another folder by --out, or the hospitals by --sites."
            )
        shutil.rmtree(hospitals)
    hospitals.mkdir(parents=True)
    begun.touch()
    simulate()
    begun.rename(finished)
    return hospitals
