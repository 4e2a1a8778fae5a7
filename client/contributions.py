"""How much each granularity contributes to a prediction: exact Shapley values over granularities.

Encoders run once for a patient; only the fusion is asked again, once for every subset of
granularities.

Letters of shapes: B patients, G granularities, T tokens, W logits, S subsets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import factorial
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from client.recalibration import add_intercept
from client.training import Patients
from common.models.patient_model import PatientModel
from common.outcomes import AnyOutcome, ClassOutcome, RegressionOutcome
from common.study import Study
from common.subsets import subsets_of

Floats = NDArray[np.float64]

# 2^12 fusions of a patient; a study with more granularities would take hours.
MOST_GRANULARITIES = 12
_SMALLEST_SCORE = 1e-12
_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """What the score of each patient is made of, for one outcome.

    Attributes:
        nothing_B: the score without any granularity.
        granularities_BG: what each granularity adds to it.
        site_B: what the site's own intercept adds to it.
    """

    nothing_B: Floats
    granularities_BG: Floats
    site_B: Floats


def contributions(
    model: PatientModel,
    patients: Patients,
    study: Study,
    intercepts: Mapping[str, Floats] = MappingProxyType({}),
) -> dict[str, Contributions]:
    """What the score of each patient is made of, by outcome.

    Guarantees:
        - They add up: score without any + sum over granularities + site = score of the patient.
        - An absent granularity contributes exactly 0, and so does a site without an intercept.

    The score of a patient is, by kind of outcome: the log odds of the second class (binary) or of
    the predicted class (multiclass); the value, in its unit; the mean probability of the event by
    the cut points (survival).

    Source: Shapley 1953; as in Lundberg and Lee 2017, equation 4, over granularities.

    Args:
        intercepts: the site's own, of outcomes of classes; the site joins last, after all
            granularities.

    Raises:
        ValueError: more than `MOST_GRANULARITIES`.
    """
    num_granularities = len(study.granularities)
    if num_granularities > MOST_GRANULARITIES:
        raise ValueError(f"expected at most {MOST_GRANULARITIES} granularities")
    subsets = subsets_of(range(num_granularities))
    scores = _scores(model, patients, study, subsets, intercepts)
    return {
        name: Contributions(
            nothing_B=score_SB[0],
            granularities_BG=_shapley(score_SB, subsets, num_granularities),
            site_B=score_SB[-1] - score_SB[-2],
        )
        for name, score_SB in scores.items()
    }


def _scores(
    model: PatientModel,
    patients: Patients,
    study: Study,
    subsets: list[tuple[int, ...]],
    intercepts: Mapping[str, Floats],
) -> dict[str, Floats]:
    """The score of each patient predicted from each subset, and from all and the site, (S+1, B)."""
    model.eval()
    parts: dict[str, list[Floats]] = {name: [] for name in study.outcomes}
    places = {name: place for place, name in enumerate(study.granularities)}
    owner_T = torch.tensor([places[owner] for owner in model.token_owners])
    with torch.inference_mode():
        for index_B in torch.split(torch.arange(len(patients)), _BATCH):
            inputs, _ = patients.batch(index_B)
            tokens_BTD, present_BT = model.tokens(inputs)
            predicted = []
            for subset in subsets:
                shown_T = torch.isin(owner_T, torch.tensor(subset, dtype=torch.long))
                shown_BT = present_BT & shown_T.to(present_BT.device)
                predicted.append(model.predictions(model.read_out(tokens_BTD, shown_BT)))
            for name, outcome in study.outcomes.items():
                predicted_SBP = torch.stack([p[name] for p in predicted]).cpu().numpy()
                last_BP = predicted_SBP[-1]
                if name in intercepts:
                    last_BP = add_intercept(last_BP, intercepts[name])
                parts[name].append(_score(np.concatenate([predicted_SBP, last_BP[None]]), outcome))
    return {name: np.concatenate(score, axis=1) for name, score in parts.items()}


def _score(predicted_SBP: Floats, outcome: AnyOutcome) -> Floats:
    """One number for each subset and patient, (S, B)."""
    if isinstance(outcome, RegressionOutcome):
        return predicted_SBP[:, :, 0]
    if not isinstance(outcome, ClassOutcome):
        risk_SB: Floats = 1 - predicted_SBP.mean(axis=2)
        return risk_SB
    if outcome.kind == "binary":
        class_B = np.ones(predicted_SBP.shape[1], dtype=np.int64)
    else:
        class_B = predicted_SBP[-1].argmax(axis=1)
    p_SB = predicted_SBP[:, np.arange(predicted_SBP.shape[1]), class_B]
    p_SB = np.clip(p_SB, _SMALLEST_SCORE, 1 - _SMALLEST_SCORE)
    log_odds_SB: Floats = np.log(p_SB) - np.log1p(-p_SB)
    return log_odds_SB


def _shapley(score_SB: Floats, subsets: list[tuple[int, ...]], num: int) -> Floats:
    """What each granularity adds, shape (B, G): its mean over all orders of joining."""
    place = {subset: i for i, subset in enumerate(subsets)}
    value_BG = np.zeros((score_SB.shape[1], num))
    for subset in subsets:
        size = len(subset)
        for g in set(range(num)) - set(subset):
            weight = factorial(size) * factorial(num - size - 1) / factorial(num)
            joined = place[tuple(sorted((*subset, g)))]
            value_BG[:, g] += weight * (score_SB[joined] - score_SB[place[subset]])
    return value_BG
