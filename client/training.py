"""Local training without privacy: some optimizer steps on a site's own patients.

A pure function of model, patients, plan and seed: the simulation, the plain-loop baseline and the
pooled and local-only arms call the same one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from client.data import ArraysByName, Cohort
from client.local_optimizer import LocalOptimizer
from client.physical_batch import PhysicalBatch
from common.models.patient_model import PatientModel
from common.seeds import seed_of
from common.study import Study

Tensors = Mapping[str, Mapping[str, Tensor]]
NestedTensors = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Patients:
    """A cohort on a device: what `Cohort` holds, as tensors."""

    inputs: Tensors
    outcomes: Tensors
    device: torch.device
    num_patients: int

    def batch(self, index_B: Tensor) -> tuple[NestedTensors, NestedTensors]:
        """The inputs and outcomes of the patients at `index_B`."""
        index_B = index_B.to(self.device)
        return _at(self.inputs, index_B), _at(self.outcomes, index_B)

    def __len__(self) -> int:
        return self.num_patients


def _at(named: Tensors, index_B: Tensor) -> NestedTensors:
    return {
        name: {key: value.index_select(0, index_B) for key, value in tensors.items()}
        for name, tensors in named.items()
    }


def to_device(cohort: Cohort, device: torch.device) -> Patients:
    """The cohort as tensors on `device`."""

    def moved(named: Mapping[str, ArraysByName]) -> NestedTensors:
        return {
            name: {key: torch.from_numpy(value.copy()).to(device) for key, value in arrays.items()}
            for name, arrays in named.items()
        }

    return Patients(
        inputs=moved(cohort.arrays),
        outcomes=moved(cohort.outcomes),
        device=device,
        num_patients=len(cohort),
    )


@dataclass(frozen=True, kw_only=True)
class Pull:
    """A quadratic pull of the parameters towards where they shall stay near.

    Attributes:
        origin: one tensor for each trainable parameter, in the model's order.
        strength: μ of FedProx, λ of Ditto.
    """

    origin: Sequence[Tensor]
    strength: float


def train(
    model: PatientModel,
    patients: Patients,
    study: Study,
    *,
    seed: int,
    num_steps: int | None = None,
    pull: Pull | None = None,
) -> int:
    """Trains `model` in place for one round; returns the number of optimizer steps.

    Guarantees:
        - The same arguments give the same parameters, bit for bit on one CPU thread, and torch's
          global random state is left as it was.
        - Every epoch visits every patient once, unless the study balances classes.
        - Where memory runs out, the gradient of a step is added up from halves of its batch: the
          same but for rounding (and for which random numbers dropout gets), of the same patients.
        - Weight decay leaves biases, norms and baselines alone (`PatientModel.undecayed`).

    Args:
        num_steps: instead of those that the study plans for a round.
        pull: instead of the study's own, FedProx's towards the model that the round starts from.

    Raises:
        OutOfMemoryError: of torch; there is no room for one patient, or for a batch whose losses
            depend on one another (Cox).

    Source: FedAvg's ClientUpdate, McMahan et al. 2017, algorithm 1; the proximal term of FedProx,
    Li et al. 2020, equation 2.
    """
    if len(patients) == 0:
        return 0
    descent = Descent(model, study, pull)
    physical = PhysicalBatch(study.training.batch_size, patients.device)
    with seeded(seed, patients.device):
        model.train()
        num_steps = study.training.steps_of(len(patients)) if num_steps is None else num_steps
        for index_B in _batches(patients, study, num_steps, seed):
            _set_gradients(model, patients, index_B, descent, physical)
            descent.step()
    # As large as the model, and of no use until the next round.
    descent.zero_grad()
    return num_steps


def _set_gradients(
    model: PatientModel,
    patients: Patients,
    index_B: Tensor,
    descent: "Descent",
    physical: PhysicalBatch,
) -> None:
    """Puts the gradient of the mean loss of the patients at `index_B` into the parameters."""

    def backward(size: int) -> None:
        # A pass that ran out of memory may have left a part of its gradient.
        descent.zero_grad()
        for piece_B in torch.split(index_B, size):
            inputs, outcomes = patients.batch(piece_B)
            loss_B = model.loss_per_patient(model(inputs), outcomes)
            is_whole = len(piece_B) == len(index_B)
            loss = loss_B.mean() if is_whole else loss_B.sum() / len(index_B)
            loss.backward()  # type: ignore[no-untyped-call]

    if model.is_separable:
        physical.fitting(len(index_B), backward)
    else:
        backward(len(index_B))


class Descent:
    """How the trainable parameters of a model move by their gradients: pull, decay, optimizer.

    It looks at no patient: what it makes of private gradients is private.

    Args:
        pull: None for the study's own, FedProx's towards the model as it is now.

    Attributes:
        parameters: those that are trained, in the model's order.
    """

    def __init__(self, model: PatientModel, study: Study, pull: Pull | None) -> None:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        is_decayed = [name not in model.undecayed for name in named]
        self._optimizer = LocalOptimizer(self.parameters, study.training, is_decayed)
        if pull is None:
            is_proximal = study.strategy.name == "fedprox" and study.strategy.proximal_mu > 0
            origin = [p.detach().clone() for p in self.parameters] if is_proximal else []
            pull = Pull(origin=origin, strength=study.strategy.proximal_mu)
        self._pull = pull

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        self._optimizer.zero_grad()

    def step(self) -> None:
        """Moves the parameters by their gradients and the pull."""
        for parameter, place in zip(self.parameters, self._pull.origin, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - place, alpha=self._pull.strength)
        self._optimizer.step()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch on the CPU and `device`, and puts its random state back in the end."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        seed_torch(seed, device)
        yield


def seed_torch(seed: int, device: torch.device) -> None:
    """Seeds as `torch.manual_seed` does, which formats a stack trace for every kind of device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


def _batches(patients: Patients, study: Study, num_steps: int, seed: int) -> Iterator[Tensor]:
    """`num_steps` batches of indices: shuffled epochs, one after the other.

    Where the study balances classes, an epoch is as many patients drawn with replacement, each
    class of the first outcome equally often.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "batches"))
    chance_B = _balancing(patients, study) if study.training.balance == "resample" else None
    num_given = 0
    while num_given < num_steps:
        if chance_B is None:
            order = torch.randperm(len(patients), generator=generator)
        else:
            order = torch.multinomial(
                chance_B, len(patients), replacement=True, generator=generator
            )
        batches = torch.split(order, study.training.batch_size)
        for index_B in batches[: num_steps - num_given]:
            yield index_B
            num_given += 1


def _balancing(patients: Patients, study: Study) -> Tensor:
    """The chance of each patient to be drawn, up to a factor.

    Classes share evenly what the patients of known class have together. A patient of unknown class,
    who may have other outcomes, keeps the chance that all would have without balance.
    """
    outcome = patients.outcomes[next(iter(study.outcomes))]
    known_B, labels_B = outcome["known_B"].cpu(), outcome["label_B"].cpu()
    _, class_K, count_C = torch.unique(labels_B[known_B], return_inverse=True, return_counts=True)
    chance_B = torch.ones(len(patients), dtype=torch.float64)
    chance_B[known_B] = len(class_K) / (len(count_C) * count_C[class_K].double())
    return chance_B
