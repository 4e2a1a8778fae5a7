"""Work in processes of its own: the order of results, and failures that have a name."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from common.errors import DataError, RunError
from simulations.over_seeds import over_seeds


def _after(earlier: Path | None, own: Path) -> int:
    """A file appears, but not before another; the process that made it."""
    while earlier is not None and not earlier.exists():
        pass
    own.touch()
    return os.getpid()


def _raise(error: Exception) -> None:
    raise error


def test_results_are_in_the_order_of_the_work_whichever_is_finished_first(tmp_path: Path) -> None:
    first, second = tmp_path / "0", tmp_path / "1"
    done: list[str] = []
    work = {"seed 0": partial(_after, second, first), "seed 1": partial(_after, None, second)}
    results = over_seeds(work, jobs=2, on_done=done.append)
    assert list(results) == ["seed 0", "seed 1"]
    assert sorted(done) == ["seed 0", "seed 1"]
    assert os.getpid() not in results.values()


def test_an_error_of_ours_keeps_its_class_and_names_the_piece() -> None:
    work: dict[str, Callable[[], None]] = {"seed 7": partial(_raise, DataError("Expected rows."))}
    with pytest.raises(DataError, match=r"^seed 7: Expected rows\.$"):
        over_seeds(work, jobs=1)


def test_another_error_has_the_name_as_a_note() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        over_seeds({"seed 7": partial(_raise, ZeroDivisionError())}, jobs=1)
    assert "It was raised by seed 7." in caught.value.__notes__


def test_a_killed_process_is_an_error_that_says_what_is_not_finished() -> None:
    with pytest.raises(RunError, match="not finished: seed 3"):
        over_seeds({"seed 3": partial(os._exit, 9)}, jobs=1)


def test_after_a_failure_nothing_more_is_begun(tmp_path: Path) -> None:
    files = [tmp_path / str(i) for i in range(200)]
    work: dict[str, Callable[[], object]] = {"seed 0": partial(_raise, DataError("no"))}
    work |= {f"seed {i + 1}": partial(_after, None, file) for i, file in enumerate(files)}
    with pytest.raises(DataError):
        over_seeds(work, jobs=1)
    assert not files[-1].exists()


def _tell_and_wait(pids: Path) -> None:
    (pids / str(os.getpid())).touch()
    signal.pause()


_STARTS_TWO = """
from functools import partial
from pathlib import Path
from simulations.over_seeds import over_seeds
from tests.unit.test_over_seeds import _tell_and_wait
if __name__ == "__main__":
    over_seeds({str(n): partial(_tell_and_wait, Path(PIDS)) for n in range(2)}, jobs=2)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_one_that_called(tmp_path: Path, number: signal.Signals) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    script = tmp_path / "starts_two.py"
    script.write_text(_STARTS_TWO.replace("PIDS", repr(str(pids))))
    root = Path(__file__).parents[2]
    # The pipe ends once nobody is left who has inherited it.
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        while len(list(pids.iterdir())) < 2:
            assert process.poll() is None
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == -number


def test_whoever_shows_progress_is_called_before_and_after_each_piece(tmp_path: Path) -> None:
    seen: list[bool] = []
    file = tmp_path / "0"
    over_seeds(
        {"seed 0": partial(_after, None, file)}, jobs=1, on_wait=lambda: seen.append(file.exists())
    )
    assert seen[0] is False
    assert seen[-1] is True
