"""Broken variants of private training, accounting and ledger, each put into the real code.

A mutant replaces functions or methods by what somebody could have written by mistake (all have been
seen in other systems: `docs/privacy.md`), and names the probe that must notice.

Letters of shapes: B patients, P trainable parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import server.site_privacy
from client import dp_training, private_statistics
from client.per_patient import clipped_gradient_sum
from common.models.patient_model import PatientModel
from common.privacy import plan as plans
from common.privacy.events import Gaussian
from common.privacy.mechanisms import NoiseSource, add_gaussian
from common.privacy.plan import PrivacyPlan
from tests.unit import ledger_probes, private_probes
from tests.unit.ledger_mutants import LEDGER_MUTANTS
from tests.unit.mutant import Mutant, Patch

Nested = Mapping[str, Mapping[str, Tensor]]
Floats = NDArray[np.float64]


def scaled_noise(factor: float, module: Any = dp_training) -> Callable[[Patch], None]:
    """So many times the noise; with 0, none."""
    real = add_gaussian

    def add(values: Floats, *, noise_multiplier: float, **rest: Any) -> Floats:
        if factor == 0:
            return values
        noisy: Floats = real(values, noise_multiplier=factor * noise_multiplier, **rest)
        return noisy

    return lambda patch: patch.setattr(module, "add_gaussian", add)


def _noise_where_somebody_is(patch: Patch) -> None:
    real = add_gaussian
    patch.setattr(dp_training, "add_gaussian", lambda v, **rest: real(v, **rest) if v.any() else v)


def _divided_twice(patch: Patch) -> None:
    real = dp_training._noised_mean
    patch.setattr(
        dp_training,
        "_noised_mean",
        lambda sum_P, plan, source: real(sum_P, plan, source) / plan.expected_batch_size,
    )


def every_other_step_without_noise(patch: Patch) -> None:
    real = dp_training._noised_mean
    turns: list[int] = []

    def mean(sum_P: Floats, plan: PrivacyPlan, source: NoiseSource) -> Floats:
        turns.append(1)
        return real(sum_P, plan, source) if len(turns) % 2 else sum_P / plan.expected_batch_size

    patch.setattr(dp_training, "_noised_mean", mean)


def inner_step(patch: Patch) -> None:
    """The inner optimizer takes the plain gradient of the patients too, after the noised step."""
    real = dp_training._noised_mean

    def mean(sum_P: Floats, plan: PrivacyPlan, source: NoiseSource) -> Floats:
        return real(sum_P, plan, source) + sum_P / plan.expected_batch_size

    patch.setattr(dp_training, "_noised_mean", mean)


def _gradient_of(model: PatientModel, inputs: Nested, outcomes: Nested) -> list[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = model.loss_per_patient(model(inputs), outcomes).sum()
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return list(grads)


def _clipped(grads: list[Tensor], clip: float) -> list[Tensor]:
    norm = torch.cat([g.flatten() for g in grads]).norm()
    # As it is often written: NaN is not greater than anything.
    return [g * (clip / norm) for g in grads] if norm > clip else grads


def _clip_the_batch(patch: Patch) -> None:
    """The whole batch of a step is clipped once, over all of its physical batches."""
    real = dp_training._clipped_sum

    def clipped(model: Any, patients: Any, index_B: Any, plan: PrivacyPlan, size: int) -> Floats:
        sum_P = real(model, patients, index_B, replace(plan, max_grad_norm=1e9), size)
        return sum_P * min(1.0, plan.max_grad_norm / float(np.linalg.norm(sum_P)))

    patch.setattr(dp_training, "_clipped_sum", clipped)


def _at(named: Nested, index: int) -> dict[str, dict[str, Tensor]]:
    return {n: {k: v[index : index + 1] for k, v in t.items()} for n, t in named.items()}


def _nan_passes(
    model: PatientModel, inputs: Nested, outcomes: Nested, *, max_grad_norm: float
) -> list[Tensor]:
    num_patients = len(next(iter(inputs.values()))["present_B"])
    each = [
        _clipped(_gradient_of(model, _at(inputs, i), _at(outcomes, i)), max_grad_norm)
        for i in range(num_patients)
    ]
    return [torch.stack(parts).sum(dim=0) for parts in zip(*each, strict=True)]


def _nan_is_released(patch: Patch) -> None:
    """As `_nan_passes`, and the noise does not look at what it is added to either."""

    def add(values: Floats, *, sensitivity: float, noise_multiplier: float, source: Any) -> Floats:
        noise: Floats = source.normal(values.size)
        return values + noise_multiplier * sensitivity * noise

    patch.setattr(dp_training, "clipped_gradient_sum", _nan_passes)
    patch.setattr(dp_training, "add_gaussian", add)


def _records_apart(
    model: PatientModel, inputs: Nested, outcomes: Nested, *, max_grad_norm: float
) -> list[Tensor]:
    """One row for each granularity of a patient, and each row clipped by itself."""
    totals: list[Tensor] = []
    for kept in inputs:
        rows = {
            name: {**arrays, "present_B": arrays["present_B"] & (name == kept)}
            for name, arrays in inputs.items()
        }
        sums = _real_clipped_sum(model, rows, outcomes, max_grad_norm=max_grad_norm)
        totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
    return totals


_real_clipped_sum = clipped_gradient_sum


def _summing(function: Callable[..., list[Tensor]]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(dp_training, "clipped_gradient_sum", function)


def _clip_after_the_sum(patch: Patch) -> None:
    """Each physical batch is clipped as a whole, after its patients were added up unclipped."""
    real = clipped_gradient_sum

    def clipped(*args: Any, max_grad_norm: float) -> list[Tensor]:
        return _clipped(real(*args, max_grad_norm=1e9), max_grad_norm)

    patch.setattr(dp_training, "clipped_gradient_sum", clipped)


def _batches_of_one_size(source: NoiseSource, num: int, rate: float) -> NDArray[np.int64]:
    return np.argsort(source.uniform(num))[: round(rate * num)]


def _shuffled(patch: Patch) -> None:
    """Epochs: everybody once, in batches whose sizes alone are those of independent chances."""
    left: list[int] = []

    def batch(source: NoiseSource, num: int, rate: float) -> NDArray[np.int64]:
        size = int((source.uniform(num) < rate).sum())
        if len(left) < size:
            left[:] = np.argsort(source.uniform(num)).tolist()
        taken, left[:] = left[:size], left[size:]
        return np.array(taken, dtype=np.int64)

    patch.setattr(dp_training, "poisson_sample", batch)


def _seedable(patch: Patch) -> None:
    secure = classmethod(lambda cls: NoiseSource.seeded(torch.initial_seed()))
    patch.setattr(NoiseSource, "secure", secure)


def _replanned(change: Callable[[PrivacyPlan], PrivacyPlan]) -> Callable[[Patch], None]:
    real = plans.plan_of

    def plan_of(*args: Any, **named: Any) -> PrivacyPlan:
        return change(real(*args, **named))

    return lambda patch: patch.setattr(plans, "plan_of", plan_of)


def _loader_length(plan: PrivacyPlan) -> PrivacyPlan:
    batches = -(-plan.expected_batch_size / plan.sample_rate // plan.expected_batch_size)
    return replace(plan, sample_rate=1 / batches)


def _uncharged(*free: str) -> Callable[[Patch], None]:
    real = PrivacyPlan.charges_of

    def charges_of(plan: PrivacyPlan, kind: str) -> tuple[Any, ...]:
        return () if kind in free else real(plan, kind)

    return lambda patch: patch.setattr(PrivacyPlan, "charges_of", charges_of)


def _a_round_is_one_step(patch: Patch) -> None:
    real = PrivacyPlan.charges_of

    def charges_of(plan: PrivacyPlan, kind: str) -> tuple[Any, ...]:
        charges = real(plan, kind)
        return tuple(
            replace(c, event=replace(c.event, count=1)) if isinstance(c.event, Gaussian) else c
            for c in charges
        )

    patch.setattr(PrivacyPlan, "charges_of", charges_of)


def _unclipped_hospitals(patch: Patch) -> None:
    patch.setattr(
        server.site_privacy, "clipped_sum", lambda parts, _, num: sum(parts, np.zeros(num))
    )


_p, _l = private_probes, ledger_probes

TRAINING_MUTANTS: tuple[Mutant, ...] = tuple(
    Mutant(name=name, put_in=put_in, noticed_by=probe)
    for name, put_in, probe in (
        ("no noise", scaled_noise(0.0), _p.noise_is_as_planned),
        ("half noise", scaled_noise(0.5), _p.noise_is_as_planned),
        ("divided by the batch twice", _divided_twice, _p.each_patient_is_clipped),
        ("clip the batch", _clip_the_batch, _p.each_patient_is_clipped),
        ("clip after the sum", _clip_after_the_sum, _p.each_patient_is_clipped),
        ("records of a patient apart", _summing(_records_apart), _p.each_patient_is_clipped),
        ("inner optimizer without noise", inner_step, _p.each_patient_is_clipped),
        ("every other step noised", every_other_step_without_noise, _p.noise_is_as_planned),
        ("empty steps skipped", _noise_where_somebody_is, _p.noise_is_as_planned),
        ("NaN stops the round", _summing(_nan_passes), _p.a_damaged_record_is_harmless),
        ("NaN is released", _nan_is_released, _p.a_damaged_record_is_harmless),
        (
            "buffers leak",
            lambda patch: patch.setattr(dp_training, "_check_equal", lambda *_: None),
            _p.buffers_do_not_leak,
        ),
        ("noise of torch's seed", _seedable, _p.noise_cannot_be_seeded),
        (
            "batches of one size",
            lambda patch: patch.setattr(dp_training, "poisson_sample", _batches_of_one_size),
            _p.samples_are_poisson,
        ),
        ("shuffled epochs", _shuffled, _p.samples_are_poisson),
        ("q of the loader", _replanned(_loader_length), _p.the_plan_charges_what_is_done),
        ("moments are free", _uncharged("query"), _l.a_run_is_charged_whole),
        ("evaluation is free", _uncharged("evaluate"), _l.a_run_is_charged_whole),
        ("a round costs one step", _a_round_is_one_step, _l.a_run_is_charged_whole),
        ("exact statistics", scaled_noise(0.0, private_statistics), _p.statistics_have_noise),
        ("hospitals unclipped", _unclipped_hospitals, _p.hospitals_are_hidden),
        (
            "hospitals with half noise",
            scaled_noise(0.5, server.site_privacy),
            _p.hospitals_are_hidden,
        ),
    )
)

MUTANTS = (*TRAINING_MUTANTS, *LEDGER_MUTANTS)
