"""Pieces of work: which there are, what is kept of them, and how long they still take."""

import os
from pathlib import Path

import numpy as np
import pytest

from common.errors import StudyError
from common.study_file import load_study, override, with_patient_privacy
from simulations.joining.kept import load, path_of, save, version_of
from simulations.joining.make import (
    Progress,
    pieces_of,
    time_left_s,
    train_pieces,
    with_personal,
)
from simulations.joining.training import Measured, Piece
from tests.unit.joining_cases import PEOPLE, measured

HEART = load_study("heart-disease")


def test_every_seed_has_all_hospitals_and_each_hospital_and_granularity_absent() -> None:
    names = [p.name for p in pieces_of(HEART, ["a", "b"], [3], leaves_out=True)]
    assert names == [
        "seed 3, all hospitals",
        "seed 3, without hospital a",
        "seed 3, without hospital b",
        "seed 3, without granularity labs",
        "seed 3, without granularity lifestyle",
    ]
    assert len(pieces_of(HEART, ["a", "b"], range(4), leaves_out=False)) == 4


def test_a_study_of_one_granularity_is_not_trained_without_it() -> None:
    pieces = pieces_of(load_study("tcga-brca-clinical"), ["a"], [0], leaves_out=True)
    assert {p.kind for p in pieces} == {"all hospitals", "without hospital"}


def test_a_study_without_personal_models_is_given_some_and_a_plan_is_kept() -> None:
    assert with_personal(HEART, 20).personal.fine_tune_steps == 20
    ditto = override(HEART, personal__ditto_lambda=0.1)
    assert with_personal(ditto, 20) == ditto
    private = with_patient_privacy(HEART, epsilon=3, delta=1e-4)
    assert with_personal(private, 20) == private


def test_the_time_left_is_in_proportion_to_the_work_that_is_left() -> None:
    base, other = Piece(seed=0), Piece(seed=0, kind="without hospital", absent="a")
    assert time_left_s(10.0, [], [base, other]) is None
    assert time_left_s(10.0, [other], [base, other]) == pytest.approx(30.0)
    assert time_left_s(40.0, [base, other], [base, other]) == 0.0


@pytest.mark.parametrize(
    ("left_s", "text"),
    [
        (None, "1 of 9 trainings finished"),
        (31.0, "1 of 9 trainings finished, about 40 s left"),
        (90.0, "1 of 9 trainings finished, about 90 s left"),
        (91.0, "1 of 9 trainings finished, about 2 min left"),
    ],
)
def test_progress_tells_how_far_and_how_long(left_s: float | None, text: str) -> None:
    assert Progress(num_finished=1, num_pieces=9, left_s=left_s).text == text


def equal(one: Measured, other: Measured) -> bool:
    names = [(arm, site) for arm, by_site in one.values.items() for site in by_site]
    return (
        (one.reasons, one.people) == (other.reasons, other.people)
        and names == [(arm, site) for arm, by_site in other.values.items() for site in by_site]
        and all(np.array_equal(one.values[a][s], other.values[a][s]) for a, s in names)
    )


def test_what_is_kept_comes_back_and_is_metrics_alone(tmp_path: Path) -> None:
    told = {
        "local only": {"north": 0.7, "west": "its training diverged"},
        "federated": {"north": 0.8, "west": 0.6},
    }
    piece = measured(told, PEOPLE)
    save(piece, tmp_path / "piece.npz")
    assert equal(load(tmp_path / "piece.npz"), piece)
    with np.load(tmp_path / "piece.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"about", "0", "1", "2"}


def test_what_failed_by_an_error_counts_as_failed_and_what_diverged_does_not() -> None:
    def told(reason: str) -> Measured:
        return measured({"federated": {"north": reason}}, PEOPLE)

    assert told("its training ended with error cohort").has_failed
    assert not told("its training diverged").has_failed


def test_a_file_is_named_after_study_seed_data_and_what_is_absent(tmp_path: Path) -> None:
    def path(piece: Piece = Piece(seed=0), study=HEART, version: str = "v") -> Path:  # type: ignore[no-untyped-def]  # noqa: B008
        found: Path = path_of(piece, study, folder=tmp_path, version=version)
        return found

    paths = [
        path(),
        path(Piece(seed=1)),
        path(Piece(seed=0, kind="without hospital", absent="a")),
        path(Piece(seed=0, kind="without hospital", absent="b")),
        path(study=override(HEART, training__rounds=3)),
        path(version="w"),
    ]
    assert len(set(paths)) == len(paths)
    assert path() == paths[0]


def test_the_version_changes_with_the_data(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "site.toml").touch()
    (tmp_path / "a" / "patients.csv").write_text("one")
    before = version_of(tmp_path)
    assert version_of(tmp_path) == before
    path = tmp_path / "a" / "patients.csv"
    path.write_text("more")
    longer = version_of(tmp_path)
    # As long as before, and written later.
    path.write_text("less")
    os.utime(path, (2e9, 2e9))
    assert len({before, longer, version_of(tmp_path)}) == 3


def test_a_study_with_frozen_encoders_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    frozen = override(HEART, model__frozen=["labs"])
    with pytest.raises(StudyError, match="frozen"):
        train_pieces(frozen, tmp_path, tmp_path / "out", seeds=[0], jobs=1, leaves_out=True)
