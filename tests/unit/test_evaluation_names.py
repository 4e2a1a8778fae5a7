"""The names of statistics on the wire and in the journal: what is declared is what is sent."""

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics.classification import ClassStatistics
from common.metrics.evaluation import (
    PERSONAL,
    SECONDS,
    declared_sizes,
    from_flat,
    groups_of,
    noised_statistics_of,
    statistic_of,
    statistics_of,
    to_flat,
)
from common.metrics.noised_classes import NoisedClasses
from common.metrics.noised_regression import NoisedRegression
from common.metrics.noised_survival import NoisedSurvival
from common.metrics.regression import RegressionStatistics
from common.metrics.statistics import EvaluationSums
from common.metrics.survival import SurvivalStatistics
from common.privacy.sections import PatientPrivacy
from common.study import Study

OUTCOMES: dict[str, dict[str, Any]] = {
    "event": {"kind": "binary", "column": "event", "classes": ["no", "yes"]},
    "stage": {"kind": "multiclass", "column": "stage", "classes": ["a", "b", "c"]},
    "stay": {"kind": "regression", "column": "days", "unit": "days", "range": [0, 60]},
    "death": {
        "kind": "survival",
        "time_column": "time",
        "event_column": "died",
        "unit": "days",
        "cut_points": [30, 90],
    },
    "relapse": {
        "kind": "survival",
        "time_column": "time_2",
        "event_column": "relapsed",
        "unit": "days",
        "cut_points": [30],
        "loss": "cox",
    },
}


def study_of(outcomes: dict[str, dict[str, Any]] = OUTCOMES, **personal: object) -> Study:
    number = {"kind": "numeric", "unit": "years", "range": [0, 100]}
    return Study.model_validate(
        {
            "study": {"name": "small"},
            "outcomes": outcomes,
            "granularities": {"labs": {"kind": "tabular", "features": {"age_years": number}}},
            "evaluation": {"score_bins": 10},
            "training": {"rounds": 1, "local_steps": 1},
            "personal": personal,
        }
    )


STUDY = study_of()
WITH_OWN = study_of(fine_tune_steps=1)


def sums_of(study: Study, num_patients: int, seed: int) -> dict[str, EvaluationSums]:
    """The sums of random predictions, a third of each outcome unknown."""
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, 100, num_patients).astype(np.float32)
    died = rng.random(num_patients) < 0.5
    labels: dict[str, dict[str, Any]] = {
        "event": {"label_B": rng.integers(2, size=num_patients)},
        "stage": {"label_B": rng.integers(3, size=num_patients)},
        "stay": {"value_B": rng.uniform(0, 60, num_patients).astype(np.float32)},
        "death": {"time_B": times, "event_B": died},
        "relapse": {"time_B": times, "event_B": died},
    }
    survival = np.sort(rng.uniform(0, 1, (num_patients, 2)), axis=1)[:, ::-1]
    predictions = {
        "event": rng.dirichlet(np.ones(2), num_patients),
        "stage": rng.dirichlet(np.ones(3), num_patients),
        "stay": rng.uniform(0, 60, (num_patients, 1)),
        "death": survival,
        "relapse": survival[:, :1],
    }
    return {
        name: statistics.sums_of(
            predictions[name], labels[name] | {"known_B": rng.random(num_patients) < 2 / 3}
        )
        for name, statistics in statistics_of(study).items()
    }


def test_each_outcome_has_the_statistics_of_its_kind() -> None:
    assert statistics_of(STUDY) == {
        "event": ClassStatistics(num_classes=2, score_bins=10),
        "stage": ClassStatistics(num_classes=3, score_bins=10),
        "stay": RegressionStatistics(range=(0, 60)),
        "death": SurvivalStatistics(cut_points=(30, 90), has_likelihood=True),
        "relapse": SurvivalStatistics(cut_points=(30,), has_likelihood=False),
    }


def test_a_statistic_is_named_by_model_outcome_and_itself() -> None:
    sums = {"event": EvaluationSums(sums={"confusion": np.array([[1.0, 2.0], [3.0, 4.0]])})}
    assert to_flat(sums) == {"event.confusion": (1.0, 2.0, 3.0, 4.0)}
    assert to_flat(sums, model=PERSONAL) == {"personal.event.confusion": (1.0, 2.0, 3.0, 4.0)}


@given(st.integers(0, 60), st.integers(0, 2**32))
def test_what_is_sent_reads_back_as_it_was(num_patients: int, seed: int) -> None:
    sums, own = (sums_of(WITH_OWN, num_patients, seed + k) for k in (0, 1))
    flat = to_flat(sums) | to_flat(own, model=PERSONAL)
    for model, expected in (("", sums), (PERSONAL, own)):
        found = from_flat(WITH_OWN, flat, model=model)
        assert found.keys() == expected.keys()
        for outcome, evaluation in expected.items():
            assert found[outcome].sums.keys() == evaluation.sums.keys()
            for name, value in evaluation.sums.items():
                np.testing.assert_array_equal(found[outcome].sums[name], value)


@pytest.mark.parametrize("study", [STUDY, WITH_OWN], ids=["shared", "with its own"])
def test_exactly_what_is_sent_is_declared_in_its_size(study: Study) -> None:
    flat = to_flat(sums_of(study, 30, seed=1))
    if study.personal.has_model:
        flat |= to_flat(sums_of(study, 30, seed=1), model=PERSONAL)
    sizes = {name: len(values) for name, values in flat.items()}
    assert declared_sizes(study) == sizes | dict.fromkeys(SECONDS, 1)


@pytest.mark.parametrize("personal", [{}, {"local_blocks": ["heads.*"]}])
def test_without_models_of_their_own_nothing_personal_is_declared(
    personal: dict[str, object],
) -> None:
    study = study_of(**personal)
    assert not [name for name in declared_sizes(study) if name.startswith(PERSONAL)]
    assert groups_of(study) == ["event.", "stage.", "stay.", "death.", "relapse."]


@pytest.mark.parametrize("study", [STUDY, WITH_OWN], ids=["shared", "with its own"])
def test_every_declared_statistic_is_in_exactly_one_group(study: Study) -> None:
    for name in declared_sizes(study).keys() - set(SECONDS):
        assert len([group for group in groups_of(study) if name.startswith(group)]) == 1, name


def test_an_outcome_whose_name_begins_another_is_kept_apart() -> None:
    binary = OUTCOMES["event"]
    study = study_of({"event": binary, "event_2": binary | {"column": "event_2"}})
    statistics = statistics_of(study)["event_2"]
    flat = to_flat({"event_2": statistics.zero()})
    assert from_flat(study, flat).keys() == {"event_2"}


def test_an_outcome_of_which_nothing_was_sent_is_missing() -> None:
    flat = to_flat(sums_of(STUDY, 30, seed=2))
    kept = {name: v for name, v in flat.items() if not name.startswith("stage.")}
    assert from_flat(STUDY, kept).keys() == STUDY.outcomes.keys() - {"stage"}
    assert from_flat(STUDY, {"seconds_training": (1.0,)}) == {}


def test_personal_statistics_are_not_those_of_the_shared_model() -> None:
    flat = to_flat(sums_of(WITH_OWN, 30, seed=3), model=PERSONAL)
    assert from_flat(WITH_OWN, flat) == {}
    assert from_flat(WITH_OWN, flat, model=PERSONAL).keys() == WITH_OWN.outcomes.keys()


def test_statistics_without_their_number_of_patients_are_refused() -> None:
    flat = to_flat(sums_of(STUDY, 30, seed=4))
    del flat["stay.num_patients"]
    with pytest.raises(ValueError, match="num_patients, found none"):
        from_flat(STUDY, flat)


def test_sums_of_one_outcome_do_not_pass_for_those_of_another() -> None:
    flat = to_flat(sums_of(STUDY, 30, seed=5))
    moved = {name.replace("event.", "stage."): v for name, v in flat.items() if "event." in name}
    with pytest.raises(ValueError, match="shape"):
        from_flat(STUDY, moved)


@pytest.mark.parametrize(
    ("full", "plain"),
    [
        ("event.confusion", "confusion"),
        ("personal.event.confusion", "confusion"),
        ("seconds_training", "seconds_training"),
    ],
)
def test_policies_list_statistics_by_their_plain_name(full: str, plain: str) -> None:
    assert statistic_of(full) == plain


def test_the_sizes_are_the_products_of_the_shapes() -> None:
    sizes = declared_sizes(STUDY)
    for outcome, statistics in statistics_of(STUDY).items():
        for name, shape in statistics.shapes().items():
            assert sizes[f"{outcome}.{name}"] == prod(shape)


PRIVATE = study_of(
    {name: o for name, o in OUTCOMES.items() if name != "relapse"}, fine_tune_steps=1
)
PRIVATE = PRIVATE.model_copy(
    update={
        "privacy": PatientPrivacy(
            mode="patient", noise_multiplier=1.0, delta=1e-4, evaluation_bins=7
        )
    }
)


def test_a_private_study_has_noised_statistics_in_its_own_bins() -> None:
    assert statistics_of(PRIVATE) == {
        # Of classes an even number: an edge at .5.
        "event": NoisedClasses(num_classes=2, score_bins=8),
        "stage": NoisedClasses(num_classes=3, score_bins=8),
        "stay": NoisedRegression(range=(0, 60)),
        "death": NoisedSurvival(cut_points=(30, 90), has_likelihood=True, num_bins=7),
    }
    assert all(statistics.is_noised for statistics in statistics_of(PRIVATE).values())
    assert not any(statistics.is_noised for statistics in statistics_of(STUDY).values())


def test_a_private_study_declares_no_seconds_and_nothing_personal() -> None:
    sizes = declared_sizes(PRIVATE)
    assert not sizes.keys() & set(SECONDS)
    assert not [name for name in sizes if name.startswith(PERSONAL)]
    assert groups_of(PRIVATE) == ["event.", "stage.", "stay.", "death."]
    zero = to_flat({name: one.zero() for name, one in statistics_of(PRIVATE).items()})
    assert {name: len(values) for name, values in zero.items()} == sizes


def test_a_study_without_privacy_has_no_noised_statistics() -> None:
    with pytest.raises(ValueError, match="found 'none'"):
        noised_statistics_of(STUDY)
