"""Probes: each checks one guarantee of privacy on the real code, quickly, and fails by assertion.

They are few and blunt: enough to notice every broken variant of `tests.unit.mutants`. What they
probe is tested closely elsewhere.

Letters of shapes: B patients, P trainable parameters.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor

from client.dp_training import train_privately
from client.private_statistics import evaluation_sensitivity, private_evaluation
from client.training import NestedTensors, Patients
from common.arrays import Arrays, Block
from common.errors import Refusal
from common.models.patient_model import PatientModel
from common.privacy import plan as plans
from common.privacy.events import Gaussian, Part
from common.privacy.mechanisms import NoiseSource
from common.privacy.plan import PrivacyPlan
from common.study import Study
from server.aggregation import SiteUpdate
from server.site_privacy import SiteMechanism, SitePlan
from tests.unit import private_builders
from tests.unit.builders import outcomes_of, patients_of, predictions_of, study_of
from tests.unit.private_builders import Watched, clipped_one_by_one, values_of, watched

Floats = NDArray[np.float64]
Probe = Callable[[Path], None]

CLIP, NOISE, EXPECTED, RATE, STEPS = 0.5, 1.5, 12.0, 0.3, 4
_SILENT = 1e-9


def sgd_study() -> Study:
    """The small study, whose every step moves the parameters by minus the private gradient."""
    return study_of(
        training={"learning_rate": 1.0, "local_epochs": None, "local_steps": STEPS},
        model={"width": 16},
    )


def plan_with(**fields: Any) -> PrivacyPlan:
    """A plan of four noised steps, with some fields replaced."""
    settings: dict[str, Any] = {
        "noise_multiplier": NOISE,
        "max_grad_norm": CLIP,
        "sample_rate": RATE,
        "expected_batch_size": EXPECTED,
        "steps_per_round": STEPS,
    }
    return private_builders.plan_with(**{**settings, **fields})


ONE_SILENT_STEP = {"noise_multiplier": _SILENT, "sample_rate": 1.0, "steps_per_round": 1}


def update_of(
    patients: Patients, plan: PrivacyPlan, source: NoiseSource, *, physical_batch: int = 256
) -> Floats:
    """What one round of private training adds to the parameters, shape (P,)."""
    study = sgd_study()
    model = PatientModel(study)
    before_P = values_of(model)
    options: dict[str, Any] = {"source": source, "seed": 1, "physical_batch": physical_batch}
    train_privately(model, patients, study, plan, **options)
    return values_of(model) - before_P


def _noise(num_rounds: int) -> Floats:
    """Updates of rounds without any patient: noise alone."""
    nobody = patients_of(sgd_study(), 0)
    updates = [update_of(nobody, plan_with(), NoiseSource.seeded(n)) for n in range(num_rounds)]
    return np.concatenate(updates)


def noise_is_as_planned(_: Path) -> None:
    """Steps of nobody have noise of z · C · √T / E, all T of them."""
    ratio = _noise(40).std() / (NOISE * CLIP * STEPS**0.5 / EXPECTED)
    assert 0.96 < ratio < 1.04, f"the noise is {ratio:.3f} of what the plan says"


def noise_cannot_be_seeded(_: Path) -> None:
    """Torch's, numpy's and Python's seeds do not make the noise of a secure source."""
    updates = []
    for _turn in range(2):
        random.seed(7)
        np.random.seed(7)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            nobody = patients_of(sgd_study(), 0)
            updates.append(update_of(nobody, plan_with(), NoiseSource.secure()))
    assert updates[0].tolist() != updates[1].tolist(), "a seed repeats the noise"


def each_patient_is_clipped(_: Path) -> None:
    """A step is minus the sum of the patients' clipped gradients, divided once by E."""
    plan = plan_with(**ONE_SILENT_STEP, max_grad_norm=0.05)
    patients = patients_of(sgd_study(), 9)
    found_P = update_of(patients, plan, NoiseSource.seeded(1), physical_batch=4)
    clipped_BP = clipped_one_by_one(PatientModel(sgd_study()), patients, np.arange(9), 0.05)
    expected_P = -clipped_BP.sum(axis=0) / EXPECTED
    error = np.linalg.norm(found_P - expected_P) / np.linalg.norm(expected_P)
    assert error < 1e-3, f"the step is off by {error:.3g} of its length"


def a_damaged_record_is_harmless(_: Path) -> None:
    """A patient whose values are not finite changes a step by the clip at most."""
    plan = plan_with(**ONE_SILENT_STEP)
    good = patients_of(sgd_study(), 5)
    bad = {name: dict(arrays) for name, arrays in good.inputs.items()}
    for name in ("labs", "vitals"):
        arrays = {key: value.clone() for key, value in bad[name].items()}
        arrays["present_B"][0], arrays["observed_BF"][0] = True, True
        arrays["numeric_BF"][0] = float("nan") if name == "labs" else float("inf")
        bad[name] = arrays
    try:
        damaged_P = update_of(replace(good, inputs=bad), plan, NoiseSource.seeded(1))
    except ValueError:
        raise AssertionError("a damaged record stops the round") from None
    moved = np.linalg.norm(damaged_P - update_of(good, plan, NoiseSource.seeded(1)))
    assert moved <= 2 * CLIP / EXPECTED * 1.001, f"a damaged record moves the step by {moved:.3g}"


def samples_are_poisson(_: Path) -> None:
    """Sizes vary, and patients come again in the next sample, as independent chances have it."""
    num_steps, num_patients = 80, 40
    patients = watched(patients_of(sgd_study(), num_patients))
    update_of(patients, plan_with(steps_per_round=num_steps), NoiseSource.seeded(3))
    sizes = [len(sample) for sample in patients.seen]
    assert len(sizes) == num_steps
    assert abs(np.mean(sizes) / (RATE * num_patients) - 1) < 0.2, "another sample rate"
    # Bounds that a right sampler leaves once in a million streams: by chi-square, and 5 standard
    # deviations (.07) of the mean overlap.
    low, high = chi2.ppf([1e-6, 1 - 1e-6], num_steps - 1) / num_steps
    spread = np.var(sizes) / (num_patients * RATE * (1 - RATE))
    assert low < spread < high, "samples of one size"
    again = [len({*one} & {*other}) for one, other in pairwise(patients.seen)]
    assert abs(np.mean(again) / (num_patients * RATE**2) - 1) < 0.35, "patients take turns"


def buffers_do_not_leak(_: Path) -> None:
    """A model that keeps what it has seen is not released."""
    study = sgd_study()
    model = PatientModel(study)
    mean_of_data = torch.zeros(1)
    model.register_buffer("mean_of_data", mean_of_data)

    class Leaking(Watched):
        def batch(self, index_B: Tensor) -> tuple[NestedTensors, NestedTensors]:
            inputs, outcomes = super().batch(index_B)
            mean_of_data.add_(inputs["labs"]["numeric_BF"].mean())
            return inputs, outcomes

    patients = Leaking(**vars(patients_of(study, 40)))
    try:
        train_privately(model, patients, study, plan_with(), source=NoiseSource.seeded(1), seed=1)
    except Refusal:
        return
    assert mean_of_data.item() == 0, "a buffer tells the mean of the data"


def plan_study() -> Study:
    """A private study of two epochs in batches of 64, three rounds, with released moments."""
    return study_of(
        training={"local_epochs": 2, "batch_size": 64},
        privacy={"mode": "patient", "noise_multiplier": 2.0, "delta": 1e-4},
    )


def the_plan_charges_what_is_done(_: Path) -> None:
    """q is B / n, and all that a run does is charged: moments, every step, the evaluation."""
    plan = plans.plan_of(plan_study(), cohort_size=65)
    assert plan.sample_rate == 64 / 65, f"q is {plan.sample_rate}"
    assert plan.expected_batch_size == 64
    assert plan.steps_per_round == 4
    events = [(c.event, c.part) for c in plan.whole()]
    steps = sum(
        e.count
        for e, part in events
        if isinstance(e, Gaussian) and part is Part.TRAIN and e.sample_rate == 64 / 65
    )
    assert steps == 4 * (3 + plan.spare_rounds), f"{steps} steps are charged"
    whole = [
        (part, e.noise_multiplier)
        for e, part in events
        if isinstance(e, Gaussian) and e.sample_rate == 1
    ]
    assert whole == [
        (Part.TRAIN, plan.moments_noise_multiplier),
        (Part.TEST, plan.evaluation_noise_multiplier),
    ], "a statistic is not charged"


def statistics_have_noise(_: Path) -> None:
    """The sums of the one evaluation vary by the planned noise."""
    study = plan_study()
    exact = (predictions_of(study, 30), outcomes_of(study, 30))

    def released(seed: int) -> list[float]:
        sums = private_evaluation(*exact, study, 2.0, NoiseSource.seeded(seed))
        return [value for _, values in sorted(sums.items()) for value in values]

    spread = np.std([released(seed) for seed in range(100)], axis=0).max()
    assert spread > 0.8 * 2.0 * evaluation_sensitivity(study), "the statistics have less noise"


def hospitals_are_hidden(_: Path) -> None:
    """In mode "site", an update moves the sum by the clip at most, and noise does not shrink."""
    block = Block(name="fusion.merge.bias", shape=(20_000,))

    def combined(update: float, seed: int, noise: float) -> Floats:
        mechanism = SiteMechanism(
            SitePlan(noise_multiplier=noise, max_update_norm=CLIP, delta=1e-5, max_draws=9),
            manifest=(block,),
            offered={"patients": 5},
            min_sites_per_block=2,
            source=NoiseSource.seeded(seed),
            num_draws=0,
            record=lambda _: None,
        )
        arrays = Arrays(manifest=(block,), flat=np.full(20_000, update, dtype=np.float32))
        sent = SiteUpdate(site="a", update=arrays, counts={"patients": 900})
        return 5 * mechanism.combine([sent]).combined.update.flat.astype(np.float64)

    moved = np.linalg.norm(combined(9.0, 1, _SILENT))
    assert moved <= CLIP * 1.001, f"a hospital moves the sum by {moved:.3g}"
    ratio = combined(0.0, 1, NOISE).std() / (NOISE * CLIP)
    assert 0.96 < ratio < 1.04, f"the noise is {ratio:.3f} of what the plan says"


PROBES: tuple[Probe, ...] = (
    noise_is_as_planned,
    noise_cannot_be_seeded,
    each_patient_is_clipped,
    a_damaged_record_is_harmless,
    samples_are_poisson,
    buffers_do_not_leak,
    the_plan_charges_what_is_done,
    statistics_have_noise,
    hospitals_are_hidden,
)
