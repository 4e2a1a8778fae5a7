"""Private statistics: what one patient can change, the noise on all of it, and what comes back."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from client.data import Cohort
from client.normalise import moments_of
from client.private_statistics import (
    evaluation_sensitivity,
    evaluation_vector,
    moments_sensitivity,
    moments_vector,
    private_evaluation,
    private_moments,
)
from common.arrays import Arrays
from common.metrics.evaluation import declared_sizes, from_flat, noised_statistics_of
from common.normalisation import half_ranges, moments_manifest
from common.privacy.mechanisms import NoiseSource
from common.study import Study
from tests.unit.builders import MORE_OUTCOMES, MULTICLASS, outcomes_of, predictions_of, study_of

Floats = NDArray[np.float64]
PRIVACY = {"mode": "patient", "noise_multiplier": 1.0, "delta": 1e-4}
STUDY = study_of(privacy=PRIVACY)
NUM_STEPS = 4
# By granularity: the name of its values, and the shape of one patient's.
SHAPES = {"labs": ("numeric_BF", (2,)), "vitals": ("numeric_BTF", (NUM_STEPS, 1))}

# Whatever a broken file can hold, and the ends and the middle of the ranges.
values = st.sampled_from([0.0, 1.0, 16.0, 20.0, 31.0, 50.0, 100.0, 120.0, 220.0]) | st.floats(
    width=32
)


@st.composite
def patients(draw: st.DrawFn) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Values and mask of one patient, by granularity: labs, and vitals at several times."""
    record = {}
    for name, (_, shape) in SHAPES.items():
        size = int(np.prod(shape))
        value = draw(st.lists(values, min_size=size, max_size=size))
        seen = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        record[name] = (
            np.array(value, dtype=np.float32).reshape(shape),
            np.array(seen, dtype=np.bool_).reshape(shape),
        )
    return record


def cohort_of(records: Sequence[dict[str, tuple[NDArray[Any], NDArray[Any]]]]) -> Cohort:
    arrays = {}
    for name, (key, shape) in SHAPES.items():
        value = np.array([r[name][0] for r in records], dtype=np.float32)
        seen = np.array([r[name][1] for r in records], dtype=np.bool_)
        arrays[name] = {
            key: value.reshape(len(records), *shape),
            key.replace("numeric", "observed"): seen.reshape(len(records), *shape),
        }
    nobody = np.zeros(len(records), dtype=np.bool_)
    return Cohort(
        arrays=arrays, outcomes={}, is_test_B=nobody, pseudonym_B=np.array([""] * len(records))
    )


def vector_of(records: Sequence[dict[str, tuple[NDArray[Any], NDArray[Any]]]]) -> Floats:
    return moments_vector(moments_of(cohort_of(records), STUDY), STUDY)


@given(st.lists(patients(), max_size=6), patients())
def test_one_patient_moves_the_moments_by_at_most_the_sensitivity(
    others: list[dict[str, tuple[NDArray[Any], NDArray[Any]]]],
    one: dict[str, tuple[NDArray[Any], NDArray[Any]]],
) -> None:
    moved = np.linalg.norm(vector_of([*others, one]) - vector_of(others))
    assert moved <= moments_sensitivity(STUDY) * (1 + 1e-9)


def test_a_patient_with_all_values_at_an_end_moves_them_as_far() -> None:
    ends = {
        "labs": (np.array([100.0, 1.0], dtype=np.float32), np.ones(2, dtype=np.bool_)),
        "vitals": (
            np.full((NUM_STEPS, 1), 220.0, dtype=np.float32),
            np.ones((NUM_STEPS, 1), dtype=np.bool_),
        ),
    }
    # Two granularities of two and one quantity: √(1 + 4 + 1 + 2).
    assert moments_sensitivity(STUDY) == sqrt(8)
    assert np.linalg.norm(vector_of([ends])) == pytest.approx(sqrt(8), rel=1e-12)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 2**32))
def test_no_patient_with_any_number_of_features_moves_more(
    num_features: int, num_observed: int, seed: int
) -> None:
    features = {
        f"f{n}": {"kind": "numeric", "unit": "", "range": [-1, 1]} for n in range(num_features)
    }
    labs = {"kind": "tabular", "features": features}
    study = study_of(privacy=PRIVACY, granularities={"labs": labs, "vitals": labs_of_one()})
    rng = np.random.default_rng(seed)
    named = {block.name: np.zeros(block.shape) for block in moments_manifest(study)}
    chosen = rng.permutation(num_features)[:num_observed]
    u = rng.choice([-1.0, 0.0, 1.0], len(chosen))
    named["labs.count"][chosen] = 1.0
    named["labs.sum"][chosen] = u
    # Of a series the mean square may be anything from the squared mean to 1.
    named["labs.sum_squares"][chosen] = rng.choice([0.0, 1.0], len(chosen)) * (1 - u**2) + u**2
    del named["noise_variance"]
    moved = np.linalg.norm(moments_vector(Arrays.pack(named, dtype=np.float64), study))
    assert moved <= sqrt(1 + 2 * num_features) * (1 + 1e-12)
    assert moments_sensitivity(study) == sqrt(1 + 2 * num_features + 1 + 2)


def labs_of_one() -> dict[str, Any]:
    feature = {"kind": "numeric", "unit": "bpm", "range": [20, 220]}
    return {"kind": "tabular", "features": {"heart_rate_bpm": feature}}


def exact_moments(num_patients: int = 200, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(num_patients):
        labs = np.array([rng.uniform(0, 100), rng.uniform(1, 31)], dtype=np.float32)
        pulse = rng.uniform(20, 220, (NUM_STEPS, 1)).astype(np.float32)
        seen = rng.random((NUM_STEPS, 1)) < 0.7
        records.append({"labs": (labs, rng.random(2) < 0.8), "vitals": (pulse, seen)})
    return moments_of(cohort_of(records), STUDY)


def test_without_noise_the_moments_come_out_as_they_were() -> None:
    exact = exact_moments()
    found = private_moments(exact, STUDY, 1e-9, NoiseSource.seeded(1)).unpack()
    assert tuple(found) == tuple(block.name for block in moments_manifest(STUDY))
    for name, value in exact.unpack().items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_moments_have_the_shape_that_the_study_declares() -> None:
    noised = private_moments(exact_moments(), STUDY, 2.0, NoiseSource.seeded(1))
    assert noised.manifest == moments_manifest(STUDY)
    assert noised.flat.dtype == np.float64
    assert float(noised.unpack()["noise_variance"][0]) == pytest.approx(4 * 8)


def is_normal(residuals: Floats, sd: float) -> bool:
    """Whether a Kolmogorov-Smirnov test takes them for normal with this standard deviation."""
    return bool(stats.kstest(residuals / sd, "norm").pvalue > 1e-3)


def test_the_noise_of_moments_is_that_of_the_multiplier_and_no_other() -> None:
    exact, source = exact_moments(), NoiseSource.seeded(7)
    before = moments_vector(exact, STUDY)
    released = [
        moments_vector(private_moments(exact, STUDY, 1.5, source), STUDY) for _ in range(80)
    ]
    # A mean count, deviations, sums, Chebyshev sums. Those of the deviations are made to add to 0.
    kept = [0, 3, 4, 5, 6, 7, 9, 10]
    residuals = (np.array(released) - before)[:, kept].reshape(-1)
    sd = 1.5 * sqrt(8)
    assert is_normal(residuals, sd)
    assert not is_normal(residuals, sd * 2 / 3)
    assert not is_normal(residuals, sd * 3 / 2)


def test_the_noise_of_every_count_is_one_for_all_and_one_of_its_own() -> None:
    exact, source = exact_moments(), NoiseSource.seeded(8)
    released = [private_moments(exact, STUDY, 1.0, source).unpack() for _ in range(1500)]
    count = np.array([r["labs.count"] for r in released]) - exact.unpack()["labs.count"]
    # Variance 8 of the mean, and 8 / 2 · (1 - 1/2) of two deviations that add to 0.
    assert count.var(axis=0) == pytest.approx([10, 10], rel=0.15)
    assert count.mean(axis=1).var() == pytest.approx(8, rel=0.15)


def test_a_study_without_measured_quantities_releases_none() -> None:
    only = {
        name: {
            "kind": "tabular",
            "features": {f"c_{name}": {"kind": "categorical", "categories": ["a", "b"]}},
        }
        for name in ("labs", "vitals", "lifestyle")
    }
    study = study_of(privacy=PRIVACY, granularities=only)
    empty = Arrays(manifest=(), flat=np.empty(0))
    found = private_moments(empty, study, 1.0, NoiseSource.seeded(0))
    assert found.manifest == moments_manifest(study)
    assert found.flat.tolist() == [0.0]


OUTCOMES: dict[str, Study] = {
    "binary": study_of(privacy=PRIVACY),
    "multiclass": study_of(privacy=PRIVACY, outcomes=MULTICLASS),
    "regression": study_of(privacy=PRIVACY, outcomes=MORE_OUTCOMES),
    "several": study_of(privacy=PRIVACY, outcomes=MULTICLASS | MORE_OUTCOMES),
    "few bins": study_of(
        privacy=PRIVACY | {"evaluation_bins": 3}, outcomes=MULTICLASS | MORE_OUTCOMES
    ),
}


def drop_last(named: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value[:-1] for key, value in arrays.items()} for name, arrays in named.items()
    }


@pytest.mark.parametrize("study", OUTCOMES.values(), ids=OUTCOMES.keys())
@given(
    num_patients=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    unknown=st.sampled_from([0.0, 0.5]),
    spoilt=st.sampled_from([None, np.nan, np.inf, -np.inf, 0.0, 1.0, 1e30]),
)
def test_one_patient_moves_the_evaluation_by_at_most_the_sensitivity(
    study: Study, num_patients: int, seed: int, unknown: float, spoilt: float | None
) -> None:
    predictions = predictions_of(study, num_patients, seed)
    outcomes = outcomes_of(study, num_patients, seed + 1, unknown=unknown)
    if spoilt is not None:
        for predicted_BP in predictions.values():
            predicted_BP[-1] = spoilt
    fewer = {name: predicted[:-1] for name, predicted in predictions.items()}
    whole = evaluation_vector(predictions, outcomes, study)
    moved = np.linalg.norm(whole - evaluation_vector(fewer, drop_last(outcomes), study))
    assert moved <= evaluation_sensitivity(study) * (1 + 1e-9)


def test_the_sensitivity_is_that_of_all_outcomes_together_and_is_reached() -> None:
    squared = {name: evaluation_sensitivity(study) ** 2 for name, study in OUTCOMES.items()}
    # Binary 1; three classes 3 + 1; regression 3; survival 1.
    expected = {"binary": 1, "multiclass": 4, "regression": 1 + 3 + 1, "several": 4 + 3 + 1}
    assert squared == pytest.approx(expected | {"few bins": 8})
    study = OUTCOMES["several"]
    predictions, outcomes = predictions_of(study, 1), outcomes_of(study, 1)
    # The largest error there is, or none.
    for value in (0.0, 20.0):
        outcomes["stay"]["value_B"][:] = 20.0
        predictions["stay"][:] = value
        moved = np.linalg.norm(evaluation_vector(predictions, outcomes, study))
        assert moved**2 == pytest.approx(8)


def _evaluated(
    study: Study, num_patients: int = 60, noise_multiplier: float = 2.0, seed: int = 0
) -> dict[str, tuple[float, ...]]:
    return private_evaluation(
        predictions_of(study, num_patients),
        outcomes_of(study, num_patients),
        study,
        noise_multiplier,
        NoiseSource.seeded(seed),
    )


@pytest.mark.parametrize("study", OUTCOMES.values(), ids=OUTCOMES.keys())
@pytest.mark.parametrize("num_patients", [0, 60])
def test_exactly_what_is_declared_is_released_and_reads_back(
    study: Study, num_patients: int
) -> None:
    flat = _evaluated(study, num_patients)
    assert {name: len(value) for name, value in flat.items()} == declared_sizes(study)
    back = from_flat(study, flat)
    assert back.keys() == study.outcomes.keys()
    for outcome, sums in back.items():
        expected = 4 * evaluation_sensitivity(study) ** 2
        assert float(sums.sums["noise_variance"]) == pytest.approx(expected)
        assert float(sums.num_patients) == flat[f"{outcome}.num_patients"][0]


def test_the_noise_of_the_evaluation_is_that_of_the_multiplier_and_no_other() -> None:
    study = OUTCOMES["several"]
    predictions, outcomes = predictions_of(study, 40), outcomes_of(study, 40)
    exact = evaluation_vector(predictions, outcomes, study)
    source, residuals = NoiseSource.seeded(3), []
    for _ in range(3):
        flat = private_evaluation(predictions, outcomes, study, 0.7, source)
        statistics = from_flat(study, flat)
        found = evaluation_vector_of(study, statistics)
        residuals.append(found - exact)
    sd = 0.7 * sqrt(8)
    assert is_normal(np.concatenate(residuals), sd)
    assert not is_normal(np.concatenate(residuals), sd * 2 / 3)
    assert not is_normal(np.concatenate(residuals), sd * 3 / 2)


def evaluation_vector_of(study: Study, sums: Any) -> Floats:
    named = noised_statistics_of(study)
    return np.concatenate([named[name].vector_from(sums[name]) for name in named])


def test_no_number_of_an_evaluation_is_exact() -> None:
    study = OUTCOMES["several"]
    one, other = (_evaluated(study, seed=seed) for seed in (1, 2))
    variances = {name for name in one if name.endswith("noise_variance")}
    for name in one.keys() - variances:
        assert not set(one[name]) & set(other[name]), name
    assert all(one[name] == other[name] for name in variances)


def test_a_study_that_protects_nobody_has_no_private_evaluation() -> None:
    study = study_of()
    with pytest.raises(ValueError, match=r"privacy\.mode = 'patient', found 'none'"):
        _evaluated(study)


def test_the_middle_of_a_range_is_the_zero_of_its_moments() -> None:
    middle, half = half_ranges(STUDY, "labs")
    record = {
        "labs": (middle.astype(np.float32), np.ones(2, dtype=np.bool_)),
        "vitals": (np.zeros((NUM_STEPS, 1)), np.zeros((NUM_STEPS, 1), dtype=np.bool_)),
    }
    # Count 1, no deviations, sums 0, 2u² - 1 of -1; nothing of the vitals.
    assert vector_of([record]).tolist() == [1, 0, 0, 0, 0, -1, -1, 0, 0, 0, 0]
    assert half.tolist() == [50, 15]
