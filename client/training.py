"""Local training without privacy: some optimizer steps on a site's own patients.

A pure function of model, patients, plan and seed: the simulation, the plain-loop baseline and the
pooled and local-only arms call the same one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from client.data import Cohort
from common.models.heads import loss_per_patient
from common.models.patient_model import PatientModel
from common.seeds import seed_of
from common.study import Study, Training

Tensors = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Patients:
    """A cohort on a device: what `Cohort` holds, as tensors."""

    inputs: Tensors
    labels_B: Tensor

    def batch(self, index_B: Tensor) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
        """The inputs and labels of the patients at `index_B`."""
        inputs = {
            name: {key: value.index_select(0, index_B) for key, value in granularity.items()}
            for name, granularity in self.inputs.items()
        }
        return inputs, self.labels_B.index_select(0, index_B)

    def __len__(self) -> int:
        return len(self.labels_B)


def to_device(cohort: Cohort, device: torch.device) -> Patients:
    """The cohort as tensors on `device`."""
    inputs = {
        name: {key: torch.from_numpy(value.copy()).to(device) for key, value in arrays.items()}
        for name, arrays in cohort.arrays.items()
    }
    return Patients(inputs=inputs, labels_B=torch.from_numpy(cohort.labels_B.copy()).to(device))


def train(model: PatientModel, patients: Patients, study: Study, *, seed: int) -> int:
    """Trains `model` in place for one round; returns the number of optimizer steps.

    Guarantees:
        - The same arguments give the same parameters, bit for bit on one CPU thread, and torch's
          global random state is left as it was.
        - Every epoch visits every patient once.

    Source: FedAvg's ClientUpdate, McMahan et al. 2017, algorithm 1; the proximal term of FedProx,
    Li et al. 2020, equation 2.
    """
    if len(patients) == 0:
        return 0
    plan = study.training
    optimizer = _optimizer(model, plan)
    mu = study.strategy.proximal_mu if study.strategy.name == "fedprox" else 0.0
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters] if mu else []
    devices = [patients.labels_B.device] if patients.labels_B.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        _seed_all(seed, devices)
        model.train()
        num_steps = plan.steps_of(len(patients))
        for index_B in _batches(len(patients), plan.batch_size, num_steps, seed):
            inputs, labels_B = patients.batch(index_B.to(patients.labels_B.device))
            optimizer.zero_grad(set_to_none=True)
            loss = loss_per_patient(study.outcome, model(inputs), labels_B).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter, origin in zip(parameters, start, strict=False):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - origin, alpha=mu)
            optimizer.step()
    return num_steps


def _seed_all(seed: int, devices: list[torch.device]) -> None:
    """Seeds as `torch.manual_seed` does, which formats a stack trace for every kind of device."""
    torch.default_generator.manual_seed(seed)
    for device in devices:
        torch.cuda.default_generators[device.index].manual_seed(seed)


def _batches(num_patients: int, batch_size: int, num_steps: int, seed: int) -> Iterator[Tensor]:
    """`num_steps` batches of indices: shuffled epochs, one after the other."""
    generator = torch.Generator().manual_seed(seed_of(seed, "batches"))
    num_given = 0
    while num_given < num_steps:
        order = torch.randperm(num_patients, generator=generator)
        for index_B in torch.split(order, batch_size)[: num_steps - num_given]:
            yield index_B
            num_given += 1


def _optimizer(model: PatientModel, plan: Training) -> torch.optim.Optimizer:
    parameters, rate, decay = model.parameters(), plan.learning_rate, plan.weight_decay
    match plan.optimizer:
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=rate, momentum=plan.momentum, weight_decay=decay, foreach=True
            )
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, foreach=True)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, foreach=True)
