"""Heads: from the fused vector to logits, losses per patient, and predictions, by kind of outcome.

Letters of shapes: B patients, D width, W logits, C classes, K intervals of time.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.models.survival import cox_loss, discrete_time_loss, survival_curve
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome, SurvivalOutcome

# The outcome of a batch of patients by array name; "known_B" (bool) is always there.
Labels = Mapping[str, Tensor]
# A hazard of .05 an interval, before anything is learned.
_FIRST_HAZARD_LOGIT = -3.0


class Head(nn.Module):
    """The last layer of one outcome.

    Guarantees of every head:
        - A patient whose outcome is not known has a loss of exactly 0, whatever stands there.
        - Where `is_separable`, a patient's loss depends on that patient alone.

    Attributes:
        num_logits: W, the logits of a patient.
    """

    num_logits: int
    is_separable = True

    @abstractmethod
    def forward(self, fused_BD: Tensor) -> Tensor:
        """The logits, shape (B, W)."""

    def loss_per_patient(self, logits_BW: Tensor, labels: Labels) -> Tensor:
        """The loss of each patient, shape (B,)."""
        known_B = labels["known_B"]
        loss_B = self.loss(logits_BW, labels)
        return torch.where(known_B, loss_B, torch.zeros_like(loss_B))

    @abstractmethod
    def loss(self, logits_BW: Tensor, labels: Labels) -> Tensor:
        """The finite loss of each patient, shape (B,); of an unknown outcome it may be anything."""

    @abstractmethod
    def predictions(self, logits_BW: Tensor) -> Tensor:
        """What `common.metrics` takes for this kind of outcome, in float64."""


class ClassHead(Head):
    """One logit for a binary outcome, else one per class; predictions: (B, C), rows add to 1."""

    def __init__(self, outcome: ClassOutcome, width: int) -> None:
        super().__init__()
        self.is_binary = outcome.kind == "binary"
        self.num_logits = 1 if self.is_binary else len(outcome.classes)
        self.focal_gamma = outcome.focal_gamma
        self.linear = nn.Linear(width, self.num_logits)
        weights = torch.tensor(outcome.class_weights) if outcome.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, fused_BD: Tensor) -> Tensor:
        """The logits, shape (B, 1) or (B, C)."""
        logits_BW: Tensor = self.linear(fused_BD)
        return logits_BW

    def loss(self, logits_BW: Tensor, labels: Labels) -> Tensor:
        """The cross entropy, focal and weighted by class where the study says so."""
        label_B = labels["label_B"].clamp(min=0)
        if self.is_binary:
            target_B = label_B.to(logits_BW.dtype)
            loss_B = functional.binary_cross_entropy_with_logits(
                logits_BW[:, 0], target_B, reduction="none"
            )
        else:
            loss_B = functional.cross_entropy(logits_BW, label_B, reduction="none")
        if self.focal_gamma > 0:
            # The loss is -log p of the true class.
            loss_B = (1 - (-loss_B).exp()).clamp(min=1e-6) ** self.focal_gamma * loss_B
        weights_C = self.get_buffer("class_weights") if self.class_weights is not None else None
        return loss_B if weights_C is None else loss_B * weights_C[label_B]

    def predictions(self, logits_BW: Tensor) -> Tensor:
        """The probability of each class, shape (B, C)."""
        if self.is_binary:
            positive_B = logits_BW[:, 0].double().sigmoid()
            return torch.stack([1 - positive_B, positive_B], dim=1)
        return logits_BW.double().softmax(dim=1)


class RegressionHead(Head):
    """One number: the value on the study's scale, the plausible range being [-1, 1].

    Predictions: (B, 1), in the outcome's unit, within its range.
    """

    num_logits = 1

    def __init__(self, outcome: RegressionOutcome, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.is_log = outcome.scale == "log"
        self.range = outcome.range
        low, high = (float(self._on_scale(torch.tensor(v).double())) for v in outcome.range)
        self.middle, self.half_range = (low + high) / 2, (high - low) / 2

    def forward(self, fused_BD: Tensor) -> Tensor:
        """The logit, shape (B, 1)."""
        logits_BW: Tensor = self.linear(fused_BD)
        return logits_BW

    def loss(self, logits_BW: Tensor, labels: Labels) -> Tensor:
        """The squared error on the study's scale."""
        value_B = torch.where(labels["known_B"], labels["value_B"], self.range[0])
        target_B = (self._on_scale(value_B) - self.middle) / self.half_range
        return (logits_BW[:, 0] - target_B) ** 2

    def predictions(self, logits_BW: Tensor) -> Tensor:
        """The value, shape (B, 1)."""
        value_B1 = self.middle + self.half_range * logits_BW.double()
        value_B1 = value_B1.expm1() if self.is_log else value_B1
        return value_B1.clamp(*self.range)

    def _on_scale(self, value: Tensor) -> Tensor:
        return value.log1p() if self.is_log else value


class HazardHead(Head):
    """Logits of the hazard in each interval; predictions: survival at the cut points, (B, K).

    A proportional head has one risk, added to a baseline logit of each interval: few events are
    enough for it. Otherwise each interval has weights of its own.
    """

    def __init__(self, outcome: SurvivalOutcome, width: int) -> None:
        super().__init__()
        self.num_logits = len(outcome.cut_points)
        self.linear = nn.Linear(width, 1 if outcome.proportional else self.num_logits, bias=False)
        # An embedding of one row, and not a bare parameter, for which Opacus has no sampler.
        self.baseline = nn.Embedding(1, self.num_logits)
        nn.init.constant_(self.baseline.weight, _FIRST_HAZARD_LOGIT)
        self.register_buffer("cut_points", torch.tensor(outcome.cut_points), persistent=False)

    def forward(self, fused_BD: Tensor) -> Tensor:
        """The logits, shape (B, K)."""
        row_B = torch.zeros(len(fused_BD), dtype=torch.long, device=fused_BD.device)
        logits_BK: Tensor = self.linear(fused_BD) + self.baseline(row_B)
        return logits_BK

    def loss(self, logits_BW: Tensor, labels: Labels) -> Tensor:
        """The negative log likelihood in discrete time."""
        return discrete_time_loss(
            logits_BW, labels["time_B"], labels["event_B"], self.get_buffer("cut_points")
        )

    def predictions(self, logits_BW: Tensor) -> Tensor:
        """The survival curve, shape (B, K)."""
        return survival_curve(logits_BW.double())


class CoxHead(Head):
    """The log relative risk; predictions: (B, 1), in (0, 1), which order patients and no more."""

    num_logits = 1
    is_separable = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1, bias=False)

    def forward(self, fused_BD: Tensor) -> Tensor:
        """The log relative risk, shape (B, 1)."""
        logits_BW: Tensor = self.linear(fused_BD)
        return logits_BW

    def loss_per_patient(self, logits_BW: Tensor, labels: Labels) -> Tensor:
        """Each patient's term of the partial likelihood; the unknown are in nobody's risk set."""
        known_B = labels["known_B"]
        # Without an outcome: censored before everybody else's time, so at risk for nobody.
        time_B = torch.where(known_B, labels["time_B"], -1.0)
        return cox_loss(logits_BW[:, 0], time_B, labels["event_B"] & known_B)

    def loss(self, logits_BW: Tensor, labels: Labels) -> Tensor:
        """As `loss_per_patient`."""
        return self.loss_per_patient(logits_BW, labels)

    def predictions(self, logits_BW: Tensor) -> Tensor:
        """A number in (0, 1) that falls with the risk, shape (B, 1)."""
        return (-logits_BW.double()).sigmoid()


def build_head(outcome: AnyOutcome, width: int) -> Head:
    """The head of an outcome, by its kind."""
    if isinstance(outcome, ClassOutcome):
        return ClassHead(outcome, width)
    if isinstance(outcome, RegressionOutcome):
        return RegressionHead(outcome, width)
    return CoxHead(width) if outcome.loss == "cox" else HazardHead(outcome, width)
