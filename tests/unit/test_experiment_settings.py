"""What a sweep asks: which settings may be compared, and the studies that questions stand for."""

import pytest

from common.errors import StudyError
from common.study_file import load_study
from simulations.experiments.changes import changed, value_at
from simulations.experiments.make import bases_of
from simulations.experiments.settings import Axes, Bases, Setting, Target, questions_of
from tests.unit.builders import study_of

PRIVATE = study_of(
    model={"width": 4, "num_heads": 2, "site_intercept_sd": 1.0},
    privacy={"mode": "patient", "epsilon": 3.0, "delta": 1e-5, "max_grad_norm": 0.7},
)
BASES = Bases(private=PRIVATE, reference=study_of(), delta=1e-4)


def test_every_combination_is_compared_once_and_nothing_where_nothing_is_asked() -> None:
    axes = Axes(clip=(0.5, 1.0), rounds=(10,), local_steps=(1, 2))
    assert [s.name for s in axes.settings()] == [
        "clip 0.5, rounds 10, local steps 1",
        "clip 0.5, rounds 10, local steps 2",
        "clip 1, rounds 10, local steps 1",
        "clip 1, rounds 10, local steps 2",
    ]
    assert Axes().settings() == [Setting()]


def test_with_noise_in_place_of_epsilon_only_settings_of_equal_work_are_compared() -> None:
    questions = questions_of([], [2.0], Axes(clip=(0.5, 1.0), rounds=(5, 10)))
    private = [q for q in questions if q.target.is_private]
    assert [q.name for q in private] == [
        "noise multiplier 2, rounds 5",
        "noise multiplier 2, rounds 10",
    ]
    assert all(len(q.settings) == 2 for q in private)


def test_without_privacy_nothing_is_clipped_and_the_studys_own_settings_take_part() -> None:
    *_, plain = questions_of([1.0], [], Axes(clip=(0.5, 1.0), rounds=(5,)))
    assert plain.target == Target()
    assert list(plain.settings) == [Setting(), Setting(rounds=5)]


def test_a_question_of_epsilon_changes_the_private_study() -> None:
    study = BASES.study(Target(epsilon=0.5), Setting(clip=2.0, local_steps=3))
    assert study.privacy.model_dump(include={"epsilon", "delta", "max_grad_norm"}) == {
        "epsilon": 0.5,
        "delta": 1e-4,
        "max_grad_norm": 2.0,
    }
    assert (study.training.local_steps, study.training.local_epochs) == (3, None)
    assert study.model.site_intercept_sd == 0


def test_noise_replaces_epsilon() -> None:
    study = BASES.study(Target(noise_multiplier=4.0), Setting())
    privacy = study.privacy.model_dump()
    assert (privacy["epsilon"], privacy["noise_multiplier"]) == (None, 4.0)
    assert privacy["max_grad_norm"] == 0.7


def test_the_question_without_privacy_has_the_other_study_and_no_clip() -> None:
    study = BASES.study(Target(), Setting(clip=2.0, rounds=9))
    assert study == changed(study_of(), {"training.rounds": 9})


def test_a_key_that_the_study_does_not_have_is_told() -> None:
    with pytest.raises(StudyError, match=r"Expected a key of the study.*'trainnig.rounds'"):
        changed(study_of(), {"trainnig.rounds": 3})
    with pytest.raises(StudyError, match="unknown key"):
        changed(study_of(), {"training.round": 3})


def test_a_value_is_read_at_its_key() -> None:
    assert value_at(study_of(), "training.batch_size") == 8
    assert value_at(study_of(), "training.local_steps") is None


@pytest.mark.parametrize("name", ["heart-disease", "demo"])
def test_a_shipped_study_is_made_private_by_its_private_twin(name: str) -> None:
    bases = bases_of(name, private_name=None, delta=None)
    assert (bases.private.name, bases.reference.name) == (f"{name}-private", name)
    assert bases.delta == 1e-4


def test_a_study_without_a_twin_and_a_private_one_stand_for_themselves() -> None:
    for name in ("hannover-cxr", "heart-disease-private"):
        bases = bases_of(name, private_name=None, delta=1e-6)
        assert bases.private == bases.reference == load_study(name)
        assert bases.delta == 1e-6


def test_studies_that_are_judged_on_other_outcomes_are_not_compared() -> None:
    with pytest.raises(StudyError, match="'heart-disease' and 'demo' to differ"):
        bases_of("heart-disease", private_name="demo", delta=None)
