"""A run that ends within a round reports the last one that everybody had answered."""

from pathlib import Path

import pytest

from common.errors import CohortError
from common.study_file import override
from common.wire import Reply, Task
from server.journal import Event
from tests.round.conftest import Federation
from tests.round.twists import raising


def assert_of_round_1(run: Federation, honest: Federation, answered: list[str]) -> None:
    """The figures are those after round 1, of everybody; `answered` are those of the next."""
    assert run.results["unfinished_round"] == {"round": 2, "answered": answered}
    assert run.results["num_aggregated"] == 2
    assert run.results["rounds"] == honest.results["rounds"][:2]
    said = f"The exchange after round 2 is not complete: {len(answered)} of 5 hospitals have"
    for name in ("report.md", "report.html"):
        text = (run.folder / name).read_text(encoding="utf-8")
        assert said in text
    assert "## After round 1: event, held-out patients" in (run.folder / "report.md").read_text()


def test_a_run_that_is_interrupted_within_a_round(federate, honest, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event["event"] == "reply" and (event["round"], event["site"]) == (2, "b"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federate(out=tmp_path / "run", listeners=[stop])
    assert_of_round_1(Federation(folder=tmp_path / "run"), honest, ["a", "b"])
    resumed = federate(out=tmp_path / "run", resume=True)
    assert resumed.results["unfinished_round"] is None
    assert resumed.results["rounds"] == honest.results["rounds"]


def test_a_run_whose_last_round_lacks_hospitals(federate, honest, study, tmp_path: Path) -> None:
    study = override(study, strategy__min_sites=4, strategy__max_attempts=2)

    def ill(task: Task, answer) -> Reply:
        return raising(task, answer) if task.round >= 2 else answer()

    with pytest.raises(CohortError):
        federate(study, twists={"a": ill, "c": ill}, out=tmp_path / "run")
    run = Federation(folder=tmp_path / "run")
    assert run.results["status"] == "failed"
    assert_of_round_1(run, honest, ["b", "d", "e"])
