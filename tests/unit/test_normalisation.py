"""Federated normalisation: the sums of the sites are the fit over all patients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from common.arrays import Arrays, size_of
from common.models.patient_model import PatientModel
from common.normalisation import add_moments, half_ranges, moments_manifest, normalisation_of
from common.study import Study
from tests.unit.builders import study_of

STUDY = study_of()
Floats = NDArray[np.float64]
AGE, GLUCOSE = 0, 1


def _moments(labs_BF: Floats, study: Study = STUDY) -> Arrays:
    """The moments of one site whose patients have these labs (NaN: missing) and nothing else."""
    middle, half = half_ranges(study, "labs")
    u_BF = (labs_BF - middle) / half
    named = {block.name: np.zeros(block.shape) for block in moments_manifest(study)}
    named["labs.count"] = (~np.isnan(u_BF)).sum(axis=0).astype(float)
    named["labs.sum"] = np.nansum(u_BF, axis=0)
    named["labs.sum_squares"] = np.nansum(u_BF**2, axis=0)
    return Arrays.pack(named, dtype=np.float64)


def _fit(*sites: Floats) -> tuple[Floats, Floats]:
    buffers = normalisation_of(STUDY, add_moments([_moments(labs_BF) for labs_BF in sites]))
    return buffers["encoders.labs.location"], buffers["encoders.labs.scale"]


def _labs(rng: np.random.Generator, num_patients: int) -> Floats:
    labs_BF = np.stack(
        [rng.uniform(0, 100, num_patients), rng.uniform(1, 31, num_patients)], axis=1
    )
    labs_BF[rng.uniform(size=labs_BF.shape) < 0.3] = np.nan
    return labs_BF


@given(st.integers(0, 2**32), st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_summed_moments_are_the_fit_over_all_patients(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    always = np.array([[20.0, 5.0], [60.0, 9.0]])  # so that every feature varies
    sites = [always, *(_labs(rng, size) for size in sizes)]
    location_F, scale_F = _fit(*sites)
    pooled = StandardScaler().fit(np.concatenate(sites))
    np.testing.assert_allclose(location_F, pooled.mean_, rtol=1e-9)
    np.testing.assert_allclose(scale_F, pooled.scale_, rtol=1e-9)


def test_a_feature_that_nobody_observed_keeps_its_range() -> None:
    location_F, scale_F = _fit(np.array([[30.0, np.nan], [50.0, np.nan]]))
    # Glucose in [1, 31]: middle 16, half 15.
    assert (location_F[GLUCOSE], scale_F[GLUCOSE]) == (16.0, 15.0)
    assert (location_F[AGE], scale_F[AGE]) == (40.0, 10.0)


def test_a_feature_that_one_patient_has_keeps_the_width_of_its_range() -> None:
    location_F, scale_F = _fit(np.array([[30.0, np.nan]]))
    assert location_F[AGE] == pytest.approx(30.0)
    assert scale_F[AGE] == 50.0


def test_a_feature_that_does_not_vary_keeps_the_width_of_its_range() -> None:
    location_F, scale_F = _fit(np.full((5, 2), 22.1))
    np.testing.assert_allclose(location_F, 22.1)
    np.testing.assert_allclose(scale_F, [50.0, 15.0])


@pytest.mark.parametrize("part", [1e-2, 1e-4, 3e-6])
def test_a_spread_that_is_a_small_part_of_the_range_is_the_scale(part: float) -> None:
    age_B = 40 + 50 * part * np.array([-1.0, 1.0, 1.0, -1.0])
    _, scale_F = _fit(np.stack([age_B, np.full(4, 5.0)], axis=1))
    assert scale_F[AGE] == pytest.approx(50 * part, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 100.0])
def test_values_at_the_ends_of_the_range_give_the_end(value: float) -> None:
    location_F, scale_F = _fit(np.array([[value, 1.0]] * 1000))
    assert location_F[AGE] == value
    assert scale_F[AGE] == 50.0


def test_the_widest_spread_is_half_the_range() -> None:
    location_F, scale_F = _fit(np.array([[0.0, 1.0], [100.0, 31.0]]))
    np.testing.assert_allclose(location_F, [50.0, 16.0])
    np.testing.assert_allclose(scale_F, [50.0, 15.0])


@pytest.mark.parametrize("bounds", [(0.0, 1e-12), (-1e12, 1e12), (1e6, 1e6 + 1)])
def test_extreme_ranges_lose_no_digits(bounds: tuple[float, float]) -> None:
    study = STUDY.model_dump(mode="json", exclude_none=True)
    study["granularities"]["labs"]["features"]["age_years"]["range"] = list(bounds)
    extreme = Study.model_validate(study)
    low, high = bounds
    value_B = low + (high - low) * np.array([0.25, 0.5, 0.625])
    labs_BF = np.stack([value_B, np.full(3, 5.0)], axis=1)
    buffers = normalisation_of(extreme, _moments(labs_BF, extreme))
    assert buffers["encoders.labs.location"][AGE] == pytest.approx(value_B.mean(), rel=1e-12)
    assert buffers["encoders.labs.scale"][AGE] == pytest.approx(value_B.std(), rel=1e-9)


def test_buffers_are_those_of_the_model() -> None:
    own = {k: tuple(v.shape) for k, v in PatientModel(STUDY).state_dict().items()}
    zero = Arrays(manifest=moments_manifest(STUDY), flat=np.zeros(size_of(moments_manifest(STUDY))))
    for name, value in normalisation_of(STUDY, zero).items():
        assert own[name] == value.shape


def test_no_sites_have_no_moments() -> None:
    with pytest.raises(ValueError, match="one site or more, found none"):
        add_moments([])


PRIVATE = study_of(privacy={"mode": "patient", "noise_multiplier": 1.0, "delta": 1e-4})


def _noised_fit(moments: Arrays, noise_variance: float) -> tuple[Floats, Floats]:
    named = dict(moments.unpack()) | {"noise_variance": np.array([noise_variance])}
    buffers = normalisation_of(PRIVATE, Arrays.pack(named, dtype=np.float64))
    return buffers["encoders.labs.location"], buffers["encoders.labs.scale"]


def test_moments_of_a_private_study_come_with_the_variance_of_their_noise() -> None:
    plain, private = moments_manifest(STUDY), moments_manifest(PRIVATE)
    assert [block.name for block in private[len(plain) :]] == ["noise_variance"]
    assert private[: len(plain)] == plain
    zero = Arrays(manifest=private, flat=np.ones(size_of(private)))
    assert add_moments([zero, zero]).unpack()["noise_variance"].tolist() == [2.0]


def test_with_hardly_any_noise_the_fit_is_the_plain_one() -> None:
    moments = _moments(_labs(np.random.default_rng(1), 500))
    plain = normalisation_of(STUDY, moments)
    location_F, scale_F = _noised_fit(moments, 1e-12)
    np.testing.assert_allclose(location_F, plain["encoders.labs.location"], rtol=1e-9)
    np.testing.assert_allclose(scale_F, plain["encoders.labs.scale"], rtol=1e-9)


@given(st.integers(0, 2**32), st.floats(1e-3, 1e9), st.integers(0, 300))
def test_whatever_the_noise_locations_are_in_range_and_scales_at_most_half_of_it(
    seed: int, noise_variance: float, num_patients: int
) -> None:
    rng = np.random.default_rng(seed)
    exact = _moments(_labs(rng, num_patients))
    noise = rng.normal(0, np.sqrt(noise_variance), exact.flat.size)
    noisy = Arrays(manifest=exact.manifest, flat=exact.flat + noise)
    location_F, scale_F = _noised_fit(noisy, noise_variance)
    assert (location_F >= [0, 1]).all()
    assert (location_F <= [100, 31]).all()
    assert (scale_F > 0).all()
    assert (scale_F <= [50, 15]).all()


def test_the_more_noise_the_nearer_to_the_public_range() -> None:
    rng = np.random.default_rng(3)
    labs_BF = np.stack([rng.normal(80, 5, 400), rng.normal(6, 1, 400)], axis=1)
    fits = [_noised_fit(_moments(labs_BF), variance) for variance in (1.0, 1e3, 1e5, 1e7)]
    for (nearer, narrower), (farther, wider) in zip(fits[1:], fits[:-1], strict=True):
        assert (np.abs(nearer - [50, 16]) < np.abs(farther - [50, 16])).all()
        assert (narrower >= wider).all()
    np.testing.assert_allclose(fits[-1][0], [50, 16], rtol=0.02)
    np.testing.assert_allclose(fits[-1][1], [50, 15])


def test_a_noised_fit_worked_by_hand() -> None:
    # Age, in half ranges: 100 values of sum 40 and squares 20, noise of variance 25. The mean is
    # 40 · 100 / (10,000 + 25 / .25) = .396; the variance .2 - .396² = .043 is less than its error,
    # 5 / 100 = .05, whose root is .2236.
    named = {block.name: np.zeros(block.shape) for block in moments_manifest(PRIVATE)[:-1]}
    named |= {"labs.count": np.array([100.0, 0.0]), "labs.sum": np.array([40.0, -9.0])}
    named["labs.sum_squares"] = np.array([20.0, -7.0])
    location_F, scale_F = _noised_fit(Arrays.pack(named, dtype=np.float64), 25.0)
    assert location_F[AGE] == pytest.approx(50 + 50 * 0.39604, abs=1e-3)
    assert scale_F[AGE] == pytest.approx(50 * 0.22361, abs=1e-3)
    # Of glucose nobody is there above the noise.
    assert location_F[GLUCOSE] == pytest.approx(16 - 15 * 9 / 101)
    assert scale_F[GLUCOSE] == 15


@pytest.mark.parametrize(("noise", "size"), [(3, 100), (30, 100), (60, 600), (250, 3000)])
def test_noised_inputs_of_a_model_stay_small(noise: float, size: int) -> None:
    sizes = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        mean, deviation = rng.uniform([15, 5.5], [75, 23.5]), rng.uniform([4, 1.2], [20, 6])
        labs_BF = np.clip(rng.normal(mean, deviation, (size, 2)), [0, 1], [100, 31])
        exact = _moments(labs_BF)
        flat = exact.flat + rng.normal(0, noise, exact.flat.size)
        location_F, scale_F = _noised_fit(Arrays(manifest=exact.manifest, flat=flat), noise**2)
        sizes.append(np.sqrt((((labs_BF - location_F) / scale_F) ** 2).mean(axis=0)))
    assert np.quantile(sizes, 0.99) < 2.0


def test_without_privacy_the_fit_is_bit_for_bit_what_it_was() -> None:
    moments = _moments(_labs(np.random.default_rng(5), 50))
    named = moments.unpack()
    count, total, squares = (named[f"labs.{k}"] for k in ("count", "sum", "sum_squares"))
    middle, half = half_ranges(STUDY, "labs")
    mean = total / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
    buffers = normalisation_of(STUDY, moments)
    assert buffers["encoders.labs.location"].tobytes() == (middle + half * mean).tobytes()
    assert buffers["encoders.labs.scale"].tobytes() == (half * deviation).tobytes()
