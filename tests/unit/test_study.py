"""The study: what is accepted, what is refused and by which key, and what the hash covers."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from torch import nn

from common.contract import validate
from common.errors import StudyError
from common.fields import TORCH_NAMES
from common.plan import Training
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, study_of, study_table

AGE = "granularities.labs.features.age_years"
SEX = "granularities.labs.features.sex"


def _set(table: dict[str, Any], key: str, value: object) -> None:
    *sections, last = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
    if value is None:
        del table[last]
    else:
        table[last] = value


# key, value (None: removed), and what the error must name beside the key
REFUSED: list[tuple[str, Any, str]] = [
    ("study.name", "With Capitals", "pattern"),
    ("study.name", "../etc", "pattern"),
    ("study.name", None, "required and missing"),
    ("study.sponsor", "x", "unknown key"),
    ("unknown", {}, "unknown key"),
    ("outcomes", None, "required and missing"),
    ("outcomes", {}, "at least 1"),
    ("outcomes.event.column", "with space", "pattern"),
    ("outcomes.event.kind", "ordinal", "binary"),
    ("outcomes.event", {"column": "event", "kind": "binary", "classes": ["a"]}, "found 1"),
    (
        "outcomes.event",
        {"column": "event", "kind": "binary", "classes": ["a", "a"]},
        "differ from one another",
    ),
    ("outcomes.event", {"column": "event", "kind": "binary", "classes": ["a", ""]}, "non-empty"),
    (
        "outcomes.event",
        {"column": "event", "kind": "binary", "classes": ["a", "b", "c"]},
        "found 3",
    ),
    (
        "outcomes.event",
        {"column": "event", "kind": "multiclass", "classes": ["a", "b"]},
        "3 or more",
    ),
    ("granularities", {}, "at least 1"),
    ("granularities.Labs", {"kind": "tabular", "features": {}}, "pattern"),
    ("granularities.labs.kind", "imaging", "tabular"),
    ("granularities.labs.features", {}, "at least 1"),
    ("granularities.labs.hidden", [0], "greater than or equal to 1"),
    ("granularities.labs.max_unusable_fraction", 1.0, "less than 1"),
    (f"{AGE}.kind", "ordinal", "numeric"),
    (f"{AGE}.unit", None, "required and missing"),
    (f"{AGE}.range", [1, 1], "low < high"),
    (f"{AGE}.range", [2, 1], "low < high"),
    (f"{AGE}.range", [0, float("inf")], "finite"),
    (f"{AGE}.range", [0, float("nan")], "finite"),
    (f"{AGE}.range", [0], "required and missing"),
    (f"{AGE}.missing_codes", [float("nan")], "finite"),
    (f"{AGE}.mean", 50, "unknown key"),
    (f"{SEX}.categories", ["female"], "at least 2"),
    (f"{SEX}.categories", ["female", "female"], "differ"),
    (f"{SEX}.categories", ["female", ""], "non-empty"),
    ("normalisation.method", "per_site", "public_range"),
    ("evaluation.test_fraction", 0.0, "greater than 0"),
    ("evaluation.test_fraction", 1.0, "less than 1"),
    ("evaluation.split_seed", -1, "greater than or equal to 0"),
    ("evaluation.split_seed", 1.0, "integer"),
    ("evaluation.folds", 1, "greater than or equal to 2"),
    ("evaluation.score_bins", 9, "greater than or equal to 10"),
    ("model.width", 1, "greater than or equal to 2"),
    ("model.fusion", "sum", "gated_sum"),
    ("model.dropout", 1.0, "less than 1"),
    ("model.dropout", float("nan"), "than"),
    ("training.rounds", 0, "greater than or equal to 1"),
    ("training.rounds", 2.0, "integer"),
    ("training.rounds", True, "integer"),
    ("training.rounds", None, "required and missing"),
    ("training.learning_rate", 0, "greater than 0"),
    ("training.learning_rate", float("inf"), "finite"),
    ("training.optimizer", "lion", "adamw"),
    ("strategy.name", "fedsgd", "fedavg"),
    ("strategy.combine", "max", "median"),
    ("strategy.trimmed_fraction", 0.5, "less than 0.5"),
    ("strategy.min_sites", 1, "greater than or equal to 2"),
    ("strategy.tau", 0, "greater than 0"),
    ("privacy.mode", "a lot", "none"),
    ("privacy", {"epsilon": 1.0}, "expected the key 'mode'"),
    ("privacy", {"mode": "none", "epsilon": 1.0}, "unknown key"),
    ("privacy", {"mode": "patient", "delta": 1e-4}, "exactly one of epsilon and noise_multiplier"),
    ("privacy", {"mode": "site", "epsilon": 1.0, "delta": 0.5}, "less than or equal to 0.01"),
]


def _faults(table: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        validate(table, Study, StudyError, where="study.toml")
    return str(caught.value)


@pytest.mark.parametrize(("key", "value", "names"), REFUSED, ids=lambda v: str(v)[:50])
def test_what_is_not_allowed_is_refused_by_its_key(key: str, value: object, names: str) -> None:
    table = study_table()
    _set(table, key, value)
    faults = _faults(table)
    for part in key.split("."):
        assert part in faults
    assert names in faults


def test_heads_that_do_not_divide_the_width_are_refused_for_attention_alone() -> None:
    table = study_table()
    table["model"] = {"width": 6, "num_heads": 4}
    assert "model: expected a width that num_heads divides, found 6 and 4" in _faults(table)
    table["model"]["fusion"] = "concat"
    assert Study.model_validate(table).model.width == 6


def test_a_fold_beyond_the_last_is_refused() -> None:
    table = study_table()
    table["evaluation"] = {"folds": 3, "validation_fold": 3}
    assert "evaluation: expected validation_fold below folds = 3, found 3" in _faults(table)


@pytest.mark.parametrize("work", [{}, {"local_epochs": 1, "local_steps": 1}])
def test_exactly_one_measure_of_local_work_is_given(work: dict[str, int]) -> None:
    table = study_table()
    table["training"] = {"rounds": 1, **work}
    assert "training: expected exactly one of local_epochs and local_steps" in _faults(table)


@pytest.mark.parametrize("column", ["event", "split", "patient_id", "heart_rate_bpm"])
def test_a_column_that_is_named_twice_is_refused(column: str) -> None:
    table = study_table()
    table["granularities"]["labs"]["features"][column] = {
        "kind": "numeric",
        "unit": "",
        "range": [0, 1],
    }
    assert f"found more than once: {column}" in _faults(table)


def test_a_granularity_cannot_take_the_name_under_which_all_patients_are_counted() -> None:
    table = study_table()
    table["granularities"]["patients"] = table["granularities"].pop("vitals")
    assert (
        "differ from one another and from 'patients', 'personal' and 'fusion', found patients"
        in _faults(table)
    )


@pytest.mark.parametrize("name", ["patients", "personal", "labs"])
def test_an_outcome_cannot_take_a_name_under_which_something_else_is_counted(name: str) -> None:
    table = study_table()
    table["outcomes"][name] = table["outcomes"].pop("event")
    assert (
        f"differ from one another and from 'patients', 'personal' and 'fusion', found {name}"
        in _faults(table)
    )


@pytest.mark.parametrize("column", ["event", "split", "patient_id", "heart_rate_bpm"])
def test_a_column_of_two_outcomes_or_of_an_outcome_and_something_else_is_refused(
    column: str,
) -> None:
    table = study_table()
    table["outcomes"]["death"] = MORE_OUTCOMES["death"] | {"event_column": column}
    assert f"found more than once: {column}" in _faults(table)


def test_a_study_cannot_be_changed() -> None:
    study = study_of()
    with pytest.raises(ValidationError, match="frozen"):
        study.training.rounds = 99  # type: ignore[misc]


def test_all_faults_are_told_at_once() -> None:
    table = study_table()
    table["training"]["rounds"] = 0
    table["model"] = {"width": 1, "colour": "red"}
    faults = _faults(table)
    assert faults.startswith("Found 3 faults in study.toml:\n")
    assert all(f"  {key}: " in faults for key in ("training.rounds", "model.width", "model.colour"))


def test_what_is_left_out_is_hashed_as_its_default() -> None:
    table = study_table()
    table["strategy"] = {"name": "fedavg", "min_sites": 2}
    table["training"]["learning_rate"] = 5e-2
    assert Study.model_validate(table).hash == study_of().hash


def _leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(value, list) and value:
        for index, part in enumerate(value):
            yield from _leaves(part, (*path, index))
    else:
        yield path


def _other(value: object) -> object:
    match value:
        case bool() | None:
            return 3
        case int():
            return value + 1
        case float():
            return value * 1.5 + 0.25
        case str():
            return value + "_x"
        case _:
            return [7]


def test_any_difference_changes_the_hash() -> None:
    study = study_of()
    dumped = study.model_dump(mode="json")
    leaves = list(_leaves(dumped))
    assert len(leaves) > 50
    hashes = {study.hash}
    for path in leaves:
        table = study.model_dump()
        _change(table, path)
        # `model_construct` skips validation: a leaf may have only one allowed value.
        changed = Study.model_construct(**table)
        with pytest.warns(UserWarning, match="serializer"):
            hashes.add(changed.hash)
    assert len(hashes) == 1 + len(leaves)


def _change(table: Any, path: tuple[str | int, ...]) -> None:
    *parents, last = path
    for step in parents:
        if isinstance(table[step], tuple):
            table[step] = list(table[step])
        table = table[step]
    value = table[last]
    table[last] = _other(list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("section", ["granularities", "features", "categories", "outcomes"])
def test_the_order_of_the_models_inputs_and_outputs_is_part_of_the_hash(section: str) -> None:
    table = study_table()
    table["outcomes"] |= MORE_OUTCOMES
    first = Study.model_validate(table)
    table = copy.deepcopy(table)
    labs = table["granularities"]["labs"]
    match section:
        case "granularities":
            table["granularities"] = dict(reversed(table["granularities"].items()))
        case "features":
            labs["features"] = dict(reversed(labs["features"].items()))
        case "categories":
            labs["features"]["sex"]["categories"].reverse()
        case "outcomes":
            table["outcomes"] = dict(reversed(table["outcomes"].items()))
    changed = Study.model_validate(table)
    assert changed.hash != first.hash
    assert changed != first


def test_equal_studies_are_one_key() -> None:
    assert study_of() == study_of()
    assert len({study_of(), study_of(), study_of(training={"rounds": 4})}) == 2
    assert study_of() != "small"


def test_features_are_told_apart_in_the_order_of_the_study() -> None:
    labs = study_of().granularities["labs"]
    assert list(labs.numeric) == ["age_years", "glucose"]
    assert list(labs.categorical) == ["sex"]
    assert study_of().name == "small"


def test_the_first_outcome_is_the_primary_one() -> None:
    study = study_of(outcomes=MORE_OUTCOMES)
    assert list(study.outcomes) == ["event", "stay", "death"]
    assert study.primary == study.outcomes["event"]


@pytest.mark.parametrize(
    ("work", "num_patients", "num_steps"),
    # Epochs of 17 patients in batches of 8: 3 batches, the last of one patient.
    [
        ({"local_epochs": 1}, 17, 3),
        ({"local_epochs": 2}, 17, 6),
        ({"local_epochs": 2}, 16, 4),
        ({"local_epochs": 2}, 0, 0),
        ({"local_steps": 5}, 17, 5),
    ],
)
def test_steps_of_a_round(work: dict[str, int], num_patients: int, num_steps: int) -> None:
    plan = Training(rounds=1, batch_size=8, **work)
    assert plan.steps_of(num_patients) == num_steps


def _with_name(section: str, name: str) -> dict[str, Any]:
    table = study_table()
    first = next(iter(table[section]))
    table[section][name] = table[section].pop(first)
    return table


@pytest.mark.parametrize("section", ["granularities", "outcomes"])
@pytest.mark.parametrize("name", ["training", "type", "train", "keys"])
def test_a_name_of_torchs_own_is_one_clear_error(section: str, name: str) -> None:
    with pytest.raises(ValidationError, match=f"torch does not use itself, found {name}"):
        Study.model_validate(_with_name(section, name))


def test_every_name_that_torchs_modules_have_is_refused() -> None:
    own = {*dir(nn.ModuleDict()), *dir(nn.ModuleDict)}
    assert {name for name in own if re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name)} <= TORCH_NAMES


def test_what_reports_call_the_fusion_is_no_name_of_a_granularity() -> None:
    with pytest.raises(ValidationError, match="found fusion"):
        Study.model_validate(_with_name("granularities", "fusion"))


def test_edges_are_of_a_graph_alone_and_between_different_granularities() -> None:
    edges = [["labs", "vitals"]]
    assert study_of(model={"fusion": "graph", "edges": edges}).model.edges
    with pytest.raises(ValidationError, match="found fusion = 'attention'"):
        study_of(model={"edges": edges})
    with pytest.raises(ValidationError, match="found labs twice"):
        study_of(model={"fusion": "graph", "edges": [*edges, ["labs", "labs"]]})
