"""Private training: DP-SGD of one round on a site's own patients, and nothing beside it.

The one place where gradients of a private site's patients become a change of parameters that may be
released. The patients are looked at by `clipped_gradient_sum` alone, and what it returns is used
with noise alone. It must never take a step without noise, nor count, log or return how many
patients a step has met.

Letters of shapes: B patients of a step, P trainable parameters.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.per_patient import clipped_gradient_sum
from client.physical_batch import PhysicalBatch
from client.training import Descent, Patients, Pull, seed_torch, seeded
from common.errors import Refusal, RefusalCode
from common.models.patient_model import PatientModel
from common.privacy.mechanisms import NoiseSource, add_gaussian, poisson_sample
from common.privacy.plan import PrivacyPlan
from common.seeds import seed_of
from common.study import Study

# Where a CPU's generator keeps its 624 words of 32 bits, each in eight bytes (`torch.get_rng_state`
# of torch 2: the legacy layout of a Mersenne Twister).
_STATE_BYTES, _WORDS_FROM, _NUM_WORDS = 5056, 24, 624


def train_privately(
    model: PatientModel,
    patients: Patients,
    study: Study,
    plan: PrivacyPlan,
    *,
    source: NoiseSource,
    seed: int,
    num_steps: int | None = None,
    pull: Pull | None = None,
    physical_batch: int = 256,
) -> int:
    """Trains `model` in place for one round under `plan`; returns the number of noised steps.

    Guarantees:
        - There are exactly as many steps as the plan pays for, each with its noise, also where a
          sample is empty.
        - All trainable parameters get noise of one standard deviation, noise_multiplier *
          max_grad_norm / expected_batch_size, those that stay at the site too.
        - Adding or removing one patient, whatever and however many the records, moves what noise
          is added to by max_grad_norm at most.
        - Buffers and frozen parameters are what they were, bit for bit, and nothing but a noised
          step moves a trainable parameter.
        - Samples and noise come from `source` alone; dropout and augmentation of each step from
          `source` and `seed` together.
        - The physical batch changes no sample, no noise, and no sum but for rounding (and for
          which random numbers dropout gets). It is halved where memory runs out; no patient is left
          out for it, and none counts twice.
        - Torch's global random state is left as it was.

    Edge cases:
        ====================  ================================================================
        an empty sample       a step of noise alone, divided by the same expected batch size
        no patients at all    all steps are steps of noise alone
        `num_steps` 0         nothing moves
        ====================  ================================================================

    Args:
        source: of all that is random; whoever knows its numbers can take the noise off.
        seed: of dropout and augmentation, with a secret of `source` mixed in.
        num_steps: fewer steps than the plan pays for.
        pull: instead of the study's own, FedProx's towards the model that the round starts from.
        physical_batch: the largest number of patients whose gradients are in memory at a time, to
            begin with.

    Raises:
        ValueError: the plan has no noise for patients, or pays for fewer steps; or classes are
            balanced by drawing patients again, which no plan accounts for.
        Refusal: training has changed what it must not (`EGRESS_BLOCKED`).
        OutOfMemoryError: of torch; there is no room for one patient.

    Source: DP-SGD, Abadi et al. 2016, arXiv:1607.00133, algorithm 1, with the expected batch size
    as divisor; pull, decay, momentum and Adam are post-processing, Dwork and Roth 2014,
    proposition 2.1.
    """
    num_steps = _paid_steps(plan, study, num_steps)
    before = _untrained(model)
    descent = Descent(model, study, pull)
    physical = PhysicalBatch(physical_batch, patients.device)
    with seeded(seed, patients.device):
        model.train()
        for _ in range(num_steps):
            index_B = poisson_sample(source, len(patients), plan.sample_rate)
            _seed_secretly(source, seed, patients.device)
            placed_P = _flat(descent.parameters)
            sum_P = _clipped_sum(model, patients, index_B, plan, physical)
            _check_equal({"parameters": placed_P}, {"parameters": _flat(descent.parameters)})
            _set_gradients(descent.parameters, _noised_mean(sum_P, plan, source))
            descent.step()
    _check_equal(before, _untrained(model))
    return num_steps


def _paid_steps(plan: PrivacyPlan, study: Study, num_steps: int | None) -> int:
    """How many steps to take, where the plan allows any."""
    scales = (plan.noise_multiplier, plan.max_grad_norm, plan.expected_batch_size)
    if plan.mode != "patient" or not all(0.0 < scale < math.inf for scale in scales):
        raise ValueError(
            "expected a privacy plan with noise for patients (mode 'patient'), found mode "
            f"'{plan.mode}' with noise_multiplier {plan.noise_multiplier}, max_grad_norm "
            f"{plan.max_grad_norm} and expected_batch_size {plan.expected_batch_size}"
        )
    if study.training.balance != "none":
        raise ValueError(
            "expected training.balance = 'none' in private training, found "
            f"'{study.training.balance}': a patient drawn more often is protected less"
        )
    num_steps = plan.steps_per_round if num_steps is None else num_steps
    if num_steps > plan.steps_per_round:
        raise ValueError(
            f"expected at most the {plan.steps_per_round} steps that the privacy plan pays for, "
            f"found {num_steps}"
        )
    return num_steps


def _seed_secretly(source: NoiseSource, seed: int, device: torch.device) -> None:
    """Gives torch, for dropout and augmentation of one step, a state that nobody else can know.

    Torch draws for the patients of a batch one after the other: one more patient changes what all
    later ones get, and so the sum by far more than one clipped gradient. As long as nobody knows
    what was drawn, that is no fault: every patient's draws are distributed alike with and without
    another patient. With a seed that follows from the study it would be one, and with one of few
    enough bits to try them all. A CPU's generator takes 32 bits of a seed: so its whole state is
    filled here.

    Raises:
        RuntimeError: torch's generator is not the one that this knows how to fill.
    """
    secret: list[str | int] = [seed, *(float(uniform).hex() for uniform in source.uniform(2))]
    seed_torch(seed_of(*secret), device)
    state = torch.default_generator.get_state()
    words = state.numpy()[_WORDS_FROM : _WORDS_FROM + 8 * _NUM_WORDS].view("<u8")
    if len(state) != _STATE_BYTES or int(words[0]) != torch.initial_seed() % 2**32:
        raise RuntimeError("expected torch's Mersenne Twister, found another generator")
    digest = hashlib.shake_256("\x1f".join(map(str, secret)).encode()).digest(4 * _NUM_WORDS)
    words[:] = np.frombuffer(digest, dtype="<u4")
    torch.default_generator.set_state(state)


def _clipped_sum(
    model: PatientModel,
    patients: Patients,
    index_B: NDArray[np.int64],
    plan: PrivacyPlan,
    physical: PhysicalBatch,
) -> NDArray[np.float64]:
    """The sum of the clipped gradients of the patients at `index_B`, shape (P,); 0 of nobody."""

    def sum_of(place: slice) -> NDArray[np.float64]:
        inputs, outcomes = patients.batch(torch.from_numpy(index_B[place]))
        sums = clipped_gradient_sum(model, inputs, outcomes, max_grad_norm=plan.max_grad_norm)
        return torch.cat([value.detach().reshape(-1) for value in sums]).cpu().double().numpy()

    sum_P = np.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad))
    for piece_P in physical.pieces(len(index_B), sum_of):
        sum_P += piece_P
    return sum_P


def _noised_mean(
    sum_P: NDArray[np.float64], plan: PrivacyPlan, source: NoiseSource
) -> NDArray[np.float64]:
    """The private gradient of a step: the one place where its noise is measured out."""
    noisy_P = add_gaussian(
        sum_P,
        sensitivity=plan.max_grad_norm,
        noise_multiplier=plan.noise_multiplier,
        source=source,
    )
    return noisy_P / plan.expected_batch_size


def _set_gradients(parameters: Sequence[Tensor], flat_P: NDArray[np.float64]) -> None:
    """Cuts `flat_P` into the gradients of the parameters, whatever these held before."""
    # All are of one type and on one device, so that one copy does for all.
    moved_P = torch.from_numpy(flat_P).to(parameters[0].dtype).to(parameters[0].device)
    pieces = torch.split(moved_P, [p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def _untrained(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all that training must leave alone: buffers and frozen parameters, by name."""
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return {
        name: value.detach().clone()
        for name, value in {**frozen, **dict(model.named_buffers())}.items()
    }


def _check_equal(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Raises `Refusal` where what no step may change is not what it was, bit for bit."""
    changed = sorted(
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not _same_bits(before[name], after[name])
    )
    if changed:
        raise Refusal(
            RefusalCode.EGRESS_BLOCKED,
            "Expected a model that only the noised steps of private training change, found changed "
            f"beside them: {', '.join(changed)}. That would tell about patients. Find the layer "
            "that keeps what it has seen.",
        )


def _flat(parameters: Sequence[Tensor]) -> Tensor:
    """A copy of all values of the parameters, shape (P,)."""
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = (value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other))
    return torch.equal(*flat)
