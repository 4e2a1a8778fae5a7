"""Simulated hospitals are whole or made anew, and nobody else's folder is touched."""

from pathlib import Path

import pytest

from common.errors import RunError
from simulations.hospitals_once import simulated_once


def test_whole_ones_are_kept_and_half_ones_made_anew(tmp_path: Path) -> None:
    calls: list[int] = []

    def simulate() -> None:
        calls.append(1)
        (tmp_path / "hospitals" / f"a{len(calls)}").mkdir()
        if len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulated_once(tmp_path, simulate)
    for _ in range(2):
        folder = simulated_once(tmp_path, simulate)
        assert {path.name for path in folder.iterdir()} == {"a2", "finished"}
    simulated_once(tmp_path, simulate, keeps_whole=False)
    assert {path.name for path in folder.iterdir()} == {"a3", "finished"}


@pytest.mark.parametrize("keeps_whole", [True, False])
def test_a_folder_that_was_not_made_here_is_left_as_it_is(
    tmp_path: Path, keeps_whole: bool
) -> None:
    table = tmp_path / "hospitals" / "real" / "patients.csv"
    table.parent.mkdir(parents=True)
    table.write_text("patient_id")
    with pytest.raises(RunError, match="not simulated here"):
        simulated_once(tmp_path, lambda: None, keeps_whole=keeps_whole)
    assert table.read_text() == "patient_id"
