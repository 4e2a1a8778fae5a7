"""What each feature adds to a prediction: integrated gradients, with as many steps as it takes.

What is made of it stays here (`client.explain`), or leaves as sums over many patients
(`client.attribution_sums`).

Letters of shapes: B patients, Q of them whose integral needs more steps, F features, P values
predicted, C classes, N images, H height, W width (of `logits_BW`: of all heads).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.evaluation import Intercepts, Predictions
from client.integrated_gradients import Score, Tensors, integrate
from client.moved_inputs import Moved, batch_of, fixed_of, moved_of, replaced, values_of
from client.physical_batch import PhysicalBatch
from client.scores import explained_classes, score_of
from client.training import Patients
from common.models.patient_model import PatientModel
from common.study import Study

Floats = NDArray[np.float64]

# Of whom attributions are computed, at most: some 20 ms a patient and outcome of the study demo.
MOST_PATIENTS = 300
_PATIENTS_AT_ONCE = 16
_FEWEST_STEPS, _MOST_STEPS = 32, 512
# What is left unexplained may be this part of what there is to explain.
TOLERANCE = 0.01


class Integrator(Protocol):
    """Computes the integral: our own (`client.integrated_gradients.integrate`), or a library's."""

    def __call__(
        self,
        score: Score,
        values: Tensors,
        starts: Tensors,
        fixed: Sequence[Tensor],
        *,
        num_steps: int,
        num_rows: int,
    ) -> Tensors:
        """The integral of each moved array, of some patients, by so many steps."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model as one hospital uses it, and what it says of patients.

    Attributes:
        trained_on: the hospital's training patients, of whom baselines are averages.
        patients: the held-out patients.
        predictions: of `patients`, intercepts included.
        intercepts: the site's own, by outcome.
    """

    study: Study
    model: PatientModel
    trained_on: Patients
    patients: Patients
    predictions: Predictions
    intercepts: Intercepts


@dataclass(frozen=True, kw_only=True)
class Attributions:
    """What the score of each patient is made of, for one outcome.

    Attributes:
        features: the granularity and name of each column of `value_BF`.
        baseline_B: the score at the baseline (`client.moved_inputs`).
        score_B: the patient's own score.
        pixels: by granularity of images, what each pixel adds, (B, N, H, W).
        num_steps: of the integral, at the patient who needed most.
    """

    features: tuple[tuple[str, str], ...]
    value_BF: Floats
    baseline_B: Floats
    score_B: Floats
    pixels: Mapping[str, Floats]
    num_steps: int

    @property
    def gap_B(self) -> Floats:  # noqa: N802 - a shape suffix
        """By how much the attributions of each patient miss score minus baseline."""
        gap_B: Floats = self.value_BF.sum(axis=1) - (self.score_B - self.baseline_B)
        return gap_B

    @property
    def largest_gap(self) -> float:
        """The largest gap, as a part of the patient's difference, or of the mean one if larger."""
        size_B = np.abs(self.score_B - self.baseline_B)
        size_B = np.maximum(size_B, size_B.mean())
        part_B = np.divide(np.abs(self.gap_B), size_B, out=np.zeros_like(size_B), where=size_B > 0)
        return float(part_B.max(initial=0.0))

    def by_granularity(self, names: Sequence[str]) -> Floats:
        """The sum over the features of each granularity, shape (B, G)."""
        owners = np.array([granularity for granularity, _ in self.features])
        columns = [self.value_BF[:, owners == name].sum(axis=1) for name in names]
        return np.stack(columns, axis=1)


def evenly_spread(num_patients: int, most: int = MOST_PATIENTS) -> NDArray[np.int64]:
    """Up to `most` of so many patients, evenly spread over them.

    >>> evenly_spread(6, most=3).tolist()
    [0, 2, 4]
    """
    num_chosen = min(num_patients, most)
    return np.floor(np.arange(num_chosen) * num_patients / max(num_chosen, 1)).astype(np.int64)


def attributions(
    judge: Judge,
    outcome: str,
    index: NDArray[np.int64],
    integrator: Integrator = integrate,
) -> Attributions:
    """What each feature adds to the score of one outcome, of some held-out patients.

    Guarantees:
        - Attributions add up to score minus baseline; steps are doubled until what is missing is
          `TOLERANCE` of it (or of the mean over patients, if that is more), or there are
          `_MOST_STEPS`.
        - What is absent, or was not measured, is attributed exactly 0.
        - Where a GPU has no room, fewer patients are looked at at a time.

    Args:
        index: of the held-out patients; not empty.

    Source: Sundararajan, Taly and Yan 2017, equation 1, arXiv:1703.01365.
    """
    moved = moved_of(judge.study, judge.model, judge.trained_on)
    predicted_BP = judge.predictions[outcome][index]
    class_B = torch.from_numpy(explained_classes(judge.study.outcomes[outcome], predicted_BP))

    def piece(place: slice) -> _Piece:
        batch, _ = judge.patients.batch(torch.from_numpy(index)[place])
        classes_B = class_B[place].to(judge.patients.device)
        return _piece(judge, outcome, moved, batch, classes_B, integrator)

    physical = PhysicalBatch(_PATIENTS_AT_ONCE, judge.patients.device)
    return _joined(moved, list(physical.pieces(len(index), piece)))


@dataclass(frozen=True, kw_only=True)
class _Piece:
    parts: list[Tensor]
    baseline_B: Tensor
    score_B: Tensor
    num_steps: int


def _piece(
    judge: Judge,
    outcome: str,
    moved: Sequence[Moved],
    batch: Any,
    class_B: Tensor,
    integrator: Integrator,
) -> _Piece:
    values = values_of(moved, judge.model, batch)
    starts = tuple(m.start(v, batch) for m, v in zip(moved, values, strict=True))
    names, fixed = fixed_of(moved, batch)
    score = _score(judge, outcome, moved, names)
    extra = (*fixed, class_B)
    with torch.no_grad():
        score_B, baseline_B = score(*values, *extra), score(*starts, *extra)
    difference_B = score_B - baseline_B
    allowed_B = TOLERANCE * difference_B.abs().clamp(min=float(difference_B.abs().mean()))
    parts = [torch.zeros_like(value, dtype=torch.float64) for value in values]
    pending_Q, num_steps = torch.arange(len(class_B), device=class_B.device), _FEWEST_STEPS
    # Of fewer patients, where a GPU has no room for so many, fewer rows.
    num_rows = _FEWEST_STEPS * len(class_B)
    while True:
        now = (tuple(array[pending_Q] for array in arrays) for arrays in (values, starts, extra))
        found = integrator(score, *now, num_steps=num_steps, num_rows=num_rows)
        for part, value in zip(parts, found, strict=True):
            part[pending_Q] = value.double()
        total_B = torch.stack([part.flatten(1).sum(dim=1) for part in parts]).sum(dim=0)
        is_off_B = (total_B - difference_B).abs() > allowed_B
        pending_Q = pending_Q[is_off_B[pending_Q]]
        if len(pending_Q) == 0 or num_steps >= _MOST_STEPS:
            return _Piece(parts=parts, baseline_B=baseline_B, score_B=score_B, num_steps=num_steps)
        num_steps *= 2


def _score(
    judge: Judge, outcome: str, moved: Sequence[Moved], names: Sequence[tuple[str, str]]
) -> Score:
    """The score as a function of the moved arrays, then of those that stay, then of classes."""
    model, plan = judge.model, judge.study.outcomes[outcome]
    own = judge.intercepts.get(outcome)
    intercept_C = None if own is None else torch.from_numpy(own).to(judge.patients.device)

    def score(*arrays: Tensor) -> Tensor:
        values, fixed, class_B = arrays[: len(moved)], arrays[len(moved) : -1], arrays[-1]
        with replaced(moved, values):
            logits_BW = model(batch_of(moved, values, names, fixed))
        return score_of(model.predictions(logits_BW)[outcome], plan, class_B, intercept_C)

    return score


def _joined(moved: Sequence[Moved], pieces: Sequence[_Piece]) -> Attributions:
    def whole(tensors: Sequence[Tensor]) -> Floats:
        return torch.cat(list(tensors)).cpu().double().numpy()

    return Attributions(
        features=tuple((m.granularity, feature) for m in moved for feature in m.features),
        value_BF=whole(
            [
                torch.cat([m.by_feature(p) for m, p in zip(moved, piece.parts, strict=True)], dim=1)
                for piece in pieces
            ]
        ),
        baseline_B=whole([piece.baseline_B for piece in pieces]),
        score_B=whole([piece.score_B for piece in pieces]),
        pixels={
            m.granularity: whole([piece.parts[place] for piece in pieces])
            for place, m in enumerate(moved)
            if m.array == "images_BNHW"
        },
        num_steps=max(piece.num_steps for piece in pieces),
    )
