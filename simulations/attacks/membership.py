"""Membership inference: was this patient among those that the model was trained on?

Two attacks by whoever has the shared model and a patient's whole record: the likelihood ratio of
LiRA, which first trains shadow models of its own, and a threshold on the patient's loss, which
needs nothing. Every model is retrained with and without each patient by the flip of a coin, and is
attacked with all others as shadows.

Letters of shapes: N patients, M models.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from client.data import Cohort
from client.training import to_device
from common.privacy.plan import plan_of
from common.seeds import seed_of
from common.study import Study
from simulations.attacks.finding import Finding
from simulations.attacks.receiver import Interval, separation
from simulations.attacks.retraining import check_retrainable, retrained
from simulations.over_seeds import over_seeds

Floats = NDArray[np.float64]

LIRA = "membership, likelihood ratio (LiRA)"
LOSS_THRESHOLD = "membership, loss threshold"
LIRA_LIMITS = (
    "The attacker has the whole record of each patient, patients like them, the study and its "
    "code, and sees the last model alone, not each hospital's updates. With more shadow models, "
    "or with every round, it could reach more; what it does not reach proves nothing by itself."
)
LOSS_LIMITS = (
    "The weakest attack that there is: it needs the model and the patient's record alone, and "
    "takes every patient who is easy to predict for a member. That it fails says little."
)
# Fixed beforehand: what counts as telling members from others.
MOST_AUC, MOST_HITS = 0.55, 0.02
# A loss of nothing, as float32 tells one.
_LEAST_LOSS = 1e-7
_EVALUATED = 1024


@dataclass(frozen=True, kw_only=True)
class Shadows:
    """Retrained models as an attacker sees them.

    Attributes:
        confidence_MN: of each model in what happened to each patient, on a scale where it is about
            normal; patients of all hospitals, by name of the hospital.
        is_member_MN: whether the model was trained on the patient.
    """

    confidence_MN: Floats
    is_member_MN: NDArray[np.bool_]


def attack_membership(
    study: Study,
    hospitals: Mapping[str, Cohort],
    *,
    num_models: int,
    seed: int,
    jobs: int,
    target: str,
    on_done: Callable[[str], None] = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
) -> list[Finding]:
    """What LiRA and the loss threshold reach against the study's training on these patients.

    An attack counts as successful if the 95 % interval of its AUC lies above .55, or that of its
    hit rate at 1 % false alarms above 2 %: fixed before anything was measured.

    Strength: the strongest membership attack on a released model in common use (LiRA, online, with
    `num_models - 1` shadows), averaged over all models as targets. Limits: `LIRA_LIMITS`,
    `LOSS_LIMITS`.

    Args:
        hospitals: patients by the name of their hospital; each model trains on half of them.
        num_models: 4 or more.
        jobs: processes at once; results do not depend on it.

    Raises:
        StudyError: the study cannot be trained anew (`check_retrainable`).
        ValueError: fewer than 4 models.
    """
    if num_models < 4:
        raise ValueError(f"expected 4 models or more, found {num_models}")
    check_retrainable(study)
    shadows = train_shadows(
        study,
        hospitals,
        num_models=num_models,
        seed=seed,
        jobs=jobs,
        on_done=on_done,
        on_wait=on_wait,
    )
    claimed = max(
        plan_of(study, cohort_size=_half(cohort)).epsilon for cohort in hospitals.values()
    )
    attacks = (
        (LIRA, likelihood_ratios(shadows), LIRA_LIMITS),
        (LOSS_THRESHOLD, shadows.confidence_MN, LOSS_LIMITS),
    )
    findings = []
    for attack, score_MN, limits in attacks:
        reached = separation(score_MN, shadows.is_member_MN, seed=seed)
        findings.append(
            Finding(
                attack=attack,
                target=target,
                measures=_measures(reached) | _sizes(shadows),
                epsilon_claimed=claimed,
                succeeded=tells_members(reached),
                limits=limits,
            )
        )
    return findings


def tells_members(reached: Mapping[str, Interval]) -> bool:
    """Whether an attack counts as successful, by the limits that were fixed beforehand."""
    return reached["auc"].low > MOST_AUC or reached["tpr_at_0.01"].low > MOST_HITS


def train_shadows(
    study: Study,
    hospitals: Mapping[str, Cohort],
    *,
    num_models: int,
    seed: int,
    jobs: int,
    on_done: Callable[[str], None] = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
) -> Shadows:
    """The models, each trained on a random half of the patients of every hospital.

    Guarantees:
        - Whether a patient is in a model is a coin of its own, for each patient and each model.
        - The same arguments give the same shadows, whatever the number of processes.
    """
    work = {
        f"model {number}": partial(_one_model, study, hospitals, number=number, seed=seed)
        for number in range(num_models)
    }
    if jobs == 1:
        rows = []
        for name, train_one in work.items():
            on_wait()
            rows.append(train_one())
            on_done(name)
    else:
        rows = list(over_seeds(work, jobs=jobs, on_done=on_done, on_wait=on_wait).values())
    members = [
        np.concatenate([coin for _, coin in _coins(hospitals, number, seed)])
        for number in range(num_models)
    ]
    return Shadows(confidence_MN=np.stack(rows), is_member_MN=np.stack(members))


def likelihood_ratios(shadows: Shadows) -> Floats:
    """How much likelier each model's confidence is if it was trained on the patient, (M, N), log.

    The distributions of a patient's confidence with and without training on them are normal, with
    the means that the other models show, and one variance each for all patients, as there are few
    shadows. The model under attack is never among its own shadows.

    Source: Carlini et al. 2022, arXiv:2112.03570, algorithm 1 (online), section VI-C for the
    variances.
    """
    confidence_MN, member_MN = shadows.confidence_MN, shadows.is_member_MN
    ratios = []
    for number in range(len(confidence_MN)):
        others = np.arange(len(confidence_MN)) != number
        shadow_MN, in_MN = confidence_MN[others], member_MN[others]
        mean_in_N, spread_in = _normal_of(shadow_MN, in_MN)
        mean_out_N, spread_out = _normal_of(shadow_MN, ~in_MN)
        x_N = confidence_MN[number]
        ratios.append(
            _log_density(x_N, mean_in_N, spread_in) - _log_density(x_N, mean_out_N, spread_out)
        )
    return np.stack(ratios)


def _normal_of(shadow_MN: Floats, chosen_MN: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Each patient's mean over the chosen models, and the deviation from it over all patients.

    A patient without such a model gets the mean of the other models and what a mean differs by.
    """
    count_N = chosen_MN.sum(axis=0)
    total_N = np.where(chosen_MN, shadow_MN, 0.0).sum(axis=0)
    any_N = shadow_MN.mean(axis=0)
    mean_N = np.where(count_N > 0, total_N / np.maximum(count_N, 1), any_N)
    has_both_N = (count_N > 0) & (count_N < len(shadow_MN))
    if has_both_N.any():
        mean_N = np.where(count_N > 0, mean_N, any_N + (mean_N - any_N)[has_both_N].mean())
    squares = np.where(chosen_MN, np.square(shadow_MN - mean_N), 0.0).sum()
    degrees = max(int((count_N - 1).clip(min=0).sum()), 1)
    return mean_N, math.sqrt(max(float(squares) / degrees, 1e-12))


def _log_density(x_N: Floats, mean_N: Floats, deviation: float) -> Floats:
    density_N: Floats = -np.square((x_N - mean_N) / deviation) / 2 - math.log(deviation)
    return density_N


def _coins(
    hospitals: Mapping[str, Cohort], number: int, seed: int
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Who of each hospital is in model `number`, by name of the hospital."""
    return [
        (
            name,
            np.random.default_rng(seed_of(seed, "coin", number, name)).uniform(size=len(c)) < 0.5,
        )
        for name, c in sorted(hospitals.items())
    ]


def _one_model(study: Study, hospitals: Mapping[str, Cohort], *, number: int, seed: int) -> Floats:
    """The confidence (N,) of one model in all patients."""
    chosen = {name: hospitals[name].select(coin) for name, coin in _coins(hospitals, number, seed)}
    sizes = {name: _half(cohort) for name, cohort in hospitals.items()}
    model_seed = seed_of(seed, "model", number)
    model = retrained(study, chosen, seed=model_seed, cohort_sizes=sizes).eval()
    parts = [np.empty(0)]
    for _, cohort in sorted(hospitals.items()):
        patients = to_device(cohort, torch.device("cpu"))
        for index_B in torch.split(torch.arange(len(patients)), _EVALUATED):
            inputs, outcomes = patients.batch(index_B)
            with torch.inference_mode():
                loss_B = model.loss_per_patient(model(inputs), outcomes)
            parts.append(_confidence(loss_B.double().numpy()))
    return np.concatenate(parts)


def _confidence(loss_N: Floats) -> Floats:
    """The logit of the probability that a loss stands for, which is about normal over models.

    Source: Carlini et al. 2022, section V-A.

    >>> _confidence(np.array([math.log(2), math.log(4)])).round(3).tolist()
    [-0.0, -1.099]
    """
    lost_N = np.nan_to_num(loss_N, nan=50.0, posinf=50.0).clip(_LEAST_LOSS, 50.0)
    confidence_N: Floats = -np.log(np.expm1(lost_N))
    return confidence_N


def _half(cohort: Cohort) -> int:
    """The figure that half a hospital's plan follows: public, and none of who was drawn."""
    return max(len(cohort) // 2, 1)


def _measures(reached: Mapping[str, Interval]) -> dict[str, float]:
    return {
        f"{name}{suffix}": value
        for name, interval in reached.items()
        for suffix, value in (
            ("", interval.value),
            ("_low", interval.low),
            ("_high", interval.high),
        )
    }


def _sizes(shadows: Shadows) -> dict[str, float]:
    num_models, num_patients = shadows.confidence_MN.shape
    return {"num_models": float(num_models), "num_patients": float(num_patients)}
