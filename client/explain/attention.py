"""How much the fusion reads from each granularity, mean over groups of held-out patients.

Letters of shapes: B patients, T tokens, G granularities.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.explain.subject import Subject
from common.models.fusion import AttentionFusion
from common.outcomes import ClassOutcome, RegressionOutcome

_BATCH = 512
ITSELF = "(none)"


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Mean attention of one group of patients.

    Attributes:
        weights: by granularity, and `ITSELF` for what the query reads of itself; they add to 1.
    """

    group: str
    num_patients: int
    weights: dict[str, float]


def attention_of(subject: Subject) -> list[Attention]:
    """The mean attention of all held-out patients, then by group of the first outcome.

    Guarantees:
        - Groups below the policy's `smallest_group` are left out.
        - Nothing for a fusion without attention.
    """
    weight_BG = attention_weights(subject)
    if weight_BG is None:
        return []
    names = (ITSELF, *subject.study.granularities)
    groups = {"all held-out patients": np.ones(len(weight_BG), dtype=np.bool_)} | _groups(subject)
    return [
        Attention(
            group=group,
            num_patients=int(chosen_B.sum()),
            weights=dict(zip(names, weight_BG[chosen_B].mean(axis=0).tolist(), strict=True)),
        )
        for group, chosen_B in groups.items()
        if chosen_B.sum() >= subject.smallest_group
    ]


def attention_weights(subject: Subject) -> NDArray[np.float64] | None:
    """What the query reads of itself and of each granularity, shape (B, 1 + G); rows add to 1.

    None for a fusion without attention.
    """
    model = subject.model
    if not isinstance(model.fusion, AttentionFusion):
        return None
    parts = []
    with torch.inference_mode():
        for index_B in torch.split(torch.arange(len(subject.test.patients)), _BATCH):
            inputs, _ = subject.test.patients.batch(index_B)
            parts.append(model.fusion.attention(*model.tokens(inputs)).double().cpu().numpy())
    weight_BT = np.concatenate(parts)
    owners = np.array(model.token_owners)
    by_granularity = [
        weight_BT[:, 1:][:, owners == name].sum(axis=1) for name in subject.study.granularities
    ]
    return np.stack([weight_BT[:, 0], *by_granularity], axis=1)


def _groups(subject: Subject) -> dict[str, NDArray[np.bool_]]:
    """The held-out patients by what became of them, for the first outcome."""
    name, outcome = next(iter(subject.study.outcomes.items()))
    arrays, known_B = subject.test.cohort.outcomes[name], subject.test.known(name)
    if isinstance(outcome, ClassOutcome):
        return {
            f"{name}: {label}": known_B & (arrays["label_B"] == c)
            for c, label in enumerate(outcome.classes)
        }
    if isinstance(outcome, RegressionOutcome):
        value_B = arrays["value_B"]
        middle = float(np.median(value_B[known_B])) if known_B.any() else 0.0
        return {
            f"{name}: up to {middle:g} {outcome.unit}": known_B & (value_B <= middle),
            f"{name}: above {middle:g} {outcome.unit}": known_B & (value_B > middle),
        }
    event_B = arrays["event_B"]
    return {f"{name}: event": known_B & event_B, f"{name}: censored": known_B & ~event_B}
