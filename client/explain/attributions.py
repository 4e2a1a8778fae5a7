"""What each feature adds to a prediction: integrated gradients, by captum.

Letters of shapes: B patients, F features, N images, H height, W width.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.explain.inputs import Moved, batch_of, fixed_of, moved_of, replaced, values_of
from client.explain.scores import explained_classes, score_of
from client.explain.subject import Subject
from common.errors import SiteConfigError

Floats = NDArray[np.float64]
Score = Callable[..., Tensor]

# Patients times steps at a time.
_ROWS = 512
_FEWEST_STEPS, _MOST_STEPS = 32, 512
# What is left unexplained may be this part of what there is to explain.
TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Attributions:
    """What the score of each patient is made of, for one outcome.

    Attributes:
        features: the granularity and name of each column of `value_BF`.
        baseline_B: the score at the baseline (`client.explain.inputs`).
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


def attributions(subject: Subject, outcome: str, index: NDArray[np.int64]) -> Attributions:
    """What each feature adds to the score of one outcome, of some held-out patients.

    Guarantees:
        - Attributions add up to score minus baseline; steps are doubled until what is missing is
          `TOLERANCE` of it (or of the mean over patients, if that is more), or there are
          `_MOST_STEPS`.
        - What is absent, or was not measured, is attributed exactly 0.

    Args:
        index: of the held-out patients.

    Raises:
        SiteConfigError: captum is not installed.

    Source: Sundararajan, Taly and Yan 2017, equation 1, arXiv:1703.01365.
    """
    integrated_gradients = _captum()
    model, study = subject.model, subject.study
    moved = moved_of(study, model, subject.train.patients)
    predicted_BP = subject.test.predictions[outcome][index]
    class_B = torch.from_numpy(explained_classes(study.outcomes[outcome], predicted_BP))
    num_at_once = _ROWS // _FEWEST_STEPS
    pieces = []
    for place in torch.split(torch.arange(len(index)), num_at_once):
        batch, _ = subject.test.patients.batch(torch.from_numpy(index)[place])
        classes_B = class_B[place].to(subject.test.patients.device)
        pieces.append(_piece(integrated_gradients, subject, outcome, moved, batch, classes_B))
    return _joined(moved, pieces)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    parts: list[Tensor]
    baseline_B: Tensor
    score_B: Tensor
    num_steps: int


def _piece(
    integrated_gradients: Any,
    subject: Subject,
    outcome: str,
    moved: Sequence[Moved],
    batch: Any,
    class_B: Tensor,
) -> _Piece:
    values = values_of(moved, subject.model, batch)
    starts = tuple(m.start(v, batch) for m, v in zip(moved, values, strict=True))
    names, fixed = fixed_of(moved, batch)
    score = _score(subject, outcome, moved, names)
    extra = (*fixed, class_B)
    with torch.no_grad():
        score_B, baseline_B = score(*values, *extra), score(*starts, *extra)
    difference_B = score_B - baseline_B
    allowed_B = TOLERANCE * difference_B.abs().clamp(min=float(difference_B.abs().mean()))
    parts = [torch.zeros_like(value, dtype=torch.float64) for value in values]
    pending_P, num_steps = torch.arange(len(class_B), device=class_B.device), _FEWEST_STEPS
    while True:
        method = integrated_gradients(score)
        now = (tuple(array[pending_P] for array in arrays) for arrays in (values, starts, extra))
        found = _integrated(method, *now, num_steps=num_steps)
        for part, value in zip(parts, found, strict=True):
            part[pending_P] = value.double()
        total_B = torch.stack([part.flatten(1).sum(dim=1) for part in parts]).sum(dim=0)
        is_off_B = (total_B - difference_B).abs() > allowed_B
        pending_P = pending_P[is_off_B[pending_P]]
        if len(pending_P) == 0 or num_steps >= _MOST_STEPS:
            return _Piece(parts=parts, baseline_B=baseline_B, score_B=score_B, num_steps=num_steps)
        num_steps *= 2


def _integrated(
    method: Any,
    values: tuple[Tensor, ...],
    starts: tuple[Tensor, ...],
    extra: tuple[Tensor, ...],
    *,
    num_steps: int,
) -> tuple[Tensor, ...]:
    """The integral of each moved array, of some patients, by so many steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: tuple[Tensor, ...] = method.attribute(
            values,
            baselines=starts,
            additional_forward_args=extra,
            n_steps=num_steps,
            internal_batch_size=max(_ROWS, len(values[0])),
        )
    return found


def _score(
    subject: Subject, outcome: str, moved: Sequence[Moved], names: Sequence[tuple[str, str]]
) -> Score:
    """The score as a function of the moved arrays, then of those that stay, then of classes."""
    model, plan = subject.model, subject.study.outcomes[outcome]
    own = subject.intercepts.get(outcome)
    device = subject.test.patients.device
    intercept_C = None if own is None else torch.from_numpy(own).to(device)

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


def _captum() -> Any:
    """The class of integrated gradients.

    Raises:
        SiteConfigError: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients  # type: ignore[import-untyped]  # optional
    except ImportError:
        raise SiteConfigError(
            "Expected the library captum, found it is not installed on this computer. Install it: "
            "pip install 'wardround[explain]'."
        ) from None
    return IntegratedGradients
