"""What tests of private training start from: a plan, patients who tell who was looked at.

Letters of shapes: B patients, P trainable parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.training import Patients
from common.models.patient_model import PatientModel
from common.privacy.plan import PrivacyPlan


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
