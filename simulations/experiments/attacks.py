"""Attacks on the points of an experiment: each a piece, made once and kept like a run.

Three kinds: canaries that audit the mechanism of one hospital; membership of the training patients
in models that are trained anew on random halves of them; and what one update of simulated patients
gives away. Inference of a withheld attribute is not among them: no privacy of training prevents it,
so that it says nothing about a point (`wardround experiment attacks` measures it).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from common.errors import WardroundError
from common.study import Study
from simulations.experiments.pieces import Made, Piece
from simulations.read_sites import read_cohorts

Attacks = Literal["none", "audit", "all"]
ATTACKS: tuple[Attacks, ...] = ("none", "audit", "all")
# Each is attacked with all others as its shadows.
NUM_MODELS = 8
# Sets of simulated patients whose updates are attacked.
NUM_SETS = 3


def audit_piece(study: Study, spent: Mapping[str, Any]) -> Piece | None:
    """The audit of the hospital whose patients paid most; None where no run has come to its end.

    Args:
        spent: what a run has cost, by hospital (`simulations.experiments.runs.measure`).
    """
    if not spent:
        return None
    site = max(sorted(spent), key=lambda name: spent[name]["epsilon"])
    size = spent[site]["cohort_size"]
    return Piece(
        name=f"audit-{study.hash[:12]}-patients-{size}", make=partial(_audit, study, size, site)
    )


def attack_pieces(study: Study, sites: Path, *, epsilon: float | None, delta: float) -> list[Piece]:
    """Membership, and what updates give away, of a point.

    Updates are attacked under the point's epsilon, and under none with the same model: where
    nothing is found in either, noise was not what prevented it.

    Args:
        epsilon: all of which one step spends that is attacked; None without privacy.
    """
    # Those without privacy are of no training plan: points of one model share them.
    arms = [None] if epsilon is None else [epsilon, None]
    return [
        Piece(name=f"members-{study.hash[:12]}", make=partial(_members, study, sites)),
        *(
            Piece(
                name=f"updates-{_model_hash(study)}-{_arm_name(arm).replace(' ', '-')}-set-{seed}",
                make=partial(_updates, study, arm, delta, seed),
            )
            for arm in arms
            for seed in range(1, NUM_SETS + 1)
        ),
    ]


def told_of(made: Sequence[Made]) -> list[Mapping[str, Any]]:
    """The findings of a point's attacks as JSON, of several sets together; and each that failed.

    Each has "attack" and "failed", which is "" or a code; if "", also "target", "measures",
    "succeeded" and "limits".
    """
    from simulations.attacks.finding import finding_to_json
    from simulations.attacks.reconstruction import Reconstructions
    from simulations.attacks.summary import findings_of

    told: list[Mapping[str, Any]] = []
    sets = []
    for part in made:
        if part["failed"]:
            # One line, however many sets of patients fail in the same way.
            lost = {"attack": part["attack"], "failed": part["failed"]}
            told += [] if lost in told else [lost]
        elif "findings" in part:
            told += [{**finding, "failed": ""} for finding in part["findings"]]
        else:
            measured = {(m["attack"], m["target"]): m["measures"] for m in part["measured"]}
            sets.append(Reconstructions(seed=part["seed"], measured=measured))
    told += [{**finding_to_json(finding), "failed": ""} for finding in findings_of(sets)]
    return told


def _audit(study: Study, cohort_size: int, site: str, _: Path) -> Made:
    from simulations.attacks.finding import finding_to_json
    from simulations.attacks.gaussian_audit import finding_of
    from simulations.attacks.study_audit import audit_study

    try:
        finding = audit_study(study, finding_of, cohort_size=cohort_size, seed=study.training.seed)
    except WardroundError as error:
        return {"failed": error.code, "site": site}
    return {**finding_to_json(finding), "failed": "", "site": site, "cohort_size": cohort_size}


def _members(study: Study, sites: Path, _: Path) -> Made:
    from simulations.attacks.finding import finding_to_json
    from simulations.attacks.membership import attack_membership

    try:
        cohorts = read_cohorts(study, sites)
        findings = attack_membership(
            study,
            {name: cohort.train for name, cohort in cohorts.items()},
            num_models=NUM_MODELS,
            seed=study.training.seed,
            jobs=1,
            target=f"the shared model of {len(cohorts)} hospitals, half of their patients",
        )
    except WardroundError as error:
        return {"attack": "membership", "failed": error.code}
    return {"findings": [finding_to_json(finding) for finding in findings], "failed": ""}


def _updates(study: Study, epsilon: float | None, delta: float, seed: int, _: Path) -> Made:
    from simulations.attacks.exposure import PLAIN, Protection
    from simulations.attacks.reconstruction import reconstruct

    arm = PLAIN
    if epsilon is not None:
        arm = Protection(name=_arm_name(epsilon), epsilon=epsilon, delta=delta)
    try:
        found = reconstruct(study, [arm], seed=seed)
    except WardroundError as error:
        return {"attack": "reconstruction", "failed": error.code}
    measured = [
        {"attack": attack, "target": target, "measures": dict(measures)}
        for (attack, target), measures in found.measured.items()
    ]
    return {"seed": seed, "measured": measured, "failed": ""}


def _arm_name(epsilon: float | None) -> str:
    return "no privacy" if epsilon is None else f"epsilon {epsilon:g}"


def _model_hash(study: Study) -> str:
    """Equal for studies whose updates are attacked alike: those of one model."""
    from simulations.attacks.exposure import exposed

    return exposed(study, batch_size=1, seed=0).hash[:12]
