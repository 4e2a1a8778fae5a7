"""Studies on disk: round trips, overrides, and errors that name what is wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import StudyError
from common.study import Study
from common.study_file import (
    load_study,
    override,
    shipped_studies,
    study_from_toml,
    study_of_run,
    study_to_toml,
    without_granularity,
)
from tests.unit.builders import study_of


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_is_valid_and_called_as_its_file(name: str) -> None:
    assert load_study(name).name == name


@st.composite
def studies(draw: st.DrawFn) -> Study:
    text = st.text(st.characters(codec="utf-8"), max_size=30)
    number = st.floats(allow_nan=False, allow_infinity=False)
    held = st.floats(-(2.0**39), 2.0**39, width=32, allow_subnormal=False)
    ends = st.tuples(held, held).filter(lambda pair: abs(pair[0] - pair[1]) > 1e-29)
    low, high = sorted(draw(ends))
    numeric = {
        "kind": "numeric",
        "unit": draw(text),
        "range": [low, high],
        "missing_codes": draw(st.lists(number, max_size=3)),
    }
    categories = draw(st.lists(text.filter(bool), min_size=2, max_size=4, unique=True))
    features = {"x1": numeric, "x2": {"kind": "categorical", "categories": categories}}
    order = draw(st.permutations(["x1", "x2"]))
    tabular = {"kind": "tabular", "features": {name: features[name] for name in order}}
    return study_of(
        study={"title": draw(text), "description": draw(text)},
        granularities={draw(st.sampled_from(["zz", "aa"])): tabular},
        evaluation={"validation_fold": draw(st.none() | st.integers(0, 4))},
        training={"learning_rate": draw(st.floats(1e-9, 1e9)), "seed": draw(st.integers(0, 2**62))},
    )


@given(studies())
def test_a_study_survives_toml_with_its_hash(study: Study) -> None:
    assert study_from_toml(study_to_toml(study)).hash == study.hash


def test_a_study_survives_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(study_to_toml(study_of()), encoding="utf-8")
    assert load_study(path) == load_study(str(path)) == study_of()


def test_a_name_that_is_not_shipped_is_refused_with_those_that_are() -> None:
    with pytest.raises(StudyError, match=r"shipped study \(demo, .*found 'dmeo'"):
        load_study("dmeo")


def test_a_path_out_of_the_shipped_folder_is_no_name() -> None:
    with pytest.raises(StudyError, match=r"found '\.\./studies/demo'"):
        load_study("../studies/demo")


def test_a_text_that_is_not_toml_says_where_it_came_from() -> None:
    with pytest.raises(StudyError, match=r"Expected TOML in the reply of north, found: .*line 1"):
        study_from_toml("=", where="the reply of north")


def test_a_text_that_is_no_study_names_its_keys() -> None:
    with pytest.raises(StudyError, match="outcomes: required and missing"):
        study_from_toml("[study]\nname = 'a'\n")


def test_an_override_makes_another_study_and_leaves_the_first() -> None:
    study = study_of()
    other = override(study, training__rounds=7, strategy__name="fedadam")
    assert (other.training.rounds, other.strategy.name) == (7, "fedadam")
    assert (study.training.rounds, study.strategy.name) == (3, "fedavg")
    assert other.hash != study.hash
    assert override(other, training__rounds=3, strategy__name="fedavg").hash == study.hash


def test_an_override_with_none_changes_nothing() -> None:
    assert override(study_of(), training__rounds=None) == study_of()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"training__rounds": 0}, "training.rounds"),
        ({"strategy__name": "fedsgd"}, "strategy.name"),
        ({"training__speed": 1}, "training.speed"),
        ({"training__local_steps": 4}, "training"),
    ],
)
def test_a_forbidden_override_is_refused_by_its_key(changes: dict[str, object], key: str) -> None:
    with pytest.raises(StudyError, match=f"study 'small' with overrides:\n  {key}: "):
        override(study_of(), **changes)


def test_a_study_can_do_without_a_granularity() -> None:
    other = without_granularity(study_of(), "labs")
    assert list(other.granularities) == ["vitals", "lifestyle"]
    assert other.hash != study_of().hash


def test_what_a_plan_says_of_a_granularity_goes_with_it() -> None:
    plan = {"edges": [["labs", "vitals"], ["vitals", "lifestyle"]], "frozen": ["labs", "vitals"]}
    other = without_granularity(study_of(model={"fusion": "graph", **plan}), "labs")
    assert other.model.edges == (("vitals", "lifestyle"),)
    assert other.model.frozen == ("vitals",)


def test_a_granularity_that_is_not_there_cannot_be_left_out() -> None:
    with pytest.raises(StudyError, match=r"labs, vitals, lifestyle.*found 'imaging'"):
        without_granularity(study_of(), "imaging")


def test_the_only_granularity_cannot_be_left_out() -> None:
    last = without_granularity(without_granularity(study_of(), "labs"), "vitals")
    with pytest.raises(StudyError, match="found 'lifestyle'"):
        without_granularity(last, "lifestyle")


AS_IT_IS = {"study": "demo", "rounds": 0, "seed": -1, "strategy": ""}


def test_a_run_configuration_without_overrides_is_the_study_itself() -> None:
    assert study_of_run(AS_IT_IS) == load_study("demo")


def test_a_run_configuration_overrides_rounds_seed_and_strategy() -> None:
    study = study_of_run(AS_IT_IS | {"rounds": 2, "seed": 0, "strategy": "fedyogi"})
    assert (study.training.rounds, study.training.seed) == (2, 0)
    assert study.strategy.name == "fedyogi"


def test_a_seed_of_zero_is_an_override() -> None:
    shipped = load_study("demo")
    assert study_of_run(AS_IT_IS | {"seed": 5}).training.seed == 5
    assert study_of_run(AS_IT_IS | {"seed": 0}).training.seed == 0
    assert shipped.training.seed == 0


def test_leaving_a_granularity_out_does_not_join_all_others_by_the_way() -> None:
    study = study_of(model={"fusion": "graph", "edges": [["labs", "vitals"]]})
    with pytest.raises(StudyError, match=r"Expected model\.edges .* that join others than 'labs'"):
        without_granularity(study, "labs")
    assert without_granularity(study, "lifestyle").model.edges == (("labs", "vitals"),)


def test_one_granularity_that_is_left_has_no_edges() -> None:
    study = study_of(model={"fusion": "graph", "edges": [["labs", "vitals"]]})
    assert without_granularity(without_granularity(study, "lifestyle"), "labs").model.edges == ()
