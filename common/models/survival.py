"""Losses of time-to-event models: discrete time, a sum over patients, and Cox, which is not.

Letters of shapes: B patients, K intervals of time.
"""

import torch
from torch import Tensor
from torch.nn import functional


def discrete_time_loss(
    logits_BK: Tensor, time_B: Tensor, event_B: Tensor, cut_points_K: Tensor
) -> Tensor:
    """The negative log likelihood of each patient, shape (B,).

    The hazard of interval k, the probability of the event in it for who has survived until then,
    is the sigmoid of its logit. A patient takes part in the intervals survived and in that of the
    event. An interval in which observation ends counts as survived from its middle on.

    Guarantees:
        - The loss of a patient depends on that patient alone, so it can be clipped per patient.

    Args:
        logits_BK: of the hazards.
        time_B: 0 or more, in the unit of the cut points. An event after the last one is survival.
        event_B: bool.
        cut_points_K: ends of the intervals, ascending; the first starts at 0.

    Source: Gensheimer and Narasimhan 2019, PeerJ 7:e6257, equation 2 (after Brown 1975).
    """
    start_K = torch.cat([cut_points_K.new_zeros(1), cut_points_K[:-1]])
    middle_K = (start_K + cut_points_K) / 2
    time_B1, event_B1 = time_B.unsqueeze(1), event_B.unsqueeze(1)
    is_first_K = start_K == 0
    happened_BK = (
        event_B1 & ((time_B1 > start_K) | ((time_B1 == 0) & is_first_K)) & (time_B1 <= cut_points_K)
    )
    survived_BK = torch.where(event_B1, time_B1 > cut_points_K, time_B1 >= middle_K)
    at_risk_BK = happened_BK | survived_BK
    loss_BK = functional.binary_cross_entropy_with_logits(
        logits_BK, happened_BK.to(logits_BK.dtype), reduction="none"
    )
    return torch.where(at_risk_BK, loss_BK, torch.zeros_like(loss_BK)).sum(dim=1)


def survival_curve(logits_BK: Tensor) -> Tensor:
    """The probability of no event by each cut point, shape (B, K): the product of 1 - hazard."""
    return functional.logsigmoid(-logits_BK).cumsum(dim=1).exp()


def cox_loss(risk_B: Tensor, time_B: Tensor, event_B: Tensor) -> Tensor:
    """The negative log partial likelihood, shape (B,): zero for the censored, and times B / events.

    So its mean over patients is the mean over events. Ties after Breslow.

    Differs from `discrete_time_loss` in that a patient's term depends on all others in the batch:
    it must not be clipped per patient, and no private plan may use it.

    Source: Cox 1972, JRSS B 34:187, section 2; Breslow's ties.
    """
    outlives_BB = time_B.unsqueeze(0) >= time_B.unsqueeze(1)
    at_risk_BB = risk_B.unsqueeze(0).masked_fill(~outlives_BB, float("-inf"))
    term_B = torch.where(event_B, at_risk_BB.logsumexp(dim=1) - risk_B, torch.zeros_like(risk_B))
    num_events = event_B.sum().clamp(min=1)
    return term_B * (len(risk_B) / num_events)
