"""Is every patient in every sample by a coin of its own? Real samples pass, other samplers do not.

Letters of shapes: S samples, B patients.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, chi2, norm

from client.dp_training import train_privately
from common.models.patient_model import PatientModel
from common.privacy.mechanisms import NoiseSource, poisson_sample
from tests.unit.builders import patients_of, study_of
from tests.unit.private_builders import plan_with, watched

NUM_SAMPLES = 10_000
NUM_PATIENTS = 40
RATE = 0.15
# Of each of five tests; a right sampler fails one in two thousand times.
LEVEL = 1e-4

Included = NDArray[np.bool_]
Sampler = Callable[[np.random.Generator], Included]


def faults_of(included_SB: Included, rate: float) -> set[str]:
    """What tells these samples from independent coins of chance `rate`."""
    p_values = {
        "sizes": _p_of_sizes(included_SB.sum(axis=1), included_SB.shape[1], rate),
        "inclusions": _p_of_inclusions(included_SB, rate),
        "total": _p_of_count(included_SB, rate),
        "pairs": _p_of_products(_products_of_pairs(included_SB, rate), rate),
        "repeats": _p_of_products(_products_over_time(included_SB, rate), rate),
    }
    return {name for name, p in p_values.items() if p < LEVEL}


def _p_of_sizes(size_S: NDArray[np.int64], num_patients: int, rate: float) -> float:
    """Chi-square of the sizes of samples against the binomial, in bins that expect 10 or more."""
    chance_K = binom.pmf(np.arange(num_patients + 1), num_patients, rate)
    is_wide = chance_K * len(size_S) >= 10
    low, high = np.flatnonzero(is_wide)[[0, -1]]
    expected = len(size_S) * np.bincount(
        np.clip(np.arange(num_patients + 1), low, high), chance_K, num_patients + 1
    )
    found = np.bincount(np.clip(size_S, low, high), minlength=num_patients + 1)
    inside = slice(low, high + 1)
    statistic = ((found - expected)[inside] ** 2 / expected[inside]).sum()
    return float(chi2.sf(statistic, high - low))


def _p_of_inclusions(included_SB: Included, rate: float) -> float:
    """Chi-square of how often each patient was included: B binomial counts."""
    num_samples, num_patients = included_SB.shape
    deviation_B = included_SB.sum(axis=0) - num_samples * rate
    statistic = (deviation_B**2).sum() / (num_samples * rate * (1 - rate))
    # Two-sided: counts that are too even give a shuffled epoch away.
    return float(2 * min(chi2.sf(statistic, num_patients), chi2.cdf(statistic, num_patients)))


def _p_of_count(included_SB: Included, rate: float) -> float:
    size = included_SB.size
    z = (included_SB.sum() - size * rate) / np.sqrt(size * rate * (1 - rate))
    return float(2 * norm.sf(abs(z)))


def _products_of_pairs(included_SB: Included, rate: float) -> NDArray[np.float64]:
    """The mean over samples, for each pair of patients, of the product of centred inclusions."""
    centred_SB = included_SB - rate
    product_BB = centred_SB.T @ centred_SB / len(centred_SB)
    return product_BB[np.triu_indices(len(product_BB), 1)] * np.sqrt(len(centred_SB))


def _products_over_time(included_SB: Included, rate: float) -> NDArray[np.float64]:
    """The same of each patient in one sample and in each of the next three."""
    centred_SB = included_SB - rate
    products = [centred_SB[:-lag] * centred_SB[lag:] for lag in (1, 2, 3)]
    return np.concatenate([p.mean(axis=0) * np.sqrt(len(p)) for p in products])


def _p_of_products(product: NDArray[np.float64], rate: float) -> float:
    """Chi-square of products that have expectation 0 and variance (q (1 - q))^2, nearly normal."""
    statistic = ((product / (rate * (1 - rate))) ** 2).sum()
    return float(2 * min(chi2.sf(statistic, product.size), chi2.cdf(statistic, product.size)))


def included_of(samples: list[NDArray[np.int64]], num_patients: int) -> Included:
    included_SB = np.zeros((len(samples), num_patients), dtype=bool)
    for row, sample in enumerate(samples):
        included_SB[row, sample] = True
    return included_SB


@pytest.mark.parametrize(("num_patients", "rate"), [(40, 0.15), (7, 0.5), (101, 0.02)])
def test_inclusions_are_independent_coins_of_the_rate(num_patients: int, rate: float) -> None:
    source = NoiseSource.seeded(1)
    samples = [poisson_sample(source, num_patients, rate) for _ in range(NUM_SAMPLES)]
    assert faults_of(included_of(samples, num_patients), rate) == set()


def test_samples_of_private_training_are_independent_coins_of_the_plans_rate() -> None:
    # No numbers in this study, so that a step costs little; the batch size has no say.
    study = study_of(training={"batch_size": 3})
    patients = watched(patients_of(study, NUM_PATIENTS))
    plan = plan_with(sample_rate=RATE, steps_per_round=500)
    source = NoiseSource.seeded(1)
    train_privately(PatientModel(study), patients, study, plan, source=source, seed=1)
    samples = [np.array(sample) for sample in patients.seen]
    # A sample of nobody looks at nobody: its chance is .85^40 = .0015.
    samples += [np.array([], dtype=np.int64)] * (500 - len(samples))
    assert faults_of(included_of(samples, NUM_PATIENTS), RATE) == set()


def coins(random: np.random.Generator, rate: float = RATE) -> Included:
    return random.random((NUM_SAMPLES, NUM_PATIENTS)) < rate


def shuffled_batches(random: np.random.Generator) -> Included:
    """Epochs in a new order, cut into batches of six: what most training does."""
    epochs = -(-NUM_SAMPLES // 7)
    batches = [b for _ in range(epochs) for b in np.split(random.permutation(40), range(6, 40, 6))]
    return included_of(batches[:NUM_SAMPLES], NUM_PATIENTS)


def batches_of_one_size(random: np.random.Generator) -> Included:
    order_SB = random.random((NUM_SAMPLES, NUM_PATIENTS)).argsort(axis=1)
    return order_SB < RATE * NUM_PATIENTS


def drawn_with_replacement(random: np.random.Generator) -> Included:
    return included_of(list(random.integers(40, size=(NUM_SAMPLES, 6))), NUM_PATIENTS)


def pairs_together(random: np.random.Generator) -> Included:
    return np.repeat(coins(random)[:, ::2], 2, axis=1)


def one_sample_kept_for_two_steps(random: np.random.Generator) -> Included:
    return np.repeat(coins(random)[::2], 2, axis=0)


def some_more_than_others(random: np.random.Generator) -> Included:
    return random.random((NUM_SAMPLES, NUM_PATIENTS)) < np.tile([0.9 * RATE, 1.1 * RATE], 20)


@pytest.mark.parametrize("seed", range(5))
def test_these_tests_accept_the_coins_of_another_generator(seed: int) -> None:
    assert faults_of(coins(np.random.default_rng(seed)), RATE) == set()


@pytest.mark.parametrize(
    ("sampler", "fault"),
    [
        (shuffled_batches, "sizes"),
        (shuffled_batches, "inclusions"),
        (shuffled_batches, "repeats"),
        (batches_of_one_size, "sizes"),
        (batches_of_one_size, "pairs"),
        (drawn_with_replacement, "sizes"),
        (pairs_together, "pairs"),
        (one_sample_kept_for_two_steps, "repeats"),
        (some_more_than_others, "inclusions"),
        (lambda random: coins(random, 0.95 * RATE), "total"),
        (lambda random: coins(random, 1.05 * RATE), "sizes"),
        # One over the number of batches of a loader, as Opacus takes it: 1/7 for .15.
        (lambda random: coins(random, 1 / 7), "total"),
    ],
)
def test_these_tests_reject_other_samplers(sampler: Sampler, fault: str) -> None:
    assert fault in faults_of(sampler(np.random.default_rng(1)), RATE)
