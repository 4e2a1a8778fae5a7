"""The linear anchor: ridge regression in closed form, the laws of logistic regression, inputs."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data import Cohort
from common.study import Study
from simulations.logistic import logistic_predictions

Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]

NUMBER = {"kind": "numeric", "unit": "u", "range": [-100, 100]}
OUTCOMES: dict[str, dict[str, Any]] = {
    "event": {"kind": "binary", "column": "event", "classes": ["no", "yes"]},
    "stage": {"kind": "multiclass", "column": "stage", "classes": ["a", "b", "c"]},
    "stay": {"kind": "regression", "column": "stay", "unit": "days", "range": [0, 100]},
    "cost": {
        "kind": "regression",
        "column": "cost",
        "unit": "€",
        "range": [0, 1e9],
        "scale": "log",
    },
    "death": {
        "kind": "survival",
        "time_column": "t",
        "event_column": "e",
        "unit": "days",
        "cut_points": [10],
    },
}


def study_of(*outcomes: str) -> Study:
    """What of the granularities is written here does not matter: the anchor looks at arrays."""
    return Study.model_validate(
        {
            "study": {"name": "small"},
            "outcomes": {name: OUTCOMES[name] for name in outcomes},
            "granularities": {"labs": {"kind": "tabular", "features": {"x": NUMBER, "y": NUMBER}}},
            "training": {"rounds": 1, "local_steps": 1},
        }
    )


def labs_of(num_patients: int, seed: int) -> Arrays:
    """Two numbers and one category of three, a fifth of everything missing."""
    rng = np.random.default_rng(seed)
    observed_BF = rng.random((num_patients, 2)) < 0.8
    values = rng.normal([3.0, -1.0], [2.0, 0.1], (num_patients, 2))
    return {
        "present_B": np.ones(num_patients, dtype=np.bool_),
        "numeric_BF": np.where(observed_BF, values, 0.0).astype(np.float32),
        "observed_BF": observed_BF,
        "codes_BK": rng.integers(4, size=(num_patients, 1)),
    }


def outcomes_of(labs: Arrays, seed: int) -> dict[str, Arrays]:
    """Outcomes that depend on the first number and the category; a tenth is unknown."""
    rng = np.random.default_rng(seed)
    num_patients = len(labs["present_B"])
    score_B = labs["numeric_BF"][:, 0] + labs["codes_BK"][:, 0] + rng.normal(0, 1, num_patients)
    known_B = rng.random(num_patients) < 0.9
    arrays: dict[str, Arrays] = {
        "event": {"label_B": np.where(known_B, score_B > 4, -1).astype(np.int64)},
        "stage": {"label_B": np.where(known_B, np.digitize(score_B, [3.0, 5.0]), -1)},
        "stay": {"value_B": np.where(known_B, 20 + 3 * score_B, 0).astype(np.float32)},
        "cost": {"value_B": np.where(known_B, np.exp(score_B), 0).astype(np.float32)},
        "death": {"time_B": np.ones(num_patients, dtype=np.float32), "event_B": known_B.copy()},
    }
    return {name: {"known_B": known_B.copy(), **labels} for name, labels in arrays.items()}


def cohort_of(arrays: dict[str, Arrays], outcomes: dict[str, Arrays]) -> Cohort:
    num_patients = len(next(iter(arrays.values()))["present_B"])
    return Cohort(
        arrays=arrays,
        outcomes=outcomes,
        is_test_B=np.zeros(num_patients, dtype=np.bool_),
        pseudonym_B=np.array([str(i) for i in range(num_patients)]),
    )


def drawn(num_patients: int, seed: int) -> Cohort:
    labs = labs_of(num_patients, seed)
    return cohort_of({"labs": labs}, outcomes_of(labs, seed + 1000))


def design_of(cohort: Cohort, training: Cohort) -> Floats:
    """The inputs as the docstring says: numbers at the mean, indicators, one column a category."""
    labs, seen = cohort.arrays["labs"], training.arrays["labs"]
    columns = []
    for f in range(2):
        mean = seen["numeric_BF"][seen["observed_BF"][:, f], f].astype(np.float64).mean()
        columns.append(np.where(labs["observed_BF"][:, f], labs["numeric_BF"][:, f], mean))
    columns += [labs["observed_BF"][:, f].astype(np.float64) for f in range(2)]
    columns += [(labs["codes_BK"][:, 0] == code).astype(np.float64) for code in range(4)]
    return np.stack(columns, axis=1)


def closed_form(design: Floats, value_B: Floats, held_out: Floats) -> Floats:
    """Ridge regression with α = 1 on standardised columns: (XᵀX + I)⁻¹ Xᵀ(y - ȳ)."""
    mean, sd = design.mean(axis=0), design.std(axis=0)
    x_BF = (design - mean) / sd
    weights_F = np.linalg.solve(
        x_BF.T @ x_BF + np.eye(x_BF.shape[1]), x_BF.T @ (value_B - value_B.mean())
    )
    return value_B.mean() + (held_out - mean) / sd @ weights_F


@pytest.mark.parametrize("outcome", ["stay", "cost"])
def test_a_quantity_is_ridge_regression_in_closed_form(outcome: str) -> None:
    training, held_out = drawn(200, seed=1), drawn(50, seed=2)
    known_B = training.outcomes[outcome]["known_B"]
    value_B = training.outcomes[outcome]["value_B"][known_B].astype(np.float64)
    expected_B = closed_form(
        design_of(training, training)[known_B],
        np.log1p(value_B) if outcome == "cost" else value_B,
        design_of(held_out, training),
    )
    found = logistic_predictions(training, held_out, study_of(outcome))[outcome]
    assert found.shape == (50, 1)
    on_scale_B = np.log1p(found[:, 0]) if outcome == "cost" else found[:, 0]
    np.testing.assert_allclose(on_scale_B, expected_B, rtol=1e-5)


@pytest.mark.parametrize(("outcome", "num_classes"), [("event", 2), ("stage", 3)])
def test_probabilities_add_to_1_and_their_means_are_the_frequencies(
    outcome: str, num_classes: int
) -> None:
    # The intercept is not penalised, so this is a condition of the optimum.
    training = drawn(300, seed=3)
    scores_BC = logistic_predictions(training, training, study_of(outcome))[outcome]
    known_B = training.outcomes[outcome]["known_B"]
    label_B = training.outcomes[outcome]["label_B"][known_B]
    assert scores_BC.shape == (300, num_classes)
    np.testing.assert_allclose(scores_BC.sum(axis=1), 1.0)
    frequencies_C = np.bincount(label_B, minlength=num_classes) / len(label_B)
    np.testing.assert_allclose(scores_BC[known_B].mean(axis=0), frequencies_C, atol=1e-3)
    assert (scores_BC[known_B].argmax(axis=1) == label_B).mean() > frequencies_C.max()


def test_all_outcomes_but_survival_are_predicted() -> None:
    study = study_of("event", "death", "stay", "stage", "cost")
    found = logistic_predictions(drawn(100, seed=4), drawn(20, seed=5), study)
    assert list(found) == ["event", "stay", "stage", "cost"]


@pytest.mark.parametrize("outcome", ["event", "stay"])
def test_a_held_out_patient_is_predicted_alone_as_among_others(outcome: str) -> None:
    training, held_out, study = drawn(100, seed=6), drawn(10, seed=7), study_of(outcome)
    together = logistic_predictions(training, held_out, study)[outcome]
    for b in range(10):
        alone = held_out.select(np.arange(10) == b)
        found = logistic_predictions(training, alone, study)[outcome]
        np.testing.assert_allclose(found[0], together[b], rtol=1e-9)


@pytest.mark.parametrize("outcome", ["event", "stay"])
def test_patients_whose_outcome_is_unknown_do_not_change_the_weights_but_the_means_of_inputs(
    outcome: str,
) -> None:
    # With everything observed there is no missing cell that a mean would fill.
    training, held_out, study = drawn(100, seed=8), drawn(20, seed=9), study_of(outcome)
    for cohort in (training, held_out):
        cohort.arrays["labs"]["observed_BF"][:] = True
    known_B = training.outcomes[outcome]["known_B"]
    found, expected = (
        logistic_predictions(patients, held_out, study)[outcome]
        for patients in (training, training.select(known_B))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_series_is_the_mean_of_its_observed_steps() -> None:
    rng = np.random.default_rng(10)
    labs = {name: value for name, value in labs_of(120, seed=10).items() if name != "codes_BK"}
    observed_BTF = rng.random((120, 6, 2)) < 0.5
    series = {
        "present_B": labs["present_B"],
        "numeric_BTF": np.where(observed_BTF, rng.normal(5, 2, (120, 6, 2)), 999.0),
        "observed_BTF": observed_BTF,
    }
    means = {
        "present_B": labs["present_B"],
        "observed_BF": observed_BTF.any(axis=1),
        "numeric_BF": np.array(
            [
                [
                    series["numeric_BTF"][b, observed_BTF[b, :, f], f].mean()
                    if observed_BTF[b, :, f].any()
                    else 0.0
                    for f in range(2)
                ]
                for b in range(120)
            ]
        ),
    }
    outcomes = outcomes_of(labs_of(120, seed=10), seed=11)
    found, expected = (
        logistic_predictions(cohort, cohort, study_of("event"))["event"]
        for cohort in (cohort_of({"v": arrays}, outcomes) for arrays in (series, means))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_images_and_texts_alone_are_not_predicted_from() -> None:
    training = drawn(30, seed=12)
    notes = {"present_B": np.ones(30, dtype=np.bool_), "codes_BT": np.ones((30, 8), dtype=int)}
    cohort = cohort_of({"notes": notes}, dict(training.outcomes))
    assert logistic_predictions(cohort, cohort, study_of("event", "stay")) == {}


def test_a_category_that_training_has_not_seen_is_none_of_those_it_has() -> None:
    training, held_out = drawn(80, seed=13), drawn(5, seed=14)
    training.arrays["labs"]["codes_BK"] %= 3
    held_out.arrays["labs"]["codes_BK"][:] = 3
    found = logistic_predictions(training, held_out, study_of("event"))["event"]
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


@pytest.mark.parametrize(("outcome", "width"), [("event", 2), ("stage", 3), ("stay", 1)])
def test_of_nobody_the_predictions_have_their_shape(outcome: str, width: int) -> None:
    training = drawn(60, seed=15)
    nobody = training.select(np.zeros(60, dtype=np.bool_))
    assert logistic_predictions(training, nobody, study_of(outcome))[outcome].shape == (0, width)


def test_a_class_that_training_lacks_has_a_probability_of_0() -> None:
    training = drawn(100, seed=16)
    label_B = training.outcomes["stage"]["label_B"]
    label_B[label_B == 1] = 2
    scores_BC = logistic_predictions(training, training, study_of("stage"))["stage"]
    assert (scores_BC[:, 1] == 0).all()
    np.testing.assert_allclose(scores_BC.sum(axis=1), 1.0)


def test_the_only_class_of_training_is_certain() -> None:
    training = drawn(40, seed=17)
    label_B = training.outcomes["stage"]["label_B"]
    label_B[label_B >= 0] = 1
    scores_BC = logistic_predictions(training, training, study_of("stage"))["stage"]
    assert scores_BC.tolist() == [[0.0, 1.0, 0.0]] * 40


def test_an_outcome_that_nobody_has_is_not_predicted() -> None:
    training = drawn(40, seed=18)
    training.outcomes["stay"]["known_B"][:] = False
    training.outcomes["event"]["known_B"][:] = False
    assert logistic_predictions(training, training, study_of("event", "stay")) == {}
