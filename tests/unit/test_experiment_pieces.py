"""Pieces of an experiment are made once, whole or absent; a folder holds one experiment."""

import json
from functools import partial
from pathlib import Path

import pytest

from common.errors import RunError
from common.private_files import nobody_else
from simulations.experiments.folder import experiment_folder
from simulations.experiments.pieces import Piece, make_pieces


def _told(number: int, log: Path, run_folder: Path) -> dict[str, object]:
    assert not run_folder.exists()
    run_folder.mkdir(parents=True)
    with log.open("a") as file:
        file.write(f"{number}\n")
    return {"number": number, "loss": float("inf")}


def _stop(_: Path) -> dict[str, object]:
    raise KeyboardInterrupt


def _make(pieces: list[Piece], out: Path, jobs: int = 1) -> dict[str, dict[str, object]]:
    return make_pieces(pieces, out, jobs=jobs, phase="p", on_progress=lambda *_: None)


def test_what_lies_finished_is_not_made_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pieces = [Piece(name=f"p{n}", make=partial(_told, n, log)) for n in range(3)]
    with pytest.raises(KeyboardInterrupt):
        _make([pieces[0], Piece(name="stop", make=_stop)], tmp_path)
    made = _make(pieces, tmp_path)
    assert [made[p.name]["number"] for p in pieces] == [0, 1, 2]
    assert log.read_text() == "0\n1\n2\n"


def test_a_piece_that_was_being_made_is_made_from_its_beginning(tmp_path: Path) -> None:
    half = tmp_path / "runs" / "p0"
    half.mkdir(parents=True)
    (half / "journal.jsonl").write_text("{")
    made = _make([Piece(name="p0", make=partial(_told, 0, tmp_path / "log"))], tmp_path)
    assert made["p0"]["number"] == 0
    assert not (half / "journal.jsonl").exists()


def test_an_infinite_number_is_kept_as_an_undefined_one(tmp_path: Path) -> None:
    piece = Piece(name="p0", make=partial(_told, 0, tmp_path / "log"))
    assert _make([piece], tmp_path)["p0"]["loss"] is None


def test_the_folder_of_a_run_may_be_left_behind_or_not(tmp_path: Path) -> None:
    for name, keeps in (("kept", True), ("not", False)):
        piece = Piece(name=name, make=partial(_told, 0, tmp_path / "log"), keeps_run=keeps)
        _make([piece], tmp_path)
        assert (tmp_path / "runs" / name).exists() == keeps


def test_progress_counts_what_was_finished_before_and_estimates_the_rest(tmp_path: Path) -> None:
    log, told = tmp_path / "log", []
    pieces = [Piece(name=f"p{n}", make=partial(_told, n, log)) for n in range(4)]
    _make(pieces[:1], tmp_path)
    times = iter([0.0, 10.0, 20.0, 30.0])
    make_pieces(
        pieces,
        tmp_path,
        jobs=1,
        phase="runs",
        on_progress=lambda *progress: told.append(progress),
        clock=lambda: next(times),
    )
    # 10 s a piece, by hand: 2 left after the first one.
    assert told == [
        ("runs", 1, 4, None),
        ("runs", 2, 4, 20.0),
        ("runs", 3, 4, 10.0),
        ("runs", 4, 4, 0.0),
    ]


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    pieces = [Piece(name=f"p{n}", make=partial(_told, n, tmp_path / "log")) for n in range(3)]
    one, two = (_make(pieces, tmp_path / str(jobs), jobs) for jobs in (1, 2))
    assert list(one.items()) == list(two.items())
    files = [(tmp_path / str(jobs) / "points" / "p2.json").read_bytes() for jobs in (1, 2)]
    assert files[0] == files[1]


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        folder = tmp_path / "sites" / name
        folder.mkdir(parents=True)
        (folder / "site.toml").write_text(name)
    return tmp_path / "sites"


def _open(out: Path, sites: Path | None, **identity: object) -> None:
    def simulate_hospitals() -> None:
        folder = out / "hospitals" / "a"
        folder.mkdir(parents=True)
        (folder / "site.toml").write_text("a")

    with experiment_folder(
        out, identity=identity, sites=sites, simulate_hospitals=simulate_hospitals
    ) as hospitals:
        assert hospitals.is_dir()


def test_a_folder_holds_one_experiment_for_ever(tmp_path: Path, sites: Path) -> None:
    out = tmp_path / "out"
    _open(out, sites, study="x", seeds=5)
    _open(out, sites, study="x", seeds=5)
    before = (out / "experiment.json").read_bytes()
    with pytest.raises(RunError, match=r"found another seeds, study\. Give the command"):
        _open(out, sites, study="y", seeds=4)
    assert (out / "experiment.json").read_bytes() == before


def test_other_data_are_another_experiment(tmp_path: Path, sites: Path) -> None:
    out = tmp_path / "out"
    _open(out, sites, study="x")
    (sites / "a" / "patients.csv").write_text("patient_id\n1\n")
    with pytest.raises(RunError, match="found another data"):
        _open(out, sites, study="x")
    kept = json.loads((out / "experiment.json").read_text())
    assert set(kept) == {"study", "data", "code"}


def test_a_folder_with_a_run_is_left_alone(tmp_path: Path, sites: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "journal.jsonl").touch()
    with pytest.raises(RunError, match="found a run"):
        _open(out, sites, study="x")


def test_one_command_at_a_time_works_in_a_folder(tmp_path: Path, sites: Path) -> None:
    out = tmp_path / "out"
    with (
        nobody_else(out / ".lock", RunError("taken")),
        pytest.raises(RunError, match="Expected nobody else at work"),
    ):
        _open(out, sites, study="x")


def test_half_written_hospitals_are_written_anew_and_whole_ones_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "hospitals" / "half").mkdir(parents=True)
    (out / "hospitals" / "begun").touch()
    _open(out, None, study="x")
    assert {path.name for path in (out / "hospitals").iterdir()} == {"a", "finished"}
    _open(out, None, study="x")
