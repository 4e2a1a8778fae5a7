"""Runs that are told to end: at once, and also where Python loses the first exception."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.signals import handled, interruptible
from common.study_file import override, study_from_toml, study_to_toml
from server.app import Run
from server.superlink.run import run_study
from simulations.cli import app
from simulations.federation.folders import Deployment
from simulations.federation.processes import Family, family
from simulations.federation.run import Federation
from tests.federation.consortium import ConsortiumOnDisk, connected, make_consortium, served
from tests.federation.federation_fixtures import events, until
from tests.round.tiny import TINY_STUDY
from tests.unit.lost_signals import lose_a_signal

pytestmark = [
    pytest.mark.flower,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsortiumOnDisk]:
    """Two hospitals that are connected, and a study that is longer than any of these tests."""
    study = override(study_from_toml(TINY_STUDY), training__rounds=200)
    made = make_consortium(tmp_path_factory.mktemp("t"), study, "ada", "bea")
    with served(made), connected(made):
        yield made


def test_a_run_ends_at_the_next_event_after_a_signal_that_python_has_lost(
    consortium: ConsortiumOnDisk, tmp_path: Path
) -> None:
    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "aggregated":
            lose_a_signal()

    with interruptible(signal.SIGTERM) as interruption:
        federation = Federation(
            study=consortium.study,
            out=tmp_path / "run",
            deployment=Deployment(
                folder=consortium.folder, port=consortium.port, sites=consortium.sites
            ),
            family=Family(folder=consortium.folder, look=interruption.check),
        )
        with pytest.raises(KeyboardInterrupt):
            federation.run(resume=False, listeners=[listen])
    assert [event["round"] for event in events(tmp_path / "run", "aggregated")] == [1]


def test_a_run_of_the_coordinator_that_is_told_to_end_says_how_to_go_on(
    consortium: ConsortiumOnDisk, tmp_path: Path
) -> None:
    file, run = tmp_path / "study.toml", tmp_path / "run"
    file.write_text(study_to_toml(consortium.study), encoding="utf-8")
    words = ["server", "run", file, "--dir", consortium.coordinator, "--out", run]
    has_ended = threading.Event()

    def tell() -> None:
        until(lambda: events(run, "aggregated") or has_ended.is_set())
        os.kill(os.getpid(), signal.SIGTERM)

    telling = threading.Thread(target=tell)
    # A signal that comes too late is no reason to end the tests.
    with handled(lambda *_: None, signal.SIGTERM):
        telling.start()
        result = CliRunner().invoke(app, list(map(str, words)))
        has_ended.set()
        telling.join()
    assert result.exit_code == 130, result.output
    assert "--resume" in result.output


def test_a_run_that_waits_for_hospitals_ends_at_a_signal_that_python_has_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = override(study_from_toml(TINY_STUDY), strategy__round_timeout_s=30.0)
    made = make_consortium(tmp_path, study, "ada", "bea")
    file, run = tmp_path / "study.toml", tmp_path / "run"
    file.write_text(study_to_toml(study), encoding="utf-8")
    words = ["server", "run", file, "--dir", made.coordinator, "--out", run]
    # Told who is connected: nobody, so that nothing else happens until time is up.
    monkeypatch.setattr("server.superlink.cli._show", lambda *_: lose_a_signal())
    with served(made):
        result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 130, result.output
    assert "Interrupted before the first round" in result.output
    assert not run.exists()


def test_a_round_that_nobody_has_answered_yet_ends_by_what_a_look_raises(
    consortium: ConsortiumOnDisk, tmp_path: Path
) -> None:
    seen: list[str] = []
    looks: list[int] = []

    def look() -> None:
        looks.append(len(seen))
        # Once at the event itself, and then while its answers are waited for.
        if seen[-1:] == ["asked"] and looks.count(len(seen)) == 2:
            raise KeyboardInterrupt

    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    with pytest.raises(KeyboardInterrupt):
        run_study(
            run,
            consortium.coordinator,
            listeners=[lambda event: seen.append(event["event"])],
            look=look,
        )
    assert seen == ["run_started", "asked"]


def test_waiting_for_processes_ends_at_the_next_look_after_a_signal_that_python_has_lost(
    tmp_path: Path,
) -> None:
    with (
        interruptible(signal.SIGTERM) as interruption,
        family(tmp_path, look=interruption.check) as members,
    ):
        members.check()
        lose_a_signal()
        with pytest.raises(KeyboardInterrupt):
            members.check()
