"""Runs told to TensorBoard and MLflow, and read back by these libraries."""

import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.errors import RunError
from server.report.results import results_of
from server.sinks.live import JOURNAL, Sink, live, sinks_of, tell_run
from server.sinks.points import Told, told_of
from server.watch.course import Course
from tests.round.commands import Run
from tests.unit.report_journals import plain_journal, private_journal, site_private_journal

# MLflow and what it brings warn of their own futures.
pytestmark = pytest.mark.filterwarnings("ignore")
Curves = Mapping[str, list[tuple[int, float]]]


def write(folder: Path, journal: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JOURNAL).write_text("".join(json.dumps(event) + "\n" for event in journal))
    return folder


def told(journal: list[dict[str, Any]]) -> Told:
    course = Course()
    course.take([json.dumps(event).encode() for event in journal])
    return told_of(course)


def curves_of(what: Told) -> Curves:
    curves: dict[str, list[tuple[int, float]]] = {}
    for point in what.points:
        curves.setdefault(point.name, []).append((point.step, point.value))
    return curves


def read_tensorboard(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = folder.iterdir()
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def assert_same(found: Curves, expected: Curves) -> None:
    assert set(found) == set(expected)
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points]
        # TensorBoard keeps 32 bits of a number.
        values = [value for _, value in points]
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("make", [plain_journal, private_journal, site_private_journal])
def test_metrics_are_those_of_the_report(make: Any) -> None:
    journal = make()
    results, curves = results_of(journal), curves_of(told(journal))
    last = results["rounds"][-1]
    for outcome, metrics in last["pooled"].items():
        for name, value in metrics.items():
            if f"{outcome}/{name}" in curves:
                assert curves[f"{outcome}/{name}"][-1] == (last["round"], value)
    assert curves["event/auroc/north"][-1] == (2, last["sites"]["north"]["event"]["auroc"])
    assert curves["round/seconds"] == [(1, 1.5), (2, 3.0)]
    assert curves["round/sites"] == [(1, 3.0), (2, 3.0)]


def test_what_privacy_has_cost_is_told() -> None:
    curves = curves_of(told(private_journal()))
    assert curves["privacy/epsilon/south"] == [(2, 2.6)]
    assert curves_of(told(site_private_journal()))["privacy/epsilon"] == [(2, 1.2341)]


def test_nothing_but_numbers_of_the_report_is_told() -> None:
    names = {point.name for point in told(plain_journal()).points}
    kinds = "auroc|auprc|accuracy|f1|calibration_error|loss|mae|rmse|r2|c_index|num_events"
    own = r"round/(sites|seconds|update_norm)"
    site = "(/(north|south|west|oracle))?"
    assert all(re.fullmatch(rf"\w+/({kinds}){site}|{own}", name) for name in names), names


def test_an_exchange_that_goes_on_is_not_told_yet() -> None:
    journal = plain_journal()
    ends = [n for n, e in enumerate(journal) if e["event"] == "round_finished"]
    whole = told(journal)
    for end in (1, 8, ends[0], ends[0] + 1, ends[1], ends[1] + 1, len(journal) - 1):
        points = told(journal[:end]).points
        assert {p.exchange for p in points} == {n for n, at in enumerate(ends) if at < end}
        # What comes later is added at the end.
        assert whole.points[: len(points)] == points


def test_tensorboard_reads_back_what_was_told(tmp_path: Path) -> None:
    run = write(tmp_path / "run", plain_journal())
    tell_run(run, sinks_of(None, tmp_path / "board"))
    assert_same(read_tensorboard(tmp_path / "board"), curves_of(told(plain_journal())))


def test_a_run_told_twice_is_the_same_file(tmp_path: Path) -> None:
    run = write(tmp_path / "run", plain_journal())
    tell_run(run, sinks_of(None, tmp_path / "board"))
    (path,) = (tmp_path / "board").glob("*/*")
    before = path.read_bytes()
    tell_run(run, sinks_of(None, tmp_path / "board"))
    assert path.read_bytes() == before


def test_a_run_told_while_it_goes_on_is_that_told_after_it(tmp_path: Path) -> None:
    journal = plain_journal()
    # As a run that was begun before: what is on disk is told as well.
    run = write(tmp_path / "run", journal[:12])
    sizes = []
    with live(run, sinks_of(None, tmp_path / "live"), warn=pytest.fail) as (listen,):
        for number, event in enumerate(journal[12:], start=13):
            write(run, journal[:number])
            listen(event)
            sizes += [path.stat().st_size for path in (tmp_path / "live").glob("*/*")]
    assert len(set(sizes)) == 3
    tell_run(run, sinks_of(None, tmp_path / "after"))
    (one,), (other,) = ((tmp_path / name).glob("*/*") for name in ("live", "after"))
    assert one.read_bytes() == other.read_bytes()


@dataclass(frozen=True)
class Failing:
    """A sink that takes nothing."""

    fault: Exception

    def tell(self, told: Told) -> None:
        raise self.fault

    def keep(self, told: Told, folder: Path) -> None:
        raise AssertionError("a sink that failed is asked again")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (OSError("no space left"), "no space left"),
        (RunError("Expected a store, found none."), "Expected a store, found none."),
        (KeyError("a password"), "found KeyError. “wardround report RUN”"),
    ],
)
def test_a_sink_that_fails_is_told_of_once_and_the_others_go_on(
    tmp_path: Path, fault: Exception, words: str
) -> None:
    journal, warnings = plain_journal(), []
    sinks: list[Sink] = [Failing(fault), *sinks_of(None, tmp_path / "board")]
    with live(tmp_path / "run", sinks, warn=warnings.append) as (listen,):
        for event in journal:
            listen(event)
        write(tmp_path / "run", journal)
    assert len(warnings) == 1
    assert "The run goes on without being told there." in warnings[0]
    assert words in warnings[0]
    assert "password" not in warnings[0]
    assert_same(read_tensorboard(tmp_path / "board"), curves_of(told(journal)))


def test_a_run_that_never_began_is_told_nowhere(tmp_path: Path) -> None:
    with live(tmp_path / "run", sinks_of(None, tmp_path / "board"), warn=pytest.fail):
        pass
    assert not (tmp_path / "board").exists()
    with pytest.raises(RunError, match="run_started"):
        tell_run(tmp_path / "run", sinks_of(None, tmp_path / "board"))


@pytest.mark.parametrize(
    ("missing", "library", "extra"),
    [
        ("server.sinks.mlflow_store", "MLflow", "mlflow"),
        ("server.sinks.event_file", "TensorBoard", "tensorboard"),
    ],
)
def test_a_missing_library_is_told_of_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    mlflow, tensorboard = (str(tmp_path), None) if extra == "mlflow" else (None, tmp_path)
    with pytest.raises(RunError, match=rf"Expected {library}.*wardround\[{extra}\].*--{extra}"):
        sinks_of(mlflow, tensorboard)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that somebody connects to; connecting fails."""
    asked: list[Any] = []

    def connect(_: socket.socket, address: Any) -> None:
        asked.append(address)
        raise OSError("the network is off")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *name, **_: connect(socket.socket(), name))
    return asked


def test_mlflow_reads_back_what_simulate_and_report_tell_and_asks_nobody(
    run: Run, study_file: Path, sites: Path, tmp_path: Path, offline: list[Any]
) -> None:
    out, store = tmp_path / "run", tmp_path / "mlflow"
    outcome = run("simulate", study_file, "--sites", sites, "--out", out, "--mlflow", store)
    assert outcome.code == 0
    assert offline == []
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")

    def read() -> tuple[Any, Curves]:
        experiment = client.get_experiment_by_name("tiny")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id])
        histories = {
            name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics
        }
        return found, {
            name: sorted((m.step, m.value) for m in history) for name, history in histories.items()
        }

    found, curves = read()
    journal = [json.loads(line) for line in (out / JOURNAL).read_text().splitlines()]
    assert_same(curves, curves_of(told(journal)))
    assert found.info.status == "FINISHED"
    assert found.data.params["training.rounds"] == "3"
    assert found.data.params["num_sites"] == "3"
    kept = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert kept == {"report.html", "results.json", "study.toml"}
    assert run("report", out, "--mlflow", store, "--tensorboard", tmp_path / "board").code == 0
    again, same = read()
    assert (again.info.run_id, same) == (found.info.run_id, curves)
    assert_same(read_tensorboard(tmp_path / "board"), curves)
    assert offline == []


def test_an_id_that_would_name_a_path_or_a_query_is_told_nowhere(tmp_path: Path) -> None:
    for run_id in ("/../../elsewhere", "x' OR ''='"):
        journal = [e | ({"run_id": run_id} if "run_id" in e else {}) for e in plain_journal()]
        run = write(tmp_path / "run", journal)
        with pytest.raises(RunError, match="Expected a run id of letters"):
            tell_run(run, sinks_of(None, tmp_path / "board"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_store_that_is_none_is_told_of_in_one_sentence(tmp_path: Path) -> None:
    run = write(tmp_path / "run", plain_journal())
    (tmp_path / "file").write_text("")
    for where in (str(tmp_path / "file"), "nonsense://nowhere"):
        with pytest.raises(RunError, match=r"Expected an MLflow store at .*--mlflow"):
            tell_run(run, sinks_of(where, None))


def test_a_password_in_the_address_of_a_store_is_not_quoted(tmp_path: Path) -> None:
    run = write(tmp_path / "run", plain_journal())
    with pytest.raises(RunError, match=r"store at nonsense://…@nowhere") as fault:
        tell_run(run, sinks_of("nonsense://ann:secret@nowhere", None))
    assert "secret" not in str(fault.value)


def test_a_store_that_does_not_answer_is_given_up_soon_and_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TIMEOUT", "MAX_RETRIES"):
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    warnings: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
        sinks = sinks_of(f"http://127.0.0.1:{port}", None)
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with live(write(tmp_path / "run", []), sinks, warn=warnings.append) as (listen,):
            for event in plain_journal():
                listen(event)
    (warning,) = warnings
    assert f"Expected an MLflow store at http://127.0.0.1:{port}" in warning
