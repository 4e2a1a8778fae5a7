"""Canaries in private training: invented patients whose traces show how much noise there really is.

Each canary is a patient whose gradient lies along one coordinate that no other patient touches, and
is too long, so that it is clipped: nobody can move a model by more. A coin decides whether a canary
is among the patients. The training is the product's own (`train_privately`), with the plan's clip,
noise, sample rate, steps and rounds; what comes after the noise is replaced by plain steps, because
whoever attacks may undo it. What is noted of each canary is how far its coordinate has moved.

Letters of shapes: B patients, N canaries, R rounds, W logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.dp_training import train_privately
from client.training import NestedTensors, Patients, Tensors, train
from common.models.contract import Batch
from common.models.heads import Labels
from common.models.patient_model import PatientModel
from common.privacy.mechanisms import NoiseSource
from common.privacy.plan import PrivacyPlan
from common.seeds import seed_of
from common.study import Study

Floats = NDArray[np.float64]

# Times the clip: a canary that is not clipped is seen from afar.
_TOO_LONG = 10.0
# Of a plain step: small enough that patients beside the canaries train as usual.
_STEP = 0.01
_PHYSICAL_BATCH = 4096
_CANARY = "canary"


@dataclass(frozen=True, kw_only=True)
class CanaryScores:
    """How far each canary's coordinate moved in each round, in the direction that its gradient has.

    Attributes:
        score_NR: in units of the optimizer's step.
        is_in_N: whether the canary was among the patients.
        num_steps: steps that training says it took, of all rounds together.
    """

    score_NR: Floats
    is_in_N: NDArray[np.bool_]
    num_steps: int

    @property
    def total_N(self) -> Floats:  # noqa: N802 - a shape suffix
        """The sum over rounds, by which a canary is judged."""
        total_N: Floats = self.score_NR.sum(axis=1)
        return total_N


class CanaryModel(PatientModel):
    """The study's model with one more number for each canary, which is that canary's loss.

    Guarantees:
        - The gradient of a canary is `pull` on its own number, and zero everywhere else.
        - A patient who is no canary has the loss, and the gradient, of the study's model.

    Attributes:
        pull: set from round to round; a change of its sign undoes noise that repeats itself.
    """

    def __init__(self, study: Study, num_canaries: int) -> None:
        super().__init__(study)
        # Row 0 is everybody's who is no canary; no gradient reaches it.
        self.traces = nn.Embedding(num_canaries + 1, 1)
        nn.init.zeros_(self.traces.weight)
        self.pull = 1.0

    def forward(self, batch: Batch) -> Tensor:
        """The logits of the study's model, and the canary's number as one more, (B, W + 1)."""
        return torch.cat([super().forward(batch), self.traces(batch[_CANARY]["row_B"])], dim=1)

    def loss_per_patient(self, logits_BW: Tensor, labels: Mapping[str, Labels]) -> Tensor:
        """The study's loss, or a canary's own, shape (B,)."""
        own_B = super().loss_per_patient(logits_BW[:, :-1], labels)
        return torch.where(labels[_CANARY]["is_B"], self.pull * logits_BW[:, -1], own_B)


def canary_scores(
    study: Study,
    plan: PrivacyPlan,
    *,
    num_canaries: int,
    seed: int,
    patients: Patients | None = None,
) -> CanaryScores:
    """The traces of canaries after all rounds that the plan pays for, the spare ones included.

    Without `patients`, the canaries are alone, and the study's model is replaced by a small one:
    no part of a plan depends on it. With them, it is the study's own model on these patients.

    Args:
        num_canaries: each is among the patients with chance 1/2.
        seed: of coins, samples and noise; noise of a seed protects nobody.
    """
    torch.set_num_threads(1)
    study = _with_plain_steps(study if patients is not None else _without_features(study))
    coins_N = np.random.default_rng(seed_of(seed, "coins")).uniform(size=num_canaries) < 0.5
    model = CanaryModel(study, num_canaries)
    everybody = _among(_empty(study) if patients is None else patients, np.flatnonzero(coins_N) + 1)
    rounds, num_steps = [], 0
    clip = plan.max_grad_norm if plan.mode == "patient" else 1.0
    for round_number in range(plan.num_rounds + plan.spare_rounds):
        sign = 1.0 if round_number % 2 == 0 else -1.0
        model.pull = sign * _TOO_LONG * clip
        with torch.no_grad():
            model.traces.weight.zero_()
        num_steps += _train(model, everybody, study, plan, seed_of(seed, "round", round_number))
        moved_N = model.traces.weight.detach()[1:, 0].double().numpy()
        rounds.append(-sign * moved_N / _STEP)
    return CanaryScores(score_NR=np.stack(rounds, axis=1), is_in_N=coins_N, num_steps=num_steps)


def _train(
    model: CanaryModel, patients: Patients, study: Study, plan: PrivacyPlan, seed: int
) -> int:
    if plan.mode != "patient":
        return train(model, patients, study, seed=seed)
    source = NoiseSource.seeded(seed_of(seed, "noise"))
    return train_privately(
        model, patients, study, plan, source=source, seed=seed, physical_batch=_PHYSICAL_BATCH
    )


def _with_plain_steps(study: Study) -> Study:
    """The study with steps that say what they were made of, and nothing that stays at home."""
    table = study.model_dump(mode="json", exclude_none=True)
    table["training"] |= {
        "optimizer": "sgd",
        "learning_rate": _STEP,
        "momentum": 0.0,
        "weight_decay": 0.0,
    }
    table["strategy"] |= {"name": "fedavg"}
    return Study.model_validate({**table, "personal": {}})


def _without_features(study: Study) -> Study:
    """The study's training of a model of next to nothing."""
    table = study.model_dump(mode="json", exclude_none=True)
    number = {"kind": "numeric", "unit": "none", "range": [0.0, 1.0]}
    table["granularities"] = {
        "nothing": {"kind": "tabular", "hidden": [], "features": {"nothing": number}}
    }
    table["outcomes"] = {
        "outcome": {"column": "outcome", "kind": "binary", "classes": ["no", "yes"]}
    }
    table["model"] = {"width": 2, "fusion": "concat"}
    table["normalisation"] = {"method": "public_range"}
    return Study.model_validate({**table, "personal": {}})


def _empty(study: Study) -> Patients:
    """Nobody, with the arrays of `_without_features`."""
    inputs = {
        name: {
            "present_B": torch.zeros(0, dtype=torch.bool),
            "numeric_BF": torch.zeros(0, 1),
            "observed_BF": torch.zeros(0, 1, dtype=torch.bool),
            "codes_BK": torch.zeros(0, 0, dtype=torch.int64),
        }
        for name in study.granularities
    }
    outcomes = {
        name: {
            "known_B": torch.zeros(0, dtype=torch.bool),
            "label_B": torch.zeros(0, dtype=torch.int64),
        }
        for name in study.outcomes
    }
    return Patients(inputs=inputs, outcomes=outcomes, device=torch.device("cpu"), num_patients=0)


def _among(patients: Patients, row_N: NDArray[np.int64]) -> Patients:
    """The patients, and behind them one canary for each row, of whom nothing else is known."""
    num_canaries, num_patients = len(row_N), len(patients)
    row_B = torch.cat([torch.zeros(num_patients, dtype=torch.int64), torch.from_numpy(row_N)])
    inputs = {**_padded(patients.inputs, num_canaries), _CANARY: {"row_B": row_B}}
    outcomes = {**_padded(patients.outcomes, num_canaries), _CANARY: {"is_B": row_B > 0}}
    return Patients(
        inputs=inputs,
        outcomes=outcomes,
        device=patients.device,
        num_patients=num_patients + num_canaries,
    )


def _padded(named: Tensors, num_more: int) -> NestedTensors:
    """Zeros behind all arrays: no granularity present, no outcome known."""
    return {
        name: {
            key: torch.cat([value, value.new_zeros(num_more, *value.shape[1:])])
            for key, value in arrays.items()
        }
        for name, arrays in named.items()
    }
