"""Transfer: which blocks of another model a study starts from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from common.arrays import Arrays
from common.errors import RunError, StudyError
from common.model_file import MODEL_FILE, read_model, write_model
from common.models.patient_model import PatientModel, block_owner, state_of
from common.study import Study
from common.study_file import study_to_toml
from server.transfer import transfer
from tests.unit.builders import study_of, study_table


def _written(study: Study, folder: Path, *, with_study: bool = True) -> dict[str, Any]:
    """A model of the study in a folder, with other values than a new one has."""
    model = {k: v + 1 for k, v in state_of(PatientModel(study)).unpack().items()}
    folder.mkdir(exist_ok=True)
    write_model(folder / MODEL_FILE, Arrays.pack(model))
    if with_study:
        (folder / "study.toml").write_text(study_to_toml(study), encoding="utf-8")
    return model


def _new(study: Study) -> Arrays:
    return state_of(PatientModel(study))


def test_an_equal_study_takes_everything(tmp_path: Path) -> None:
    study = study_of()
    model = _written(study, tmp_path)
    start = transfer(study, _new(study), tmp_path)
    assert start.taken == {"labs", "vitals", "lifestyle", "event", "patients"}
    assert start.left == {}
    for name, value in start.model.unpack().items():
        assert np.array_equal(value, model[name].astype(np.float32))


def test_what_is_described_otherwise_starts_anew_and_the_rest_is_taken(tmp_path: Path) -> None:
    _written(study_of(), tmp_path)
    table = study_table()
    # Other units: equal shapes, and yet another meaning.
    table["granularities"]["vitals"]["features"]["heart_rate_bpm"]["range"] = [0, 3]
    study = Study.model_validate(table)
    start = transfer(study, _new(study), tmp_path)
    assert start.left == {"vitals": "described otherwise there"}
    fresh, started = _new(study).unpack(), start.model.unpack()
    for name, value in started.items():
        if value.size == 0:
            continue
        is_fresh = np.array_equal(value, fresh[name])
        assert is_fresh == (block_owner(name) == "vitals")


def test_another_outcome_gets_a_new_head_on_the_old_encoders(tmp_path: Path) -> None:
    _written(study_of(), tmp_path)
    table = study_table()
    table["outcomes"] = {
        "stay": {"kind": "regression", "column": "days", "unit": "d", "range": [0, 9]}
    }
    study = Study.model_validate(table)
    start = transfer(study, _new(study), tmp_path)
    assert start.left == {"stay": "not there"}
    assert "labs" in start.taken


def test_another_width_fits_nothing_and_says_so(tmp_path: Path) -> None:
    _written(study_of(), tmp_path)
    study = study_of(model={"width": 8})
    with pytest.raises(RunError, match="labs: of other shapes there"):
        transfer(study, _new(study), tmp_path)


def test_a_folder_of_bare_weights_is_taken_by_name_and_shape(tmp_path: Path) -> None:
    study = study_of()
    model = _written(study, tmp_path, with_study=False)
    partial = {k: v for k, v in model.items() if block_owner(k) == "labs"}
    save_file({k: v.astype(np.float32) for k, v in partial.items()}, tmp_path / MODEL_FILE)
    start = transfer(study, _new(study), tmp_path)
    assert start.taken == {"labs"}
    assert set(start.left.values()) == {"not there"}


def test_half_an_encoder_is_not_taken(tmp_path: Path) -> None:
    study = study_of()
    model = _written(study, tmp_path, with_study=False)
    del model["encoders.labs.numbers.weight"]
    save_file({k: v.astype(np.float32) for k, v in model.items()}, tmp_path / MODEL_FILE)
    assert transfer(study, _new(study), tmp_path).left == {"labs": "built otherwise there"}


@pytest.mark.parametrize(
    ("content", "found"), [(None, "found none"), (b"no model", "readable safetensors")]
)
def test_no_model_is_an_error(tmp_path: Path, content: bytes | None, found: str) -> None:
    if content is not None:
        (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(RunError, match=found):
        read_model(tmp_path)


def test_a_model_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    save_file({"a": np.array([np.nan], dtype=np.float32)}, tmp_path / MODEL_FILE)
    with pytest.raises(RunError, match="NaN"):
        read_model(tmp_path)


def test_a_model_of_other_numbers_is_an_error(tmp_path: Path) -> None:
    save_file({"a": np.array([1.0])}, tmp_path / MODEL_FILE)
    with pytest.raises(RunError, match="float32"):
        read_model(tmp_path)


def test_a_malformed_study_beside_the_model_is_an_error(tmp_path: Path) -> None:
    study = study_of()
    _written(study, tmp_path)
    (tmp_path / "study.toml").write_text("x = 1", encoding="utf-8")
    with pytest.raises(StudyError, match="cannot be read"):
        transfer(study, _new(study), tmp_path)


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ({"num_heads": 2}, {"num_heads": 1}),
        (
            {"fusion": "graph", "edges": [["labs", "vitals"]]},
            {"fusion": "graph", "edges": [["labs", "lifestyle"]]},
        ),
        ({"fusion": "graph", "edges": [["labs", "vitals"]]}, {"fusion": "graph"}),
    ],
    ids=["heads", "edges", "all edges"],
)
def test_a_fusion_of_equal_shapes_and_another_meaning_starts_anew(
    there: dict[str, Any], here: dict[str, Any], tmp_path: Path
) -> None:
    _written(study_of(model=there), tmp_path)
    study = study_of(model=here)
    start = transfer(study, _new(study), tmp_path)
    assert start.left == {"patients": "described otherwise there"}
    assert "labs" in start.taken


@pytest.mark.parametrize(
    ("fusion", "is_taken"), [("concat", False), ("attention", True), ("gated_sum", True)]
)
def test_the_order_of_granularities_counts_where_the_fusion_has_one(
    fusion: str, is_taken: bool, tmp_path: Path
) -> None:
    _written(study_of(model={"fusion": fusion}), tmp_path)
    table = study_table()
    table["model"]["fusion"] = fusion
    table["granularities"] = dict(reversed(table["granularities"].items()))
    study = Study.model_validate(table)
    assert ("patients" in transfer(study, _new(study), tmp_path).taken) == is_taken


def test_the_direction_and_order_of_edges_are_nothing(tmp_path: Path) -> None:
    edges = [["labs", "vitals"], ["vitals", "lifestyle"]]
    _written(study_of(model={"fusion": "graph", "edges": edges}), tmp_path)
    turned = [["lifestyle", "vitals"], ["vitals", "labs"]]
    study = study_of(model={"fusion": "graph", "edges": turned})
    assert transfer(study, _new(study), tmp_path).left == {}
