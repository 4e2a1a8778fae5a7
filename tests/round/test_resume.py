"""A stopped or killed run goes on where it was, to the very model of an uninterrupted one."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import CheckpointError, RunError, StudyError
from common.study import Study
from common.study_file import override, study_to_toml
from server.app import Run, execute
from simulations.engine import InProcessGrid
from simulations.simulate import Simulation, simulate
from tests.round.conftest import Federation

REPOSITORY = Path(__file__).parents[2]


class StopError(Exception):
    """What the test raises in the middle of a run."""


def stop_at(event: str, round_number: int):
    """A listener of the journal that stops the run at an event of a round."""

    def listen(line: dict[str, Any]) -> None:
        if line["event"] == event and line.get("round") == round_number:
            raise StopError

    return listen


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module", params=["fedavg", "fedadam"])
def planned(request: pytest.FixtureRequest, study: Study, federate) -> tuple[Study, bytes]:
    """A study of four rounds, and the model of its uninterrupted run."""
    plan = override(
        study,
        strategy__name=request.param,
        strategy__server_learning_rate=0.1 if request.param == "fedadam" else 1.0,
        # Of three of the four rounds, so that a run also stops within them.
        strategy__tail_average=0.75 if request.param == "fedadam" else 0.0,
        training__rounds=4,
        normalisation__method="federated",
    )
    return plan, federate(plan).model_bytes


@pytest.mark.parametrize(
    ("event", "round_number", "resumed_at"),
    [
        ("checkpoint", 0, 0),
        ("reply", 2, 2),
        ("aggregated", 3, 2),
        ("checkpoint", 3, 3),
        ("round_finished", 4, 4),
    ],
)
def test_a_run_stopped_anywhere_resumes_to_the_model_of_an_uninterrupted_one_bit_for_bit(
    federate, planned, tmp_path: Path, event: str, round_number: int, resumed_at: int
) -> None:
    study, expected = planned
    with pytest.raises(StopError):
        federate(study, out=tmp_path / "run", listeners=[stop_at(event, round_number)])
    resumed = federate(study, out=tmp_path / "run", resume=True)
    assert resumed.model_bytes == expected
    results = resumed.results
    assert (results["status"], results["resumed_at_rounds"]) == ("finished", [resumed_at])
    assert [line["round"] for line in results["rounds"]] == [0, 1, 2, 3, 4]


def test_a_run_can_be_stopped_and_resumed_again_and_again(federate, planned, tmp_path) -> None:
    study, expected = planned
    out = tmp_path / "run"
    with pytest.raises(StopError):
        federate(study, out=out, listeners=[stop_at("round_finished", 1)])
    for round_number in (2, 3):
        stop = [stop_at("round_finished", round_number)]
        with pytest.raises(StopError):
            federate(study, out=out, resume=True, listeners=stop)
    resumed = federate(study, out=out, resume=True)
    assert resumed.model_bytes == expected
    assert resumed.results["resumed_at_rounds"] == [1, 2, 3]
    assert len({e["run_id"] for e in resumed.events("run_resumed")}) == 1


def test_a_finished_run_that_is_resumed_stays_as_it_is(federate, planned, tmp_path) -> None:
    study, expected = planned
    first = federate(study, out=tmp_path / "run")
    rounds = first.results["rounds"]
    again = federate(study, out=tmp_path / "run", resume=True)
    assert again.model_bytes == expected
    assert again.results["rounds"] == rounds


def stopped_in_round(federate, study: Study, out: Path, round_number: int) -> None:
    with pytest.raises(StopError):
        federate(study, out=out, listeners=[stop_at("round_finished", round_number)])


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    federate, planned, tmp_path: Path
) -> None:
    study, expected = planned
    stopped_in_round(federate, study, tmp_path / "run", 3)
    newest = max((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(bytes(content))
    resumed = federate(study, out=tmp_path / "run", resume=True)
    assert resumed.results["resumed_at_rounds"] == [2]
    assert resumed.model_bytes == expected


def test_a_torn_last_line_of_the_journal_does_not_matter(federate, planned, tmp_path) -> None:
    study, expected = planned
    stopped_in_round(federate, study, tmp_path / "run", 2)
    with (tmp_path / "run" / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"at": "2026-01-01T00:00:00.000+00:00", "event": "rep')
    resumed = federate(study, out=tmp_path / "run", resume=True)
    assert resumed.model_bytes == expected
    assert resumed.results["status"] == "finished"
    assert [line["round"] for line in resumed.results["rounds"]] == [0, 1, 2, 3, 4]


# What is refused, and that nothing is changed then.


def test_resuming_with_another_study_is_refused_and_changes_nothing(
    federate, study, tmp_path: Path
) -> None:
    stopped_in_round(federate, study, tmp_path / "run", 1)
    before = files_of(tmp_path / "run")
    for other in (
        override(study, training__rounds=9),
        override(study, training__seed=9),
        override(study, strategy__name="fedadam"),
    ):
        with pytest.raises(CheckpointError, match="Resume with the study"):
            federate(other, out=tmp_path / "run", resume=True)
        assert files_of(tmp_path / "run") == before


def test_starting_into_an_occupied_folder_is_refused_and_changes_nothing(
    federate, study, tmp_path: Path
) -> None:
    stopped_in_round(federate, study, tmp_path / "run", 1)
    before = files_of(tmp_path / "run")
    with pytest.raises(RunError, match="--resume"):
        federate(study, out=tmp_path / "run")
    assert files_of(tmp_path / "run") == before


def test_there_is_nothing_to_resume_in_an_empty_folder(federate, study, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        federate(study, out=tmp_path / "run", resume=True)
    assert not files_of(tmp_path / "run")


def test_with_all_checkpoints_damaged_a_run_never_starts_anew_by_itself(
    federate, study, tmp_path: Path
) -> None:
    stopped_in_round(federate, study, tmp_path / "run", 2)
    for path in (tmp_path / "run" / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="2 damaged ones"):
        federate(study, out=tmp_path / "run", resume=True)


# Killed.

# Each event of the journal is a line of 4 KiB: the pipe holds sixteen of them, so that a killed
# run was never more than sixteen events ahead of what the test has read, and not at its end.
_CHILD = """
import sys
from pathlib import Path
from common.study_file import load_study
from simulations.simulate import Simulation, simulate

study, sites, out = sys.argv[1:]

def tell(event):
    sys.stdout.write(event["event"].ljust(4095) + "\\n")
    sys.stdout.flush()

simulation = Simulation(study=load_study(study), sites=Path(sites), out=Path(out))
simulate(simulation, listeners=[tell])
"""


@pytest.mark.parametrize(("name", "seed"), [("fedavg", 1), ("fedadam", 2)])
def test_a_killed_run_resumes_to_the_model_of_an_uninterrupted_one_bit_for_bit(
    federate, study, hospitals: Path, tmp_path: Path, name: str, seed: int
) -> None:
    study = override(
        study, strategy__name=name, strategy__server_learning_rate=0.1, training__rounds=8
    )
    (tmp_path / "tiny.toml").write_text(study_to_toml(study), encoding="utf-8")
    # A run of eight rounds over five sites writes about eighty events, the first thirteen of them
    # before there is a checkpoint.
    killed_after = random.Random(f"{name} {seed}").randrange(14, 55)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, tmp_path / "tiny.toml", hospitals, tmp_path / "run"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    with child, child.stdout:
        for _ in range(killed_after):
            assert child.stdout.readline(), "the run ended before it could be killed"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "model.safetensors").exists()
    resumed = federate(study, out=tmp_path / "run", resume=True)
    assert resumed.model_bytes == federate(study).model_bytes
    assert resumed.results["status"] == "finished"
    assert [line["round"] for line in resumed.results["rounds"]] == list(range(9))
    for path in (tmp_path / "run" / "sites").glob("*/audit.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            json.loads(line)


def test_a_run_that_goes_on_starts_from_no_other_model(study: Study, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="found both"):
        Run(study=study, folder=tmp_path, engine="flower", resume=True, init_from=tmp_path)
    assert list(tmp_path.iterdir()) == []


def _start_of(study: Study, out: Path, init_from: Path | None) -> None:
    run = Run(study=study, folder=out, engine="in-process", durable=False, init_from=init_from)
    execute(run, InProcessGrid({}))


def test_an_encoder_that_is_frozen_must_come_from_another_model(
    study: Study, honest: Federation, tmp_path: Path
) -> None:
    frozen = override(study, model__frozen=["labs"])
    with pytest.raises(StudyError, match="labs: no --init-from"):
        _start_of(frozen, tmp_path / "out", None)
    wider = override(frozen, model__width=8)
    # Of the old model only what does not depend on the width could fit.
    with pytest.raises((StudyError, RunError), match="labs: of other shapes there"):
        _start_of(wider, tmp_path / "out", honest.folder)
    assert not (tmp_path / "out").exists()


def test_a_frozen_encoder_that_was_taken_stays_as_it_was(
    study: Study, hospitals: Path, honest: Federation, tmp_path: Path
) -> None:
    frozen = override(study, model__frozen=["labs"])
    simulate(
        Simulation(study=frozen, sites=hospitals, out=tmp_path / "out", init_from=honest.folder)
    )
    after = Federation(folder=tmp_path / "out")
    for name, value in honest.model.items():
        if name.startswith("encoders.labs."):
            assert np.array_equal(after.model[name], value), name
    assert "fusion" in after.results["transferred"][0]["taken"]
    assert "patients" not in after.results["transferred"][0]["taken"]


def test_a_model_to_start_from_that_cannot_be_read_leaves_no_file(
    study: Study, tmp_path: Path
) -> None:
    with pytest.raises(RunError):
        _start_of(study, tmp_path / "out", tmp_path / "nothing")
    assert not (tmp_path / "out").exists()
