"""Attribute inference: a patient's value in a granularity that was not handed over.

The attacker has the released model and a patient's other granularities, and beside these either the
patient's true outcomes, or the model's exact predictions from all granularities. He puts the
withheld granularity of each of his own patients in its place, and lets them vote for their own
value of the attribute: by how likely the outcomes then are, or by how near the predictions come.
Against him stands somebody who knows the marginals alone, and says the most frequent value.

Strength: it uses all outcomes, and the joint distribution of the withheld granularity; it needs no
access to training. Exact predictions tell nearly everything that the model depends on.

Limits: it has patients of its own who are like the attacked. No prediction leaves a hospital
through Wardround; whoever hands them out, exact, hands out what they were made of. What is found in
a patient who was not trained on is the relation that the model has learned, not a leak of anybody's
record: no privacy of training can hide that. What privacy of patients bounds is the difference
between those who were trained on and those who were not.

Source: Fredrikson et al. 2014, Privacy in pharmacogenetics, algorithm 1, USENIX Security; Yeom et
al. 2018, Privacy risk in machine learning, experiment 5, arXiv:1709.01604.
Differs from the source in: the rest of the withheld granularity is unknown, too; votes of whole
    records instead of one unknown value at a time; exact predictions, where the attacker has them.

Letters of shapes: V attacked patients, R patients of the attacker, T tokens, D width, W logits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from client.training import Patients, Tensors
from common.granularities import TabularGranularity
from common.models.patient_model import PatientModel
from common.study import Study

LIMITS = (
    "Needs patients of the attacker's own, and outcomes or exact predictions of the attacked. A "
    "relation that the model is for is found in everybody, trained on or not, and no privacy of "
    "training hides it."
)
Told = Literal["outcomes", "predictions"]
# How near predictions must come, in standard deviations over the attacker's patients.
_BANDWIDTH = 0.2


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """What is inferred.

    Attributes:
        granularity: the one that was not handed over.
        feature: a categorical one, or a number that is asked whether it is above the median.
    """

    granularity: str
    feature: str
    is_categorical: bool


def attribute_of(study: Study) -> Attribute | None:
    """The first category, else number, of the study's last table; None without any, or others."""
    tables = [n for n, g in study.granularities.items() if isinstance(g, TabularGranularity)]
    if not tables or len(study.granularities) < 2:
        return None
    granularity = _table(study, tables[-1])
    feature = next(iter([*granularity.categorical, *granularity.numeric]))
    return Attribute(
        granularity=tables[-1], feature=feature, is_categorical=feature in granularity.categorical
    )


def _table(study: Study, name: str) -> TabularGranularity:
    granularity = study.granularities[name]
    if not isinstance(granularity, TabularGranularity):
        raise ValueError(f"expected a tabular granularity, found '{name}'")
    return granularity


def values_of(
    patients: Patients, attribute: Attribute, study: Study, *, median: float
) -> NDArray[np.int64]:
    """The attribute of each patient as a code; -1 where it is not known.

    Args:
        median: of the attacker's patients, where the attribute is a number.
    """
    granularity = _table(study, attribute.granularity)
    arrays = patients.inputs[attribute.granularity]
    present_B = arrays["present_B"].numpy()
    if attribute.is_categorical:
        codes_B = arrays["codes_BK"][:, list(granularity.categorical).index(attribute.feature)]
        return np.where(present_B, codes_B.numpy(), 0) - 1
    f = list(granularity.numeric).index(attribute.feature)
    is_known_B = present_B & arrays["observed_BF"][:, f].numpy()
    return np.where(is_known_B, arrays["numeric_BF"][:, f].numpy() > median, -1).astype(np.int64)


def median_of(patients: Patients, attribute: Attribute, study: Study) -> float:
    """The median of a numeric attribute; 0 of a categorical one, which has none."""
    if attribute.is_categorical:
        return 0.0
    arrays = patients.inputs[attribute.granularity]
    f = list(study.granularities[attribute.granularity].numeric).index(attribute.feature)
    return float(arrays["numeric_BF"][:, f][arrays["observed_BF"][:, f]].median())


@torch.inference_mode()
def infer(
    model: PatientModel,
    attacked: Patients,
    known: Patients,
    known_values: NDArray[np.int64],
    attribute: Attribute,
    *,
    told: Told,
) -> NDArray[np.int64]:
    """The attribute that each attacked patient is guessed to have, shape (V,).

    Guarantees:
        - The withheld granularity of the attacked enters by what is told alone.

    Args:
        known: the attacker's patients.
        known_values: their attribute; those of whom it is -1 do not vote.
        told: what the attacker has of the attacked beside the other granularities.
    """
    model.eval()
    votes_RC = torch.from_numpy(_one_hot(known_values))
    inputs, outcomes = attacked.batch(torch.arange(len(attacked)))
    known_inputs, _ = known.batch(torch.arange(len(known)))
    tokens_VTD, present_VT = model.tokens(inputs)
    known_RTD, known_RT = model.tokens(known_inputs)
    withheld_T = torch.tensor([owner == attribute.granularity for owner in model.token_owners])
    told_VW = model.read_out(tokens_VTD, present_VT)
    guesses = []
    for v in range(len(attacked)):
        mixed_RTD = torch.where(withheld_T[None, :, None], known_RTD, tokens_VTD[v][None])
        mixed_RT = torch.where(withheld_T[None], known_RT, present_VT[v][None])
        tried_RW = model.read_out(mixed_RTD, mixed_RT)
        if told == "predictions":
            log_weight_R = -_distance(tried_RW.double(), told_VW[v].double())
        else:
            labels = _repeated(outcomes, v, len(known))
            log_weight_R = -model.loss_per_patient(tried_RW, labels).double()
        weight_R = torch.exp(log_weight_R - log_weight_R.max())
        guesses.append(int((weight_R[:, None] * votes_RC).sum(dim=0).argmax()))
    return np.array(guesses, dtype=np.int64)


def _distance(tried_RW: Tensor, told_W: Tensor) -> Tensor:
    spread_W = tried_RW.std(dim=0).clamp(min=1e-12)
    return ((tried_RW - told_W) / (_BANDWIDTH * spread_W)).square().mean(dim=1) / 2


def _one_hot(values: NDArray[np.int64]) -> NDArray[np.float64]:
    one_hot: NDArray[np.float64] = (values[:, None] == np.arange(values.max() + 1)).astype(float)
    return one_hot


def _repeated(outcomes: Tensors, v: int, num_times: int) -> dict[str, dict[str, Tensor]]:
    return {
        name: {k: t[v : v + 1].expand(num_times, *t.shape[1:]) for k, t in tensors.items()}
        for name, tensors in outcomes.items()
    }


def hits_of(
    guessed: NDArray[np.int64], truth: NDArray[np.int64], known_values: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whether each patient of known attribute was guessed, by the attack and by the marginals."""
    usual = np.bincount(known_values[known_values >= 0]).argmax()
    is_known = truth >= 0
    hits = (guessed == truth)[is_known].astype(np.float64)
    return hits, (truth == usual)[is_known].astype(np.float64)


def interval_of_mean(by_seed: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The 95 % interval of the mean over seeds, each with a model and patients of its own.

    Student's t over the seeds' means, since patients of one model share its chance; of one seed,
    over its patients, which leaves the chance in training out.
    """
    one = [fmean(values) for values in by_seed] if len(by_seed) > 1 else list(by_seed[0])
    if len(one) < 2:
        return -math.inf, math.inf
    far = float(student.ppf(0.975, len(one) - 1)) * stdev(one) / math.sqrt(len(one))
    return fmean(one) - far, fmean(one) + far
