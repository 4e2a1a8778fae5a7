"""Searches: replayed they try the same; what may be searched; what trials cost."""

import sys
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from common.errors import StudyError
from common.privacy.accounting import epsilon_of
from common.privacy.events import Charge, Gaussian, Part
from common.study_file import load_study, shipped_studies
from simulations.experiments.changes import changed
from simulations.experiments.experiment import Sweep
from simulations.experiments.pareto import front_of, pareto_of
from simulations.experiments.privacy import check_sweep
from simulations.experiments.search import Search, grid_search, new_storage, run_search
from simulations.experiments.settings import Axes, Bases, questions_of
from simulations.experiments.space import default_space, read_space
from simulations.experiments.tuning_cost import epsilon_with_trials
from simulations.experiments.validation import Inner, Validated, best_of
from tests.unit.builders import study_of

SPACE = """
[parameters."training.learning_rate"]
low = 0.01
high = 1.0
log = true
[parameters."granularities.labs.hidden"]
choices = [[], [4], [8, 4]]
[parameters."model.width"]
low = 2
high = 8
"""


def _search(num_trials: int) -> Search:
    return Search(
        name="s",
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=4),
        suggest=lambda trial: {"x": trial.suggest_float("x", -5, 5)},
        directions=("maximize",),
        num_trials=num_trials,
        batch=3,
    )


def _objectives(asked: Sequence[Mapping[str, Any]]) -> list[tuple[float] | None]:
    return [None if values["x"] < -4 else (-((values["x"] - 1) ** 2),) for values in asked]


def test_a_search_that_was_interrupted_tries_what_one_in_one_go_tries() -> None:
    run_search(_search(5), InMemoryStorage(), _objectives)
    again = run_search(_search(12), InMemoryStorage(), _objectives)
    whole = run_search(_search(12), InMemoryStorage(), _objectives)
    assert [t.params for t in again.trials] == [t.params for t in whole.trials]
    assert len(whole.trials) == 12


def test_what_was_tried_can_be_read_with_optunas_own_tools(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    run_search(_search(2), new_storage(path), _objectives)
    loaded = optuna.load_study(study_name="s", storage=f"sqlite:///{path}")
    assert len(loaded.trials) == 2
    assert len(run_search(_search(2), new_storage(path), _objectives).trials) == 2


def test_a_search_ends_early_where_it_is_told_to() -> None:
    answers = iter([True, True, False])
    study = run_search(_search(20), InMemoryStorage(), _objectives, goes_on=lambda: next(answers))
    assert len(study.trials) == 6


def test_a_grid_is_tried_whole_and_a_failed_trial_does_not_stop_it() -> None:
    space = {"a": [1, 2, 3], "b": ["x", "y"]}
    values = {(1, "x"): 0.5, (3, "y"): 0.9}
    study = grid_search(
        "g",
        space,
        InMemoryStorage(),
        lambda v: values.get((v["a"], v["b"])),
        direction="maximize",
    )
    assert len(study.trials) == 6
    assert study.best_params == {"a": 3, "b": "y"}


def test_without_optuna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(StudyError, match=r"pip install 'wardround\[sweep\]'"):
        grid_search("g", {"a": [1]}, InMemoryStorage(), lambda _: 0.0, direction="maximize")


def _validated(*values: float | None) -> Validated:
    return Validated(values=values, failed=[], epsilon=None, charges=[])


def test_the_front_is_what_no_other_beats_in_both_and_all_that_was_tried_is_told() -> None:
    training = study_of().training
    space = pareto_of([0.5, 8.0], Axes(), training, 1.0, num_trials=18)

    def evaluate(cases: Sequence[Any]) -> list[Validated]:
        # More epsilon is better, and a clip away from 1 worse.
        return [_validated((t.epsilon or 0) - 9 * abs((s.clip or 0) - 1)) for t, s in cases]

    tried, front = front_of(space, InMemoryStorage(), evaluate, is_higher=True)
    assert len(tried) == 18
    by_case = {(t, s): v.mean or 0.0 for t, s, v in tried}
    for target, setting in front:
        mine = by_case[target, setting]
        assert not any(
            value >= mine and (t.epsilon or 0) < (target.epsilon or 0)
            for (t, _), value in by_case.items()
        )
    assert [t.epsilon for t, _ in front] == sorted(t.epsilon or 0 for t, _ in front)


def test_one_epsilon_is_no_range_to_search() -> None:
    with pytest.raises(StudyError, match="at least two finite epsilons"):
        pareto_of([1.0], Axes(), study_of().training, 1.0, num_trials=5)


def test_the_first_of_equal_settings_is_chosen_and_a_failed_one_never() -> None:
    told = {"a": _validated(0.7, 0.8), "b": _validated(0.75, 0.75), "c": _validated(0.9, None)}
    assert best_of(told, is_higher=True) == "a"
    assert best_of({"c": told["c"], "b": told["b"]}, is_higher=False) == "b"
    assert best_of({"c": told["c"]}, is_higher=True) == "c"


def test_no_two_trainings_of_inner_validation_share_a_seed() -> None:
    assert Inner(num_folds=2, num_seeds=2).pairs == [(0, 0), (0, 1), (1, 2), (1, 3)]
    with pytest.raises(StudyError, match="Expected at most 5 folds"):
        Inner(num_folds=6).check(study_of())


def test_folds_that_the_study_without_privacy_lacks_are_told_before_anything_is_trained() -> None:
    private = study_of(privacy={"mode": "patient", "epsilon": 3.0, "delta": 1e-4})
    bases = Bases(private=private, reference=study_of(evaluation={"folds": 2}), delta=1e-4)
    questions = questions_of([3.0], [], Axes())
    sweep = Sweep(bases=bases, questions=questions, num_seeds=1, inner=Inner(num_folds=3))
    with pytest.raises(StudyError, match="Expected at most 2 folds"):
        check_sweep(sweep)


@pytest.mark.parametrize("name", shipped_studies())
def test_every_value_of_the_default_space_is_allowed_in_every_shipped_study(name: str) -> None:
    study = load_study(name)
    for key, parameter in default_space(study).parameters.items():
        for value in parameter.ends():
            changed(study, {key: value})


def test_a_space_of_a_file_is_read_and_its_values_suggested(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    space = read_space(path, study_of())
    trial = optuna.trial.FixedTrial(
        {
            "training.learning_rate": 0.123456,
            "granularities.labs.hidden": "[8, 4]",
            "model.width": 6,
        }
    )
    assert space.suggested(trial) == {  # type: ignore[arg-type]  # optuna's own double
        "training.learning_rate": 0.123,
        "granularities.labs.hidden": [8, 4],
        "model.width": 6,
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[parameters."evaluation.test_fraction"]\nchoices = [0.5]', "must not change what"),
        ('[parameters."privacy.epsilon"]\nchoices = [9]', "must not change what"),
        ('[parameters."privacy.max_grad_norm"]\nchoices = [9]', "must not change what"),
        ('[parameters."granularities.labs.features.sex"]\nchoices = [9]', "must not change what"),
        ('[parameters."training.seed"]\nchoices = [9]', "must not change what"),
        ('[parameters."model.width"]\nchoices = [8, 1]', "model.width"),
        ('[parameters."model.width"]\nlow = 8', "either choices, or low and high"),
        ('[parameters."model.width"]\nlow = 8\nhigh = 4', "low below high"),
        ('[parameters."model.width"]\nlow = 0\nhigh = 4\nlog = true', "low below high"),
        ("parameters = {}", "parameters"),
    ],
)
def test_what_a_search_must_not_change_or_a_study_does_not_allow_is_told(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(StudyError, match=told):
        read_space(path, study_of())


def _charges(sigma: float, *, part: Part = Part.TRAIN, split: str = "s") -> list[Charge]:
    return [Charge(event=Gaussian(noise_multiplier=sigma), part=part, split=split)]


def test_trials_are_composed_with_the_run_as_one_history() -> None:
    # Four sums with noise 4 tell as much as one with noise 4 / sqrt(4) = 2.
    run = {"a": _charges(4.0)}
    whole = epsilon_with_trials(run, [run, run, run], delta=1e-4)
    assert whole == pytest.approx(epsilon_of(_charges(4.0 / sqrt(4)), 1e-4), rel=1e-9)
    assert whole is not None
    assert whole > epsilon_of(_charges(4.0), 1e-4)


def test_the_hospital_that_pays_most_counts_and_an_absent_one_pays_nothing() -> None:
    run = {"a": _charges(4.0), "b": _charges(5.0)}
    trials = [{"b": _charges(5.0)}, {"b": _charges(5.0)}]
    told = epsilon_with_trials(run, trials, delta=1e-4)
    assert told == pytest.approx(epsilon_of(_charges(5.0 / sqrt(3)), 1e-4), rel=1e-9)
    assert epsilon_with_trials({}, trials, delta=1e-4) is None


def test_a_patient_is_in_one_part_of_a_fold_and_pays_for_the_dearer_one() -> None:
    # A trial trains on others than it is judged on: nobody pays for both.
    run = {"a": _charges(4.0, split="whole")}
    trial = {"a": [*_charges(8.0, split="fold"), *_charges(9.0, part=Part.TEST, split="fold")]}
    told = epsilon_with_trials(run, [trial], delta=1e-4)
    sigma = 1 / sqrt(1 / 4.0**2 + 1 / 8.0**2)
    assert told == pytest.approx(epsilon_of(_charges(sigma), 1e-4), rel=1e-9)
