"""Whole runs on a real SuperLink with TLS and node authentication, with and without accidents."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from common.errors import CohortError, ProvisionError, RunError
from common.signals import interruptible
from common.study import Study
from common.study_file import override, study_from_toml
from server.app import Run
from server.sinks.live import sinks_of, tell_run
from server.superlink.control import Control, Seen, control_of
from server.superlink.lock import alone
from server.superlink.run import Hospitals, run_study, skew_of
from simulations.simulate import Simulation, simulate
from tests.federation.consortium import (
    ROOT,
    ConsortiumOnDisk,
    connected,
    connector_process,
    journal,
    kill,
    make_consortium,
    served,
    site_process,
)
from tests.federation.deployment import until
from tests.round.tiny import TINY_STUDY
from tests.unit.lost_signals import lose_a_signal

pytestmark = pytest.mark.flower


@pytest.fixture(scope="module")
def study() -> Study:
    return study_from_toml(TINY_STUDY)


@pytest.fixture
def consortium(study: Study, tmp_path: Path) -> ConsortiumOnDisk:
    return make_consortium(tmp_path, study, "alpha", "beta", "gamma")


@pytest.fixture
def uninterrupted(consortium: ConsortiumOnDisk, tmp_path: Path) -> bytes:
    """The model of the same study over the same hospitals, in one process."""
    out = tmp_path / "in-process"
    simulate(Simulation(study=consortium.study, sites=consortium.folder / "sites", out=out))
    return (out / "model.safetensors").read_bytes()


def reasons(run: Path) -> list[tuple[int, str, str]]:
    """Round, site and reason of every absence."""
    return [(e["round"], e["site"], e["reason"]) for e in journal(run, "absent")]


def test_a_run_gives_the_model_of_the_same_run_in_one_process(
    consortium: ConsortiumOnDisk, uninterrupted: bytes, tmp_path: Path
) -> None:
    seen: list[Hospitals] = []
    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    with served(consortium), connected(consortium):
        run_study(run, consortium.coordinator, on_hospitals=seen.append)
    assert (run.folder / "model.safetensors").read_bytes() == uninterrupted
    assert seen[-1] == Hospitals(connected=("alpha", "beta", "gamma"), missing=())
    assert reasons(run.folder) == []
    assert journal(run.folder, "run_started")[0]["engine"] == "superlink"


def test_a_superlink_that_is_killed_in_a_round_changes_nothing_of_the_model(
    consortium: ConsortiumOnDisk, uninterrupted: bytes, tmp_path: Path
) -> None:
    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    killed: list[int] = []
    with served(consortium) as superlink, connected(consortium):

        def listen(event: dict[str, Any]) -> None:
            in_training = event["event"] == "reply" and event["kind"] == "train"
            if in_training and event["round"] in (0, 2) and event["round"] not in killed:
                killed.append(event["round"])
                kill(superlink)

        run_study(run, consortium.coordinator, listeners=[listen])
    assert killed == [0, 2]
    assert reasons(run.folder) == []
    assert (run.folder / "model.safetensors").read_bytes() == uninterrupted


def test_messages_and_a_run_that_the_superlink_has_lost_are_made_up_for(
    consortium: ConsortiumOnDisk, uninterrupted: bytes, tmp_path: Path
) -> None:
    run = Run(study=consortium.study, folder=tmp_path / "run", engine="superlink")
    done: list[int] = []
    notices: list[str] = []
    with served(consortium) as superlink, connected(consortium):

        def listen(event: dict[str, Any]) -> None:
            in_training = event["event"] == "reply" and event["kind"] == "train"
            if not in_training or event["round"] in done:
                return
            done.append(event["round"])
            if event["round"] == 0:
                # As one that dies while it hands replies out: they count as delivered.
                kill(superlink)
                until(lambda: superlink.pid is None)
                forget_messages(consortium)
            elif event["round"] == 1:
                with control_of(superlink.address, ca=consortium.coordinator / "ca.pem") as control:
                    control.start_run()  # and ends the one that is going on

        run_study(run, consortium.coordinator, listeners=[listen], on_notice=notices.append)
    assert [text for text in notices if "going on in a new one" in text] == notices[:1]
    assert reasons(run.folder) == []
    # At the next round, where the last reply came before the end of the run was noticed.
    assert [event["round"] for event in journal(run.folder, "run_resumed")] in ([1], [2])
    assert (run.folder / "model.safetensors").read_bytes() == uninterrupted


def forget_messages(consortium: ConsortiumOnDisk) -> None:
    path = consortium.coordinator / "superlink" / "superlink.db"
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.execute("DELETE FROM message_ins")
        database.execute("DELETE FROM message_res")


def command(consortium: ConsortiumOnDisk, out: Path, *options: str) -> list[str]:
    """`wardround server run`, of a process of its own."""
    code = "from simulations.cli import main; main()"
    study = consortium.folder / "study.toml"
    study.write_text(TINY_STUDY)
    arguments = ["server", "run", str(study), "--dir", str(consortium.coordinator)]
    return [sys.executable, "-c", code, *arguments, "--out", str(out), *options]


def test_a_coordinator_that_is_killed_goes_on_at_the_same_round(
    consortium: ConsortiumOnDisk, uninterrupted: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    checkpoint = out / "checkpoints" / "round-000001.json"
    board = ("--tensorboard", str(tmp_path / "board"))
    with served(consortium), connected(consortium):
        first = subprocess.Popen(
            command(consortium, out, *board), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        try:
            until(lambda: checkpoint.exists() or first.poll() is not None, timeout_s=120)
            assert first.returncode is None
        finally:
            first.kill()
            first.wait()
        assert not (out / "model.safetensors").exists()
        resumed = subprocess.run(
            command(consortium, out, "--resume", *board), cwd=ROOT, capture_output=True, text=True
        )
    assert resumed.returncode == 0, resumed.stderr
    assert "3 of 3 hospitals are connected" in resumed.stdout
    (started,), (went_on,) = journal(out, "run_started"), journal(out, "run_resumed")
    assert went_on["run_id"] == started["run_id"]
    assert went_on["round"] >= 1
    assert (out / "model.safetensors").read_bytes() == uninterrupted
    # Told while it went on, in two commands, it is what is told of it afterwards.
    tell_run(out, sinks_of(None, tmp_path / "after"))
    (live,), (after,) = ((tmp_path / name).glob("*/*") for name in ("board", "after"))
    assert live.read_bytes() == after.read_bytes()


def test_a_dead_site_is_silent_and_the_round_closes_without_it(
    study: Study, tmp_path: Path
) -> None:
    # The run could not end before an hour if the dead site were waited for.
    study = override(study, training__rounds=1, strategy__round_timeout_s=3600.0)
    consortium = make_consortium(tmp_path, study, "alpha", "beta", "gamma")
    run = Run(study=study, folder=tmp_path / "run", engine="superlink")
    with (
        served(consortium),
        connected(consortium, "alpha", "beta"),
        site_process(consortium, "gamma") as address,
        connector_process(consortium, "gamma", address) as connector,
    ):

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "asked" and event["kind"] == "train":
                connector.kill()
                connector.wait()

        run_study(run, consortium.coordinator, listeners=[listen])
    absences = journal(run.folder, "absent")
    assert {(event["site"], event["reason"]) for event in absences} == {("gamma", "silent")}
    assert journal(run.folder, "aggregated")[0]["sites"] == ["alpha", "beta"]


def test_too_few_connected_sites_are_named(study: Study, tmp_path: Path) -> None:
    hasty = override(study, strategy__round_timeout_s=1.0)
    consortium = make_consortium(tmp_path, hasty, "alpha", "beta")
    run = Run(study=hasty, folder=tmp_path / "run", engine="superlink")
    seen: list[Hospitals] = []
    with (
        served(consortium),
        pytest.raises(CohortError, match=r"found 0 of 2 in the roster.*missing: alpha, beta"),
    ):
        run_study(run, consortium.coordinator, on_hospitals=seen.append)
    assert seen == [Hospitals(connected=(), missing=("alpha", "beta"))]
    assert not run.folder.exists()


def test_without_a_superlink_it_says_how_to_start_one(study: Study, tmp_path: Path) -> None:
    consortium = make_consortium(tmp_path, study, "alpha", "beta")
    run = Run(study=study, folder=tmp_path / "run", engine="superlink")
    with pytest.raises(RunError, match="wardround server up DIR"):
        run_study(run, consortium.coordinator, patience_s=0.0)


def test_one_run_at_a_time(study: Study, tmp_path: Path) -> None:
    consortium = make_consortium(tmp_path, study, "alpha", "beta")
    run = Run(study=study, folder=tmp_path / "run", engine="superlink")
    with (
        alone(consortium.coordinator / "superlink" / "run.lock", "run"),
        pytest.raises(RunError, match="Expected one run for this folder"),
    ):
        run_study(run, consortium.coordinator)


def test_a_folder_that_was_not_provisioned_is_said(study: Study, tmp_path: Path) -> None:
    run = Run(study=study, folder=tmp_path / "run", engine="superlink")
    with pytest.raises(ProvisionError, match="wardround provision"):
        run_study(run, tmp_path)


def test_the_clocks_are_compared_by_what_the_superlink_says() -> None:
    class Behind(Control):
        def __init__(self) -> None:
            pass

        def nodes(self) -> tuple[tuple[Seen, ...], datetime]:
            return (), datetime.now(UTC) - timedelta(seconds=60)

    assert 59 < skew_of(Behind(), patience_s=0) < 61


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_waiting_for_a_superlink_ends_at_a_signal_that_python_has_lost() -> None:
    class Away(Control):
        def __init__(self) -> None:
            pass

        def nodes(self) -> tuple[tuple[Seen, ...], datetime]:
            lose_a_signal()
            raise RunError("nobody answers")

    with interruptible(signal.SIGTERM) as interruption, pytest.raises(KeyboardInterrupt):
        skew_of(Away(), patience_s=30, look=interruption.check)
