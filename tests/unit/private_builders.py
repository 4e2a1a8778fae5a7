"""What tests of private training start from: a plan, patients who tell who was looked at.

Letters of shapes: B patients, P trainable parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.dp_training import train_privately
from client.training import Patients
from common.models.patient_model import PatientModel
from common.privacy.mechanisms import NoiseSource
from common.privacy.plan import PrivacyPlan
from common.study import Study

CPU = torch.device("cpu")


def plan_with(**fields: Any) -> PrivacyPlan:
    """A plan of three steps on half of forty patients, with some fields replaced."""
    settings: dict[str, Any] = {
        "mode": "patient",
        "epsilon": 1.0,
        "delta": 1e-5,
        "noise_multiplier": 1.0,
        "max_grad_norm": 0.5,
        "sample_rate": 0.5,
        "expected_batch_size": 20.0,
        "steps_per_round": 3,
        "num_rounds": 2,
        "spare_rounds": 0,
        "moments_noise_multiplier": None,
        "evaluation_noise_multiplier": 1.0,
        "split": "",
        "adjacency": "add or remove one patient",
    }
    return PrivacyPlan(**{**settings, **fields})


def values_of(model: PatientModel) -> NDArray[np.float64]:
    """All trainable parameters, shape (P,)."""
    trained = [p.detach().double().flatten() for p in model.parameters() if p.requires_grad]
    return torch.cat(trained).numpy()


def clipped_one_by_one(
    model: PatientModel, patients: Patients, index_B: NDArray[np.int64], max_grad_norm: float
) -> NDArray[np.float64]:
    """The oracle: the clipped gradient of each patient, alone in a batch, shape (B, P)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    clipped_BP = np.zeros((len(index_B), sum(p.numel() for p in parameters)))
    for place, index in enumerate(index_B):
        inputs, outcomes = patients.batch(torch.tensor([index]))
        loss = model.loss_per_patient(model(inputs), outcomes).sum()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        flat_P = torch.cat([g.flatten() for g in grads]).double().numpy()
        norm = max(float(np.linalg.norm(flat_P)), 1e-300)
        clipped_BP[place] = flat_P * min(1.0, max_grad_norm / norm)
    return clipped_BP


def difference(one: PatientModel, other: PatientModel) -> float:
    """How far two models are from one another, as a part of the length of the other."""
    a, b = values_of(one), values_of(other)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@dataclass(frozen=True, kw_only=True)
class Watched(Patients):
    """Patients who tell which of them were looked at, and do something then."""

    seen: list[list[int]] = field(default_factory=list)
    then: Callable[[], object] = lambda: None

    def batch(self, index_B: torch.Tensor) -> Any:
        self.seen.append(index_B.tolist())
        self.then()
        return super().batch(index_B)


def watched(patients: Patients, then: Callable[[], object] = lambda: None) -> Watched:
    """The same patients, watched."""
    return Watched(
        inputs=patients.inputs,
        outcomes=patients.outcomes,
        device=patients.device,
        num_patients=patients.num_patients,
        then=then,
    )


def in_float64(patients: Patients) -> Patients:
    """The same patients, with numbers of twice the precision."""

    def doubled(named: Any) -> Any:
        return {
            name: {k: v.double() if v.is_floating_point() else v for k, v in arrays.items()}
            for name, arrays in named.items()
        }

    return replace(patients, inputs=doubled(patients.inputs), outcomes=doubled(patients.outcomes))


def privately_trained(
    study: Study, patients: Patients, plan: PrivacyPlan, *, noise: int = 1, **options: Any
) -> PatientModel:
    """A model after one round of private training from a seeded stream of noise."""
    model = PatientModel(study)
    source = NoiseSource.seeded(noise)
    options = {"seed": 1, **options}
    assert train_privately(model, patients, study, plan, source=source, **options) in range(100)
    return model
